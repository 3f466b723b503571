"""Training data: rows of a JSONL file, checked one by one, and the order in which they are trained on.

    reinforcement, evolution   {"messages": [..., {"role": "user", ...}], "answer": "34"}   other keys: grader's `item`
    supervised                 {"messages": [..., {"role": "assistant", ...}]}              other keys are refused

Design decision: every order is a sort by SHA-256 of (seed, purpose, index), not random.shuffle: it is the same on every
machine and Python version, and the batch of a step is known without drawing those before it.

A file is read as a stream, line by line; a row records where its line is, and nothing is kept or tokenized here.
chat_format.py has the fields of messages and tools.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO

from server.core.errors import BadRequest, quoted
from server.core.json_text import InvalidJson, parse_json
from server.training.files.lines import BOM, MAX_LINE_BYTES
from server.training.graders.template import Variable
from server.training.jobs.config import Method
from server.training.worker.chat_format import (
    FormatError,
    calls_of,
    check_message,
    is_trained,
    tools_of,
    without_empty,
)

RESERVED_KEYS = ("messages", "tools")
SUPERVISED_KEYS = ("messages", "tools", "parallel_tool_calls", "functions")
_LAST_ROLE: Mapping[Method, str] = {"reinforcement": "user", "evolution": "user", "supervised": "assistant"}


class DataError(BadRequest):
    """A file that cannot be trained on: the line (from 1; 0: the whole file), what was found, what was expected."""

    def __init__(self, line: int, what: str, expected: str, *, param: str = "training_file") -> None:
        where = f"line {line}" if line else "the file"
        super().__init__(f"{param}: {where}: {what}; expected {expected}", param=param, code="invalid_training_file")
        self.line = line
        self.what = what
        self.expected = expected


@dataclass(frozen=True, slots=True)
class DataLimits:
    """Upper limits: bytes of one line, rows in a file, messages in a row."""

    line_bytes: int = MAX_LINE_BYTES
    rows: int = 50_000
    messages: int = 256


@dataclass(frozen=True, slots=True)
class Row:
    """The row on line `line` (from 1).

    messages: as chat completions take them. item: every key that is not reserved, for the grader.
    start, length: the place of the line in the file, in bytes.
    """

    line: int
    messages: Sequence[Mapping[str, Any]]
    item: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]] = ()
    start: int = 0
    length: int = 0


def read_rows(
    file: BinaryIO,
    purpose: Method,
    *,
    variables: Collection[Variable] = (),
    limits: DataLimits | None = None,
    param: str = "training_file",
) -> Iterator[Row]:
    """The rows of `file`, each checked; every row must have the grader's `variables` (`GraderSpec.item_variables`).

    Skips empty lines. Raises DataError at the first line that cannot be used, and at the end of a file without rows.
    """
    limits = limits or DataLimits()
    rows = number = end = 0
    while line := file.readline(limits.line_bytes + 1):
        number += 1
        start, end = end, end + len(line)
        try:
            if number == 1:
                line = line.removeprefix(BOM)
            if len(line) > limits.line_bytes:
                raise FormatError("it is too long", f"at most {limits.line_bytes} bytes")
            if not line.strip():
                continue
            if (rows := rows + 1) > limits.rows:
                raise FormatError("there are more rows", f"at most {limits.rows}")
            row = read_row(number, line, purpose, limits)
            _check_variables(row.item, variables)
        except FormatError as problem:
            raise DataError(number, problem.what, problem.expected, param=param) from None
        yield replace(row, start=start, length=end - start)
    if not rows:
        raise DataError(0, "it has no rows", "one JSON object per line", param=param)


def split(count: int, validation_fraction: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(training indices, validation indices), both ascending; the number of the latter is rounded to the nearest.

    Both have at least one row when the fraction is not 0 and `count` is at least 2.
    """
    wanted = min(max(1, round(count * validation_fraction)), count - 1) if validation_fraction > 0 else 0
    order = _order(count, seed, "split")
    return tuple(sorted(order[max(0, wanted) :])), tuple(sorted(order[: max(0, wanted)]))


@dataclass(frozen=True, slots=True)
class Sampler:
    """Which of `count` rows each step trains on: every row once per epoch, in an order given by seed and epoch."""

    count: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_size < 1:
            raise ValueError(f"{self.count} rows in batches of {self.batch_size}: expected at least one of each")

    def batch(self, step: int) -> tuple[int, ...]:
        """The indices of step `step`, from 0. A batch may span two epochs."""
        start = step * self.batch_size
        return tuple(
            _order(self.count, self.seed, f"epoch {position // self.count}")[position % self.count]
            for position in range(start, start + self.batch_size)
        )

    def steps(self, epochs: int) -> int:
        """How many steps it takes to show every row `epochs` times; the last one may reach into another epoch."""
        return -(-self.count * epochs // self.batch_size)


@lru_cache(maxsize=8)
def _order(count: int, seed: int, purpose: str) -> tuple[int, ...]:
    def key(index: int) -> bytes:
        return hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()

    return tuple(sorted(range(count), key=key))


def _parse(line: bytes) -> dict[str, Any]:
    if line.lstrip().startswith(b"["):
        raise FormatError("a list begins there", "one JSON object on each line, and nothing around them (JSON Lines)")
    try:
        value = parse_json(line)
    except InvalidJson as error:
        raise FormatError(error.said_of("it", is_line=True).rstrip("."), "one JSON object") from None
    if not isinstance(value, dict):
        raise FormatError(f"it is {quoted(value)}", "a JSON object")
    return value


def read_row(number: int, line: bytes, purpose: Method, limits: DataLimits) -> Row:
    """The row on line `number`, checked except for the grader's variables. Raises FormatError."""
    value = _parse(line)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        found = f"messages is {quoted(messages)}" if "messages" in value else "it has no messages"
        raise FormatError(found, "a list of at least one message")
    if len(messages) > limits.messages:
        raise FormatError(f"it has {len(messages)} messages", f"at most {limits.messages}")
    for index, message in enumerate(messages):
        check_message(message, f"messages[{index}]")
    if (last := messages[-1]["role"]) != _LAST_ROLE[purpose]:
        raise FormatError(f"the last message is the {last}'s", f"the {_LAST_ROLE[purpose]}'s, for {purpose} training")
    if purpose == "supervised":
        _check_supervised(value, messages)
        return Row(number, messages, {}, tools_of(value))
    for index, message in enumerate(messages):
        if message.get("weight") is not None:
            raise FormatError(f"messages[{index}] has a weight", f"none, for nothing is imitated in {purpose}")
    item = {key: field for key, field in value.items() if key not in RESERVED_KEYS}
    return Row(number, messages, item, tools_of({"tools": value.get("tools")}))


def _check_supervised(value: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> None:
    for key, field in without_empty(value).items():
        if key not in SUPERVISED_KEYS:
            raise FormatError(f"it has the key {quoted(key)}", f"only {', '.join(SUPERVISED_KEYS)}")
        if key == "parallel_tool_calls" and not isinstance(field, bool):
            raise FormatError(f"parallel_tool_calls is {quoted(field)}", "true or false")
    trained = [(index, message) for index, message in enumerate(messages) if is_trained(message)]
    if not trained:
        raise FormatError("all messages of the assistant have the weight 0", "one to be learned, of weight 1")
    for index, message in trained:
        if not message.get("content") and not message.get("refusal") and not calls_of(message):
            raise FormatError(f"messages[{index}] has no content", "the text to be learned, or the weight 0")


def _check_variables(item: Mapping[str, Any], variables: Collection[Variable]) -> None:
    for variable in variables:
        try:
            variable.look_up(item)
        except KeyError as missing:
            has = ", ".join(sorted(item)[:20]) or "no keys but messages"
            expected = f"the grader's variable {variable}"
            if (key := variable.path[0]) in RESERVED_KEYS:
                expected = (
                    "what the grader reads of them repeated in a field of its own, such as item.question, for graders "
                    f"do not see a row's {key}"
                )
            raise FormatError(f"it has no {missing.args[0]}, only {has:.300}", expected) from None
