"""Mathematics in its own processes: as math-verify judges, and never longer than allowed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import math_verify
import pytest
import pytest_asyncio

from server.training.graders.grade import GraderError, Sample, grade_row
from server.training.graders.math_grader import MathGrader, MathSpec
from server.training.graders.math_pool import MathPool

# Mathematics as MATH, GSM8K and AIME have it, right and wrong.
PAIRS = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", "1/3"),
    ("1234", "1,234"),
    ("1234", "1234.0"),
    ("1234", "1235"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\sqrt{8}", r"3\sqrt{2}"),
    (r"x^2+2x+1", r"(x+1)^2"),
    (r"x^2+2x+1", r"(x-1)^2"),
    (r"\{1,2,3\}", r"\{3,2,1\}"),
    ("(1,2)", "(2,1)"),
    (r"(1, 2)", r"\left(1, 2\right)"),
    (r"\frac{\pi}{4}", r"0.25\pi"),
    (r"50\%", "0.5"),
    (r"10^{-3}", "0.001"),
    (r"[0, \infty)", r"[0,\infty)"),
    ("x=5", "5"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ("-7", "7"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[MathPool]:
    pool = MathPool(processes=1, timeout_s=20)
    yield pool
    await pool.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty() -> AsyncIterator[MathPool]:
    """Gives up after a second."""
    pool = MathPool(processes=1, timeout_s=1)
    yield pool
    await pool.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


def grader(pool: MathPool, **fields: object) -> MathGrader:
    return MathGrader(MathSpec.model_validate({"type": "math", "reference": "{{item.answer}}", **fields}), pool)


@pytest.mark.parametrize(("reference", "answer"), PAIRS)
async def test_equality_is_what_math_verify_says_of_the_whole_completion(
    pool: MathPool, reference: str, answer: str
) -> None:
    completion = f"Therefore the answer is \\boxed{{{answer}}}."
    expected = math_verify.verify(
        math_verify.parse(f"\\boxed{{{reference}}}"), math_verify.parse(completion), timeout_seconds=20
    )

    grade = await grader(pool).grade(Sample.of_text(completion), {"answer": reference})

    assert grade.passes == expected
    assert grade.detail == {"extractor": "boxed", "answer": answer, "reference": reference}


@pytest.mark.parametrize("number", ["1.6e-3", "1.6E-3", "-2e4", "5e+2", "3.0e8"])
async def test_numbers_as_programs_write_them_are_numbers(pool: MathPool, number: str) -> None:
    mantissa, exponent = number.lower().split("e")
    for written in (repr(float(number)), f"{mantissa} \\times 10^{{{int(exponent)}}}"):
        for reference, answer in ((number, written), (written, number)):
            right, wrong = (Sample.of_text(f"\\boxed{{{answer}{more}}}") for more in ("", " + 1"))
            assert (await grader(pool).grade(right, {"answer": reference})).score == 1, (reference, answer)
            assert (await grader(pool).grade(wrong, {"answer": reference})).score == 0, (reference, answer)


async def test_a_worked_solution_may_be_the_reference(pool: MathPool) -> None:
    gsm8k = {"answer": "Natalia sold 48/2 = <<48/2=24>>24 clips.\n48+24 = 72\n#### 72"}

    grade = await grader(pool).grade(Sample.of_text("In all she sold 72 clips."), gsm8k)

    assert grade.score == 1
    assert grade.detail == {"extractor": "last_number", "answer": "72", "reference": "72"}


async def test_the_fallback_to_the_last_number_can_be_forbidden(pool: MathPool) -> None:
    strict = grader(pool, extract=["boxed"])

    grade = await strict.grade(Sample.of_text("it is 72"), {"answer": "72"})

    assert (grade.score, grade.passes, grade.detail["extractor"]) == (0, False, None)
    assert grade.sought == ("boxed",)
    assert (await strict.grade(Sample.of_text(r"it is \boxed{72}"), {"answer": "72"})).sought == ()


@pytest.mark.parametrize(
    ("reference", "answer", "passes"),
    [
        ("Paris", "paris", True),
        ("Paris", "pairs", False),
        ("18", "18 dollars", True),
        ("C", "C", True),
        ("C", "B", False),
    ],
)
async def test_words_are_texts_and_not_products_of_variables(
    pool: MathPool, reference: str, answer: str, passes: bool
) -> None:
    grade = await grader(pool).grade(Sample.of_text(f"\\boxed{{{answer}}}"), {"answer": reference})

    assert grade.passes is passes


@pytest.mark.parametrize("endless", [r"9^{9^{9^{9}}}", "10000000000!", r"\sum_{n=1}^{10^{12}} \sin(n^n)"])
async def test_an_answer_that_never_ends_is_wrong_and_the_next_one_is_graded(hasty: MathPool, endless: str) -> None:
    wrong = await grader(hasty).grade(Sample.of_text(f"\\boxed{{{endless}}}"), {"answer": "3"})
    after = await grader(hasty).grade(Sample.of_text(r"\boxed{3}"), {"answer": "3"})

    assert wrong.passes is False
    assert "not_compared" in wrong.detail
    assert after.passes is True


async def test_answers_that_never_end_are_waited_for_by_their_tenant(hasty: MathPool) -> None:
    wait = asyncio.create_task
    endless = [wait(hasty.equal("1", r"9^{9^{9^{9}}}", "acme")) for _ in range(8)]
    async with asyncio.timeout(60):
        verdicts = await asyncio.gather(*(hasty.equal("1", "1.0", "globex") for _ in range(8)))

    assert all(verdicts)
    assert sum(one.done() for one in endless) <= 3
    for one in endless:
        one.cancel()
    await asyncio.gather(*endless, return_exceptions=True)


async def test_an_answer_is_never_read_by_another_caller(pool: MathPool) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.equal("3", r"\int_0^1 \sin(\sin(x^x)) dx"), 0.2)

    verdicts = await asyncio.gather(*(pool.equal(str(n), str(n % 3)) for n in range(6)))

    assert verdicts == [True, True, True, False, False, False]


async def test_long_answers_are_not_compared_and_hostile_ones_are_survived(pool: MathPool) -> None:
    for answer in ("1" * 2000, "(" * 90, "\\frac" * 18, "\x00", "\\input{/etc/passwd}"):
        grade = await grader(pool).grade(Sample.of_text(f"\\boxed{{{answer}}}"), {"answer": "3"})
        assert grade.passes is False


@pytest.mark.parametrize("answer", ["", "  ", "\\boxed{" + "x" * 2000 + "}"])
async def test_a_row_without_a_usable_reference_is_an_error(pool: MathPool, answer: str) -> None:
    with pytest.raises(GraderError, match="the reference answer has"):
        await grader(pool).grade(Sample.of_text("1"), {"answer": answer})


async def test_a_pool_that_was_closed_starts_again(pool: MathPool) -> None:
    await pool.close()

    assert await pool.equal("1/2", "0.5")


async def test_an_installation_that_cannot_compare_is_no_wrong_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    grade = await grade_row(grader(MathPool()), Sample.of_text("1"), {"answer": "1"}, row=3)

    assert grade.error is not None and grade.error.is_outage
    assert grade.error.message.startswith("grader 'math', row 3: ")
