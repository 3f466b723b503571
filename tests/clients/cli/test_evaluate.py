"""The command `tinylora eval` against the gateway on a socket, whose engine is right as often as its model says."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from adapters.factors.factors import Factors
from server.launch.cli import cli
from tests.clients.cli.pipe import piped
from tests.server.support.fake_engine import BASE, ChatRequest, FakeEngine
from tinylora_client import TinyLoRA

ROWS = 12
ANSWERS = {"right": "The answer is {}.", "boxed": "\\boxed{{{}}}, not 99", "wrong": "99", "none": "I do not know"}
# What the samples of a row are, one after another.
OF_BASE = ("wrong", "right", "none")
OF_ADAPTER = ("right", "wrong", "boxed")


class AddingEngine(FakeEngine):
    """Adds two numbers, each sample in its own way; an odd row is one sample ahead."""

    def mount(self, app: FastAPI) -> None:
        app.add_api_route("/v1/chat/completions", self._add, methods=["POST"])

    async def _add(self, body: dict[str, Any]) -> dict[str, Any]:
        self.received.append(ChatRequest(**body))
        first, second = map(int, re.findall(r"\d+", body["messages"][-1]["content"]))
        ways = OF_ADAPTER if self._active.get() else OF_BASE
        choices = []
        for index in range(body["n"]):
            text = ANSWERS[ways[(index + first) % len(ways)]].format(first + second)
            message = {"role": "assistant", "content": text}
            choices.append({"index": index, "finish_reason": "stop", "message": message})
        usage = {"prompt_tokens": 3, "completion_tokens": 4 * body["n"], "total_tokens": 3 + 4 * body["n"]}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return {**head, "choices": choices, "usage": usage}


@pytest.fixture
def engine(factors: Factors) -> FakeEngine:
    return AddingEngine(factors)


@pytest.fixture
def data(tmp_path: Path, base_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows, on which an adapter is evaluated too."""
    monkeypatch.setenv("TINYLORA_URL", base_url)
    TinyLoRA(base_url=base_url).adapters.upload("acme/adds", [0.5] * 13)
    file = tmp_path / "rows.jsonl"
    question = "What is {} + {}?"
    rows = [
        {
            "messages": [{"role": "user", "content": question.format(number % 2, number)}],
            "answer": str(number % 2 + number),
        }
        for number in range(ROWS)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["eval", *map(str, arguments)])
    assert result.exit_code == code, result.output
    # A sentence and a status, or what went wrong would be a traceback.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_greedy_accuracies_and_the_gain_on_the_same_rows(data: Path) -> None:
    found = json.loads(run(data, "--adapter", "acme/adds", "--json").stdout)
    base, adapter = found["models"]
    assert (base["model"], adapter["model"]) == (BASE, "acme/adds@1")
    # Even rows get the first way, odd rows the second.
    assert (base["pass_at_1"]["mean"], adapter["pass_at_1"]["mean"]) == (0.5, 0.5)
    assert adapter["better_than_base"]["mean"] == 0.0
    assert adapter["better_than_base"]["standard_error"] == pytest.approx((1 / (ROWS - 1)) ** 0.5)
    assert (found["rows"], base["tokens_mean"]) == (ROWS, 4)
    assert found["grader"]["extract"], "where answers are looked for belongs to the result"


def test_samples_of_every_row_and_what_most_of_them_say(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    run(data, "--adapter", "acme/adds", "-k", 3, "-o", output)
    found = json.loads(output.read_text())
    base, adapter = found["models"]
    assert base["pass_at_1"]["mean"] == pytest.approx(1 / 3)
    assert base["pass_at_1"]["standard_error"] == pytest.approx(0)
    assert adapter["pass_at_1"]["mean"] == pytest.approx(2 / 3)
    # One right and one wrong answer each: the earlier wins, which is the wrong one in even rows.
    assert (base["majority_at_3"]["mean"], adapter["majority_at_3"]["mean"]) == (0.5, 1.0)
    assert [sample["answer"] for sample in found["answers"][BASE][0]] == ["99", "0", None]


def test_table_says_how_was_measured_and_the_chart_has_a_bar_of_each(data: Path, tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    result = run(data, "--adapter", "acme/adds", "-k", 3, "--limit", 4, "--plot", chart)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["model", BASE, "acme/adds@1"]
    assert "66.7 ± 0.0" in result.stdout and "+33.3" in result.stdout
    assert "4 rows" in result.stderr and "boxed" in result.stderr and "temperature 1" in result.stderr
    titles = [title.text for title in ElementTree.parse(chart).iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [BASE, "acme/adds@1"]


@pytest.mark.parametrize("flag", ["--output", "--plot"])
def test_what_cannot_be_written_is_said_before_the_first_answer(
    data: Path, tmp_path: Path, engine: FakeEngine, flag: str
) -> None:
    file = tmp_path / "runs" / "today"
    assert f"{file} cannot be written: No such file or directory" in run(data, flag, file, code=1).stderr
    assert f"{tmp_path} cannot be written: Is a directory" in run(data, flag, tmp_path, code=1).stderr
    assert engine.received == []


def test_a_disk_that_is_full_in_the_end_costs_no_table(data: Path) -> None:
    result = run(data, "--output", "/dev/full", code=1)
    assert BASE in result.stdout and "/dev/full cannot be written: No space left on device" in result.stderr


def test_rows_that_are_piped(data: Path, tmp_path: Path) -> None:
    with piped(tmp_path / "63", data.read_bytes()) as pipe:
        assert json.loads(run(pipe, "--json").stdout)["rows"] == ROWS


def test_the_chat_template_is_given_what_the_job_gave_it(data: Path, engine: FakeEngine) -> None:
    kwargs = {"enable_thinking": False}
    flags = ("--limit", 1, "--json", "--chat-template-kwargs")
    found = json.loads(run(data, *flags, json.dumps(kwargs)).stdout)
    (received,) = engine.received
    assert received.model_dump()["chat_template_kwargs"] == kwargs
    assert found["sampling"]["chat_template_kwargs"] == kwargs, "without it the figures cannot be compared"
    assert "is '{', which is not JSON" in run(data, *flags, "{", code=1).stderr
    assert "is '[1]', expected an object" in run(data, *flags, "[1]", code=1).stderr


def test_grader_of_ones_own_and_answers_that_it_cannot_grade(data: Path, tmp_path: Path) -> None:
    grader = tmp_path / "grader.json"
    exact = {"type": "string_check", "input": "{{ sample.output_text }}", "reference": "99", "operation": "eq"}
    grader.write_text(json.dumps(exact))
    assert json.loads(run(data, "--grader", grader, "--json").stdout)["models"][0]["pass_at_1"]["mean"] == 0.5
    grader.write_text(json.dumps({**exact, "reference": "{{ item.missing }}"}))
    result = run(data, "--grader", grader)
    assert f"{ROWS} answers could not be graded" in result.stderr and "item.missing" in result.stderr


def test_mistakes_are_sentences(data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "1 + 1"}]}\n{"messages": []}\n')
    assert f"{bad}, line 2: " in run(bad, code=1).stderr
    bad.write_bytes(b'{"messages": [{"role": "user", "content": "\xff"}]}\n')
    assert f"{bad} cannot be read: 'utf-8' codec" in run(bad, code=1).stderr
    assert "no file nothing" in run("nothing", code=1).stderr
    assert "greedy samples are all the same" in run(data, "-k", 2, "--temperature", 0, code=1).stderr
    assert "'acme/none'" in run(data, "--adapter", "acme/none", code=1).stderr
    assert "nothing to evaluate" in run(data, "--no-base", code=1).stderr
    assert "no answer of a TinyLoRA server" in run(data, "--url", "http://127.0.0.1:9", code=1).stderr
    grader = tmp_path / "grader.json"
    grader.write_text('{"type": "guess"}')
    assert "grader.type is 'guess'" in run(data, "--grader", grader, code=1).stderr
    played = {"type": "environment", "name": "game"}
    multi = {"type": "multi", "graders": {"game": played}, "calculate_output": "game"}
    for asked in (played, multi, {"grader": played, "environment": {"url": "https://example.com"}}):
        grader.write_text(json.dumps(asked))
        assert "tinylora eval plays none" in run(data, "--grader", grader, code=1).stderr
