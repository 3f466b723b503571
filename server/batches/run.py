"""One batch on the gateway that has its lease: its file is checked, its lines are answered, its output is written.

Every step begins where the last one, on whatever gateway, ended: the database says which lines have an answer. A
gateway that is killed loses the answers of less than a second, whose lines are asked again; none of them is counted or
written twice.

While it runs, a heart beats: every second, or when enough answers have come, they are stored, the lease is renewed, and
it is heard what the batch's owner wants.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from server.batches import leases, output
from server.batches.answers import EXPIRED, TOO_MUCH_OUTPUT, Result, result_of
from server.batches.asking import Answered, Backoff, ask
from server.batches.leases import Standing, Wanted
from server.batches.lines import RequestLine, lines_of, parse_line, some, without
from server.batches.results import answered_lines, delete_results
from server.batches.states import Outcome
from server.batches.validation import check_file
from server.core.background import to_its_end
from server.core.errors import ApiError
from server.core.ids import new_id
from server.core.settings import Settings
from server.db.database import Database
from server.inference.early_check import EarlyCheck
from server.inference.usage_meter import UsageMeter
from server.training.files.storage import FileStorage

BEAT_S = 1.0
ENOUGH_RESULTS, ENOUGH_BYTES = 64, 2**20
MAX_WINDOW, MAX_WINDOW_BYTES = 64, 32 * 2**20
SERVER_ERRORS_TRIED = 3
SERVER_ERROR_RETRY_S = 1.0
FILE_GONE = {
    "code": "input_file_deleted",
    "line": None,
    "message": "The input file was deleted while the batch was not finished; what had been answered is in its files.",
    "param": "input_file_id",
}
NO_KEY = {
    "code": "api_key_revoked",
    "line": None,
    "message": "The API key that made the batch was revoked or has expired; what had been answered is in its files. "
    "Make a batch of the other lines with another key.",
    "param": None,
}
GIVEN_UP = {
    "code": "server_error",
    "line": None,
    "message": f"{leases.MAX_ATTEMPTS} attempts in a row ended without getting on with the batch; the server's log has "
    "the reason. What had been answered is in its files.",
    "param": None,
}
# How a batch ends for what is wanted of it, and what is said of the lines that were not answered.
ENDS: Mapping[Wanted, tuple[Outcome, tuple[Mapping[str, Any], ...]]] = {
    "cancel": ("cancelled", ()),
    "expire": ("expired", ()),
    "fail": ("failed", (FILE_GONE,)),
    "no key": ("failed", (NO_KEY,)),
    "less output": ("completed", ()),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tools:
    """What all batches of a gateway share. `window`: how many lines of a batch are asked at once."""

    app: ASGIApp
    database: Database
    files: FileStorage
    check: EarlyCheck
    meter: UsageMeter
    settings: Settings
    owner: str
    window: int


class NotMine(Exception):
    """The lease is another gateway's, or the batch has to wait; nothing more is to be done here."""


class BatchRun:
    """A batch that was claimed as `standing`."""

    def __init__(self, tools: Tools, standing: Standing) -> None:
        self._tools = tools
        self._standing = standing
        self._id: str = standing.row.id
        self._results: list[Result] = []
        self._result_bytes = 0
        self._enough = asyncio.Event()
        self._backoff = Backoff(time.monotonic)
        self._asked: set[asyncio.Task[None]] = set()
        self._asked_bytes = 0
        self._stopping = False

    async def go(self) -> None:
        """Go on until the batch has ended. NotMine when that is not here. Cancelled, it stores what was answered."""
        if self._standing.row.attempts > leases.MAX_ATTEMPTS:
            await self._end("failed", (GIVEN_UP,))
            return
        if self._standing.row.outcome is None:
            wanted = self._standing.wanted
            if wanted == "go on":
                wanted = await self._beside_the_heart(self._answer()) or self._standing.wanted
            if wanted in ("wait", "nothing"):
                raise NotMine
            row = self._standing.row
            if wanted == "go on" and row.outcome is None and row.completed + row.failed < row.total:
                raise RuntimeError(f"{row.completed + row.failed} answers are stored of {row.total} lines")
            outcome, errors = ENDS.get(wanted, ("completed", ()))
        else:
            outcome, errors = self._standing.row.outcome, ()
        await self._end(outcome, errors)

    def nudge(self) -> None:
        """Its owner may want something else."""
        self._enough.set()

    async def _beside_the_heart(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` returns; None when something else became wanted meanwhile, which then stands in `_standing`."""
        self._stopping = False
        working, beating = asyncio.create_task(work), asyncio.create_task(self._beat())
        try:
            await asyncio.wait({working, beating}, return_when=asyncio.FIRST_COMPLETED)
            done = working.done()
        finally:
            # The heart is not cancelled: what it is storing would be neither stored for sure nor at hand.
            self._stopping = True
            self._enough.set()
            await _cancelled([working])
            await _cancelled(self._asked)
            await beating
            await self._store()
        return working.result() if done else None

    async def _beat(self) -> None:
        """Ends when something else is wanted than to go on."""
        while self._standing.wanted == "go on" and not self._stopping:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), BEAT_S)
            self._enough.clear()
            try:
                await self._store()
            except ApiError as error:
                # The database is away. When the lease is another's meanwhile, it says so when it is back.
                structlog.get_logger().warning("answers kept until later", batch=self._id, error=error.message)

    async def _store(self) -> None:
        """Store the answers that there are, and hear what is wanted."""
        tools, settings = self._tools, self._tools.settings
        results, self._results = self._results, []

        def transaction(connection: Any) -> Standing:
            return leases.record(
                connection, tools.database, self._id, tools.owner, results,
                settings.batch_lease_s, settings.max_batch_output_bytes,
            )  # fmt: skip

        def store() -> Standing:
            if results:
                # Before the answers: a gateway that is killed in between has booked what is asked again. The other way
                # round, lines would be in the output that nobody has paid.
                tools.meter.flush()
            return tools.database.transact(transaction)

        try:
            self._standing = await to_its_end(run_in_threadpool(store))
        except ApiError:
            self._results = results + self._results
            raise
        self._result_bytes = sum(len(result.data) for result in self._results)

    async def _answer(self) -> Wanted:
        """Answer all lines; what is wanted then."""
        if self._standing.row.status == "validating" and not await self._validate():
            return self._standing.wanted
        lines = without(lines_of(await self._input()), answered_lines(self._tools.database, self._id))
        while read := await run_in_threadpool(some, lines, lambda line: len(line[1] or b"")):
            for number, text in read:
                # It was checked before, so it can be parsed.
                await self._ask_beside(parse_line(number, text, self._standing.row.endpoint))
        await self._room(0, 0)
        return "go on"

    async def _input(self) -> Iterable[bytes]:
        """The bytes of the input file. Unavailable when they cannot be read."""
        file_id = self._standing.row.input_file_id

        def opened() -> Iterable[bytes]:
            with self._tools.database.read() as connection:
                row = leases.input_file(connection, file_id)
            return [] if row is None else self._tools.files.read(row.location)

        return await run_in_threadpool(opened)

    async def _validate(self) -> bool:
        """Whether the file is valid and the batch goes on. If it is not, that is settled."""
        tools, row, principal = self._tools, self._standing.row, self._standing.principal
        assert principal is not None
        chunks = await self._input()
        checked = await check_file(chunks, row.endpoint, tools.settings.max_batch_lines, tools.check, principal)

        def settle(connection: Any) -> bool:
            standing = leases.standing(connection, self._id, tools.owner)
            if standing.wanted != "go on":
                return False  # the file may have been deleted while it was read, say
            if checked.errors:
                leases.settle(connection, self._id, tools.owner, "failed", checked.errors)
                return False
            return leases.begin(connection, self._id, tools.owner, total=checked.total, model=checked.model)

        valid = await to_its_end(run_in_threadpool(tools.database.transact, settle))
        await self._store()
        return valid

    async def _ask_beside(self, line: RequestLine) -> None:
        """Ask a line, once there is room for it beside the others."""
        await self._room(self._tools.window - 1, MAX_WINDOW_BYTES - line.size)
        while self._result_bytes > MAX_WINDOW_BYTES:
            await asyncio.sleep(BEAT_S)  # they cannot be stored for the moment
        self._asked_bytes += line.size
        task = asyncio.create_task(self._ask(line))
        self._asked.add(task)

        def forget(done: asyncio.Task[None]) -> None:
            self._asked_bytes -= line.size

        task.add_done_callback(forget)

    async def _room(self, lines: int, size: int) -> None:
        """Wait until at most so many lines, of so many bytes, are being asked."""
        while self._asked and (len(self._asked) > lines or self._asked_bytes > size):
            done, self._asked = await asyncio.wait(self._asked, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _ask(self, line: RequestLine) -> None:
        result = result_of(line.number, line.custom_id, await self._answer_to(line))
        self._results.append(result)
        self._result_bytes += len(result.data)
        if len(self._results) >= ENOUGH_RESULTS or self._result_bytes >= ENOUGH_BYTES:
            self._enough.set()

    async def _answer_to(self, line: RequestLine) -> Answered:
        """The answer, for which quotas are waited for; what fails in the server is tried again."""
        body = json.dumps(line.body).encode()
        failures = 0
        while True:
            principal = self._standing.principal
            if principal is None:
                await asyncio.Event().wait()  # to be cancelled: its tenant was disabled
                raise AssertionError
            answered = await ask(self._tools.app, self._standing.row.endpoint, body, principal, new_id("req_"))
            if answered.retry_s is not None:
                await self._backoff.wait(answered.retry_s)
                continue
            failures += answered.status >= 500
            if answered.status < 500 or failures >= SERVER_ERRORS_TRIED:
                return answered
            await asyncio.sleep(SERVER_ERROR_RETRY_S)

    async def _end(self, outcome: Outcome, errors: tuple[Mapping[str, Any], ...]) -> None:
        tools = self._tools
        row = await to_its_end(
            run_in_threadpool(
                tools.database.transact, lambda to: leases.settle(to, self._id, tools.owner, outcome, errors)
            )
        )
        if row is None:
            raise NotMine
        written = await self._beside_the_heart(self._write(row))
        if written is None:
            raise NotMine
        structlog.get_logger().info("batch ended", batch=self._id, status=row.outcome)

    async def _write(self, row: Any) -> bool:
        """Write the files, and end the batch with them; True."""
        tools = self._tools
        too_much = row.outcome == "completed" and row.completed + row.failed < row.total
        reason = EXPIRED if row.outcome == "expired" else TOO_MUCH_OUTPUT if too_much else None
        chunks = await self._input() if reason else []

        def write() -> None:
            made = {
                "output": output.write_file(tools.files, row.tenant_id, output.outputs(tools.database, row.id)),
                "error": output.write_file(
                    tools.files, row.tenant_id, output.errors(tools.database, row, chunks, reason)
                ),
            }

            def end(connection: Any) -> bool:
                values: dict[str, Any] = {}
                for kind, file in made.items():
                    if file is not None:
                        file.insert(connection, row, kind)
                        values[f"{kind}_file_id"] = file.id
                if made["error"] is not None:
                    values["failed"] = made["error"].lines
                return leases.end(connection, row, tools.owner, **values)

            if not tools.database.transact(end):
                for file in made.values():
                    if file is not None:
                        tools.files.delete(file.location)
                raise NotMine
            while tools.database.transact(lambda to: delete_results(to, row.id)):
                pass

        await to_its_end(run_in_threadpool(write))
        return True


async def _cancelled(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
