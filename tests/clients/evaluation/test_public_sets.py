"""Public sets, read by the package `datasets` from small copies of their repositories, with the columns of those."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from clients.evaluation.public_sets import MATH_SUBJECTS, PUBLIC_SETS, STEP_BY_STEP, RowsError, public_rows
from server.launch.cli import cli
from server.training.graders.build import GraderTools, parse_spec
from server.training.graders.grade import Sample
from server.training.graders.math_pool import MathPool
from server.training.worker.dataset import read_rows

GRADER = {"type": "math", "name": "math", "reference": "{{ item.answer }}"}
Rows = Sequence[dict[str, Any]]


def write(copies: Path, repository: str, files: dict[tuple[str, str], Rows], kind: str = "parquet") -> None:
    """A copy of a repository: of each (config, split) one file, and the card that names them."""
    directory = copies / repository
    configs: dict[str, list[str]] = {}
    for (config, split), rows in files.items():
        file = directory / config / f"{split}-00000-of-00001.{kind}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        configs.setdefault(config, []).append(f"  - split: {split}\n    path: {config}/{split}-*")
    card = "".join(
        f"- config_name: {name}\n  data_files:\n" + "\n".join(parts) + "\n" for name, parts in configs.items()
    )
    (directory / "README.md").write_text(f"---\nconfigs:\n{card}---\n")


def math_row(number: int, level: str) -> dict[str, Any]:
    solution = f"We see that it is $\\boxed{{\\frac{{{number}}}{{2}}}}$."
    return {"problem": f"Problem {number}?", "level": level, "type": "Algebra", "solution": solution}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copies = tmp_path_factory.mktemp("copies")
    gsm8k = [
        {"question": f"How many are {n} and 1?", "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"}
        for n in range(5)
    ]
    write(copies, "openai/gsm8k", {("main", "train"): gsm8k[:3], ("main", "test"): gsm8k[3:]})
    subjects: dict[tuple[str, str], Rows] = {}
    for place, subject in enumerate(MATH_SUBJECTS):
        subjects[subject, "train"] = [math_row(10 * place + 1, "Level 2"), math_row(10 * place + 2, "Level 3")]
        subjects[subject, "test"] = [math_row(10 * place + 3, "Level 5"), math_row(10 * place + 4, "Level ?")]
    write(copies, "EleutherAI/hendrycks_math", subjects)
    math500 = [
        {"problem": " Problem 3?", "solution": "It is $\\boxed{\\frac{3}{2}}$.", "answer": "\\frac{3}{2}",
         "subject": "Algebra", "level": 5,
         "unique_id": "test/algebra/3.json"}
    ]  # fmt: skip
    write(copies, "HuggingFaceH4/MATH-500", {("default", "test"): math500}, "jsonl")
    aime = {"id": 60, "problem": "Find $n$.", "solution": "$n=204$", "answer": "204", "url": "u", "year": "2024"}
    write(copies, "HuggingFaceH4/aime_2024", {("default", "train"): [aime]})
    write(
        copies, "math-ai/amc23", {("default", "test"): [{"id": 0, "question": "Cities?", "answer": "27.0", "url": "u"}]}
    )
    write(copies, "math-ai/minervamath", {("default", "test"): [{"question": "At sea?", "answer": "1.6e-3"}]}, "jsonl")
    olympiad = {
        "id": 1,
        "question": "Solve.",
        "solution": ["$x=2$"],
        "final_answer": ["$2$"],
        "is_multiple_answer": False,
    }
    write(copies, "math-ai/olympiadbench", {("default", "test"): [olympiad]})
    return copies


def test_every_set_is_rows_that_the_server_reads_and_grades(copies: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["data", *PUBLIC_SETS, "-o", str(tmp_path), "--copies", str(copies)])
    assert done.exit_code == 0, done.output
    counts = {"gsm8k-train": 3, "gsm8k": 2, "math-train": 14, "math-hard": 13}
    spec = parse_spec(GRADER)
    for name, known in PUBLIC_SETS.items():
        assert f"{name}: {counts.get(name, 1)} rows of {known.path}, licence: {known.licence}" in done.output
        with (tmp_path / f"{name}.jsonl").open("rb") as file:
            rows = list(read_rows(file, "reinforcement", variables=spec.item_variables()))
        assert len(rows) == counts.get(name, 1)


@pytest.mark.parametrize(
    ("name", "question", "right", "wrong"),
    [
        ("gsm8k-train", "How many are 0 and 1?", "\\boxed{1}", "\\boxed{0}"),
        ("gsm8k", "How many are 3 and 1?", "so \\boxed{4.0}", "\\boxed{5}"),
        ("math-train", "Problem 1?", "\\boxed{0.5}", "\\boxed{2}"),
        ("math500", " Problem 3?", "\\boxed{1.5}", "\\boxed{\\frac{2}{3}}"),
        ("minerva", "At sea?", "\\boxed{0.0016}", "\\boxed{0.016}"),
        ("olympiad", "Solve.", "\\boxed{2}", "\\boxed{3}"),
        ("aime24", "Find $n$.", "\\boxed{204}", "\\boxed{240}"),
        ("amc23", "Cities?", "\\boxed{27}", "\\boxed{72}"),
    ],
)
async def test_the_right_answer_to_a_row_is_right(
    copies: Path, name: str, question: str, right: str, wrong: str
) -> None:
    row = public_rows(name, 1, copies)[0]
    assert row["messages"] == [{"role": "user", "content": question + STEP_BY_STEP}]
    tools = GraderTools(MathPool())
    try:
        grader = tools.build(parse_spec(GRADER))
        for answer, reward in ((right, 1), (wrong, 0)):
            assert (await grader.grade(Sample.of_text(answer), row)).score == reward, row["answer"]
    finally:
        await tools.close()


def test_the_hard_problems_are_of_levels_3_to_5_and_not_in_the_test(copies: Path) -> None:
    problems = {
        row["messages"][0]["content"].removesuffix(STEP_BY_STEP) for row in public_rows("math-hard", None, copies)
    }
    expected = {10 * place + n for place in range(len(MATH_SUBJECTS)) for n in (2, 3)} - {3}
    assert problems == {f"Problem {number}?" for number in expected}


def test_what_is_missing_is_said(copies: Path, tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=f"gsm8k could not be read from {tmp_path}/openai/gsm8k"):
        public_rows("gsm8k", None, tmp_path)
    write(tmp_path, "HuggingFaceH4/MATH-500", {("default", "test"): [{"question": "x", "answer": "1"}]})
    with pytest.raises(RowsError, match="has no column problem any more, only question, answer"):
        public_rows("math500", None, tmp_path)
    done = CliRunner().invoke(cli, ["data", "gsm9k"])
    assert done.exit_code == 1 and "there is no public set 'gsm9k'; those are gsm8k-train, gsm8k," in done.output


def test_programs_read_what_was_written(copies: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["data", "gsm8k", "math500", "-o", str(tmp_path), "--copies", str(copies), "--json"])
    gsm8k, math500 = json.loads(done.stdout)
    assert gsm8k == {
        "name": "gsm8k", "file": f"{tmp_path}/gsm8k.jsonl", "rows": 2, "source": "openai/gsm8k", "licence": "MIT",
    }  # fmt: skip
    assert len(Path(math500["file"]).read_text().splitlines()) == math500["rows"]
