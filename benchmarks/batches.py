"""A batch of many lines of one token, on a server that is killed on its way, and what a request pays beside it.

    python -m benchmarks.batches --lines 10000 --kills 2

Starts `tinylora serve` on a directory of its own, with a tenant that has the batch and another one that chats. With two
kills, the server is killed with SIGKILL when a quarter of the lines and when half of them are answered, and started
again. Chats are one after the other, in rounds that are spread over the batch: some beside it, and some alone, while
the batch's tenant is disabled, so that a slow minute of the machine falls on both.

In the end it is checked that every line is in the output once, that its tokens are booked on the tenant, how much
the gateway's memory grew, and the ratio of the medians. What was measured is kept in --directory as it comes: the same
command again goes on where one ended that was interrupted or ran out of --timeout.
"""

from __future__ import annotations

import argparse
import io
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from openai.types import Batch

from benchmarks.batch_lines import counted, lines_of
from benchmarks.batch_site import Site, chat_s
from benchmarks.batch_table import report
from benchmarks.own_server import Command, Life, OwnServer, ServerEnded, tinylora_serve
from benchmarks.results import Results

BATCHING, CHATTING = "batching", "chatting"
POLL_S = 1.0
SHOWN_EVERY_S = 10.0
PATIENCE_S = 120.0
UNENDED = ("validating", "in_progress", "finalizing")


class Proof:
    """One run. What it has found out is in `found`, and on disk."""

    def __init__(self, args: argparse.Namespace, directory: Path, command: Command) -> None:
        self._args = args
        self._results = Results(directory / "found.json")
        self.found = self._results.read()
        if self._once("lines", lambda: args.lines) != args.lines:
            sys.exit(f"{directory} has a run with {self.found['lines']} lines; name another directory.")
        self._admin_key = self._once("admin_key", lambda: secrets.token_urlsafe(32))
        environment = {
            "TINYLORA_DATABASE_URL": f"sqlite:///{directory.absolute()}/batches.db",
            "TINYLORA_FILES_URL": f"{directory.absolute()}/files",
            "TINYLORA_ADMIN_KEY": self._admin_key,
            **dict(pair.split("=", 1) for pair in args.env),
        }
        self._server = OwnServer(command, environment, directory / "server.log")
        self._until = time.monotonic() + args.timeout
        self._clients: dict[tuple[str, str], openai.OpenAI] = {}
        self._shown_at = 0.0
        self._seen: tuple[float, int] | None = None  # when so many lines were answered, and nothing else asked since
        self._left_at = -1  # lines answered when something else was

    def run(self) -> bool:
        """Whether all that is checked is so. Prints progress, and the table in the end."""
        args = self._args
        with self._server:
            self._start()
            batch = self._batch()
            while batch.status in UNENDED:
                batch = self._go_on(batch)
            if batch.status != "completed":
                sys.exit(f"the batch is {batch.status}: {batch.errors}")
            self._keep("ended_at", self.found.get("ended_at") or time.time())
            self._check_output(batch)
            self._keep_life(self._server.life)
        return report(self.found, args.lines, args.kills)

    def _go_on(self, batch: Batch) -> Batch:
        """Do what is due at this point of the batch; the batch then."""
        assert batch.request_counts is not None
        answered = batch.request_counts.completed + batch.request_counts.failed
        args, rounds = self._args, len(self.found.get("rounds", []))
        if time.monotonic() > self._until:
            sys.exit(f"{args.timeout:.0f} s are over; the same command again goes on with line {answered}")
        if batch.status == "in_progress":
            kills = len(self.found.get("kills", []))
            if rounds < args.rounds and answered >= args.lines * rounds // (args.rounds + 1):
                self._seen, self._left_at = None, answered
                self._round(batch, rounds)
            elif kills < args.kills and answered >= args.lines * (kills + 1) // (args.kills + 2):
                self._seen, self._left_at = None, answered
                self._keep("kills", [*self.found.get("kills", []), answered])
                self._say(f"SIGKILL after {answered} lines")
                self._keep_life(self._server.kill())
                self._start()
            else:
                self._time_lines(answered)
                time.sleep(POLL_S)
        else:
            time.sleep(POLL_S)
        self._server.check()
        self._show(answered, batch.status)
        return self._client(BATCHING).batches.retrieve(batch.id)

    def _time_lines(self, answered: int) -> None:
        """Add what was answered since the last look, when nothing else was asked, and how long that took."""
        at = time.monotonic()
        if self._seen is not None:
            took, lines = self.found.get("quiet", (0.0, 0))
            self._keep("quiet", [took + at - self._seen[0], lines + answered - self._seen[1]])
        if answered != self._left_at:  # after a start the dead gateway's lease has to run out
            self._seen = (at, answered)

    def _start(self) -> None:
        self._say("the server starts")
        began = time.monotonic()
        self._site = Site(self._server.start(), self._admin_key)
        self._say(f"ready after {time.monotonic() - began:.0f} s")
        for tenant in (BATCHING, CHATTING):
            if tenant not in self.found:
                self._keep(tenant, self._site.new_key(tenant))
        self._site.disable(BATCHING, disabled=False)  # where a run was interrupted
        self._chat_s()

    def _batch(self) -> Batch:
        client = self._client(BATCHING)
        if "batch" not in self.found:
            lines = "\n".join(lines_of(self._model(), self._args.lines)).encode()
            self._say(f"uploading {self._args.lines} lines, {len(lines) / 1e6:.1f} MB")
            file = client.files.create(file=("lines.jsonl", io.BytesIO(lines)), purpose="batch")
            made = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            self._keep("began_at", time.time())
            self._keep("batch", made.id)
        return client.batches.retrieve(self.found["batch"])

    def _round(self, batch: Batch, number: int) -> None:
        """Chats alone and beside the batch; in every other round the other way round."""
        chats = max(1, self._args.requests // self._args.rounds)
        measured: dict[str, list[float]] = {}
        for way in ("beside", "alone")[:: 1 if number % 2 == 0 else -1]:
            self._site.disable(BATCHING, disabled=way == "alone")
            try:
                self._settle(batch, running=way == "beside")
                measured[way] = [self._chat_s() for _ in range(chats)]
            finally:
                self._site.disable(BATCHING, disabled=False)
        now = self._client(BATCHING).batches.retrieve(batch.id)
        if now.status != "in_progress":
            self._say("the batch ended during a round, which is left out")
            return
        self._keep("rounds", [*self.found.get("rounds", []), measured])
        beside, alone = (statistics.median(measured[way]) for way in ("beside", "alone"))
        self._say(f"round {number + 1} of {self._args.rounds}: median alone {alone:.2f} s, beside {beside:.2f} s")

    def _chat_s(self) -> float:
        return chat_s(self._client(CHATTING), self._model())

    def _model(self) -> str:
        return str(self._once("model", lambda: self._client(CHATTING).models.list().data[0].id))

    def _settle(self, batch: Batch, *, running: bool) -> None:
        """Wait until lines are running, or none are."""
        until = time.monotonic() + PATIENCE_S
        while bool(self._site.running_sequences()) != running:
            self._server.check()
            if time.monotonic() > until:
                sys.exit(f"after {PATIENCE_S:.0f} s lines are {'not yet' if running else 'still'} running")
            if running and self._client(BATCHING).batches.retrieve(batch.id).status != "in_progress":
                return
            time.sleep(0.2)

    def _check_output(self, batch: Batch) -> None:
        """Read the output, some lines in memory, and what is booked for it."""
        with self._site.lines(batch.output_file_id or "", self.found[BATCHING]) as output:
            once, tokens = counted(output, self._args.lines)
        self._keep("once", once)
        self._keep("tokens", tokens)
        self._keep("booked", self._site.booked(BATCHING, int(self.found["began_at"])))

    def _keep_life(self, life: Life | None) -> None:
        if life is not None:
            self._keep("lives", [*self.found.get("lives", []), life.to_json()])

    def _keep(self, name: str, value: Any) -> None:
        self.found[name] = value
        self._results.record(name, value=value)

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.found:
            self._keep(name, make())
        return self.found[name]

    def _client(self, tenant: str) -> openai.OpenAI:
        """The client of a tenant: one for each start, as making one takes time of the processors that are measured."""
        of = self._site.url, tenant
        if of not in self._clients:
            self._clients[of] = openai.OpenAI(base_url=f"{self._site.url}/v1", api_key=self.found[tenant], timeout=600)
        return self._clients[of]

    def _show(self, answered: int, status: str) -> None:
        if time.monotonic() - self._shown_at < SHOWN_EVERY_S:
            return
        self._shown_at = time.monotonic()
        life = self._server.life
        memory = "" if life is None else f", gateway {life.last_bytes / 2**20:.0f} MiB"
        took = time.time() - self.found["began_at"]
        self._say(f"{status}: {answered} of {self._args.lines} lines after {took:.0f} s{memory}")

    @staticmethod
    def _say(sentence: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=2, help="of the server, while lines are answered")
    parser.add_argument("--requests", type=int, default=32, help="chats alone, and as many beside the batch")
    parser.add_argument("--rounds", type=int, default=4, help="over which the chats are spread")
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds, of this run")
    parser.add_argument("--directory", type=Path, help="of the database and of what was measured; by default a new one")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the server")
    return parser.parse_args(arguments)


def main() -> None:
    args = parsed()
    directory = args.directory or Path(tempfile.mkdtemp(prefix="tinylora-batches-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"everything is kept in {directory}; --directory {directory} goes on with it", file=sys.stderr)
    try:
        sys.exit(not Proof(args, directory, tinylora_serve(args.model)).run())
    except ServerEnded as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
