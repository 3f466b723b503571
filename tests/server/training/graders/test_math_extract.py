"""Where answers are found in completions, and which extractor found them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.training.graders.math_extract import ALL, Answer, extract


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{34}", Answer("34", "boxed")),
        (r"\boxed{1} no, \boxed{\frac{1}{2}}.", Answer(r"\frac{1}{2}", "boxed")),
        (r"\boxed {5}", Answer("5", "boxed")),
        (r"\fbox{6}", Answer("6", "boxed")),
        (r"\boxed{\{1, 2\}}", Answer(r"\{1, 2\}", "boxed")),
        (r"\boxed{7} then 99", Answer("7", "boxed")),
        (r"\boxed{7 is cut off, #### 8", Answer("8", "hashes")),
        (r"first \boxed{3}, then \boxed{4", Answer("3", "boxed")),
        (r"\boxed{} 5", Answer("5", "last_number")),
        ("She has 3.\n#### 18\nBye 4", Answer("18", "hashes")),
        ("#### 1\n#### 2", Answer("2", "hashes")),
        ("####\n1,234 apples", Answer("1,234 apples", "hashes")),
        ("#### 5\nand ####", Answer("5", "hashes")),
        ("#### Step 1: add\n3 + 4 = 7\n#### Final Answer\nIt is 7.", Answer("7", "last_number")),
        ("#### **Step-by-step**\n3 + 4\n#### **7**\nDone.", Answer("**7**", "hashes")),
        ("#### Step 2: double 3\n\n", Answer("Step 2: double 3", "hashes")),
        ("#### Final answer: 42\nCheck: 40 + 3 - 1", Answer("Final answer: 42", "hashes")),
        ("#### **The answer is:** x\nBye 1", Answer("**The answer is:** x", "hashes")),
        ("#### Answer: there are 4 left\nBye 1", Answer("Answer: there are 4 left", "hashes")),
        ("#### Check if the answer is right\nIt is 7.", Answer("7", "last_number")),
        ("#### Answer:\nIt is 7.", Answer("7", "last_number")),
        ("#### 1. Add the numbers\n3 + 4\n#### Conclusion\nIt is 7.", Answer("7", "last_number")),
        ("#### **(2) Add**\n3 + 4\n#### 3) So\nIt is 7.", Answer("7", "last_number")),
        ("#### 18.\nBye 1", Answer("18.", "hashes")),
        ("#### 18 apples\nBye 1", Answer("18 apples", "hashes")),
        ("#### B) Paris\nBye 1", Answer("B) Paris", "hashes")),
        ("#### x = 5\nBye", Answer("x = 5", "hashes")),
        ("#### sqrt(2)\nBye", Answer("sqrt(2)", "hashes")),
        ("it is 1,234.5 dollars", Answer("1,234.5", "last_number")),
        ("from 3 to -4.", Answer("-4", "last_number")),
        ("about 3/4", Answer("3/4", "last_number")),
        ("12% of it", Answer("12%", "last_number")),
        ("x2 is no number, nor is v1.2", None),
        ("no answer at all", None),
        ("", None),
    ],
)
def test_answers_and_extractors(text: str, answer: Answer | None) -> None:
    assert extract(text) == answer


def test_only_the_extractors_asked_for_look() -> None:
    text = r"12 and \boxed{34}"

    assert extract(text, ("last_number",)) == Answer("34", "last_number")
    assert extract("the answer is 12", ("boxed", "hashes")) is None
    assert extract(r"#### 1 \boxed{2}", ("hashes", "boxed")) == Answer(r"1 \boxed{2}", "hashes")


@given(
    st.integers(-(10**12), 10**12), st.text(alphabet=st.characters(exclude_characters="0123456789#\\{}"), max_size=30)
)
def test_an_integer_is_found_however_it_is_written(number: int, prose: str) -> None:
    assert extract(f"{prose} \\boxed{{{number}}} {prose}") == Answer(str(number), "boxed")
    assert extract(f"{prose}\n#### {number}\n") == Answer(str(number), "hashes")
    assert extract(f"{prose} = {number:,}.") == Answer(f"{number:,}", "last_number")


@given(st.text(alphabet="\\boxed{} #1,./-%", max_size=200))
def test_any_text_has_an_answer_or_none(text: str) -> None:
    found = extract(text)

    assert found is None or (found.text and found.extractor in ALL)


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 50_000,
        "1," * 100_000,
        "{" * 300_000,
        "#" * 300_000,
        "#### so\n" * 40_000,
        "#### so answer: " + "answer: " * 40_000 + "\n.",
        "9" * 300_000,
    ],
)
def test_hostile_texts_take_no_longer_than_others(text: str) -> None:
    extract(text)
