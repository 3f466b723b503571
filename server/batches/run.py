"""One batch on the gateway that has its lease: its file is checked, its lines are answered, its output is written.

Every step begins where the last one, on whatever gateway, ended: the database says which lines have an answer. A
gateway that is killed loses the answers of less than a second, whose lines are asked again; none of them is counted or
written twice.

While it runs, a heart beats: every second, or when enough answers have come, they are stored, the lease is renewed, and
it is heard what the batch's owner wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Any, TypeVar

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from server.batches import leases, output
from server.batches.answers import EXPIRED, TOO_MUCH_OUTPUT, Result
from server.batches.endings import ENDS, FILE_MISSING, GIVEN_UP, MISSING_GRACE_S
from server.batches.leases import Standing, Wanted
from server.batches.lines import lines_of, parse_line, some, without
from server.batches.results import answered_lines
from server.batches.states import Outcome
from server.batches.validation import check_file
from server.batches.window import MAX_WINDOW_BYTES, Window
from server.core.background import cancelled, to_its_end
from server.core.clock import now
from server.core.errors import ApiError
from server.core.settings import Settings
from server.db.database import Database
from server.engine.protocol import Engine
from server.inference.early_check import EarlyCheck
from server.inference.usage_meter import UsageMeter
from server.training.files.storage import FileMissing, FileStorage

BEAT_S = 1.0
ENOUGH_RESULTS, ENOUGH_BYTES = 64, 2**20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tools:
    """What all batches of a gateway share. `window`: how many lines of a batch are asked at once. `draining` is set
    when the gateway is ending.
    """

    app: ASGIApp
    engine: Engine
    database: Database
    files: FileStorage
    check: EarlyCheck
    meter: UsageMeter
    settings: Settings
    owner: str
    window: int
    draining: Event


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
        self._window = Window(
            tools.app, standing.row.endpoint, tools.window, lambda: self._standing.principal, self._keep
        )
        self._stopping = False

    @property
    def is_tried_again(self) -> bool:
        """Whether an attempt before this one failed, and nothing was answered since."""
        return bool(self._standing.row.attempts > 1)

    async def go(self) -> None:
        """Go on until the batch has ended. NotMine when that is not here. Cancelled, it stores what was answered."""
        if self._standing.row.attempts > leases.MAX_ATTEMPTS:
            await self._end("failed", (GIVEN_UP,))
            return
        if self._standing.row.outcome is None:
            wanted = self._standing.wanted
            if wanted == "go on":
                wanted = await self._beside_the_heart(self._answer()) or self._standing.wanted
            # The last answers may have been stored too late for the lease.
            if wanted in ("wait", "nothing") or self._standing.wanted == "nothing":
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
            await cancelled([working])
            await self._window.cancel()
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
                while self._result_bytes > MAX_WINDOW_BYTES:
                    await asyncio.sleep(BEAT_S)  # they cannot be stored for the moment
                if self._tools.draining.is_set():
                    await self._window.emptied()
                    raise NotMine  # another gateway goes on with the rest
                # It was checked before, so it can be parsed.
                await self._window.ask(parse_line(number, text, self._standing.row.endpoint))
        await self._window.emptied()
        return "go on"

    async def _input(self) -> Iterable[bytes]:
        """The bytes of the input file. Unavailable when they cannot be read, FileMissing when there are none."""
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

    def _keep(self, result: Result) -> None:
        self._results.append(result)
        self._result_bytes += len(result.data)
        if len(self._results) >= ENOUGH_RESULTS or self._result_bytes >= ENOUGH_BYTES:
            self._enough.set()

    async def _end(self, outcome: Outcome, errors: tuple[Mapping[str, Any], ...]) -> None:
        tools = self._tools
        row = await to_its_end(
            run_in_threadpool(
                tools.database.transact, lambda to: leases.settle(to, self._id, tools.owner, outcome, errors)
            )
        )
        if row is None:
            raise NotMine
        # What ended it is no longer wanted: from now on, that its files are written.
        self._standing = replace(self._standing, wanted="go on", row=row)
        written = await self._beside_the_heart(self._write(row))
        if written is None:
            raise NotMine
        structlog.get_logger().info("batch ended", batch=self._id, status=row.outcome)

    async def _write(self, row: Any) -> bool:
        """Write the files, and end the batch with them; True."""
        tools = self._tools
        too_much = row.outcome == "completed" and row.completed + row.failed < row.total
        reason = EXPIRED if row.outcome == "expired" else TOO_MUCH_OUTPUT if too_much else None
        errors: tuple[Mapping[str, Any], ...] = ()
        chunks: Iterable[bytes] = []
        if reason:
            try:
                chunks = await self._input()
            except FileMissing:
                # Another gateway may have them. Waiting for ever would have it never end.
                if now() < (row.finalizing_at or row.expires_at) + MISSING_GRACE_S:
                    raise
                reason, errors = None, (FILE_MISSING,)

        write = partial(output.write_files, tools.files, tools.database, row, tools.owner, chunks, reason, errors)
        if not await to_its_end(run_in_threadpool(write)):
            raise NotMine
        return True
