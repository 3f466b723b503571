"""What is measured on one card, in one command of under five minutes: no network, no download.

    python -m benchmarks.gpu [--minutes 5] [--parts tests engines training serve] [--out DIRECTORY]

    tests     tests/engine, while the engines start
    engines   vLLM, every way to compute the delta, vLLM's own multi-LoRA, and FP8 (benchmarks.gpu_engines)
    training  an update of the trainer, beside its limit and PEFT (benchmarks.gpu_training)
    serve     `tinylora serve`, OpenAI's client and a job, with the embedded model (benchmarks.gpu_serve)

The model of `engines` and `training` is a shape with random weights, by default that of a 7B (--layers, --hidden, ...
make it smaller), with fewer layers where the card is too small. Every part is a process with its share of the time that
is left, and begins with what says most: more `--minutes` reach more of it. What a part printed last is shown when it
fails. Results are in DIRECTORY/results.json as they come. The table is printed at the end, however that comes: a part
that fails, the time that is up, SIGTERM. It also runs without a GPU, on sizes for that, which shows that everything
works.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from benchmarks.dummy_model import Shape
from benchmarks.gpu_options import Options, engine_tests
from benchmarks.gpu_table import print_table

# Parts of one stage run side by side; whoever measures takes the lock of the card. Seconds that each may take of five
# minutes, and as many times that as there is time. Engines need more than half of theirs to start.
STAGES: Sequence[dict[str, int]] = ({"tests": 90, "engines": 175}, {"training": 40}, {"serve": 80})
PARTS = [part for stage in STAGES for part in stage]
TABLE_S = 5
LINES_SHOWN = 15


@dataclass(slots=True)
class Running:
    """A part in a process of its own, which prints into `log`; what it starts, into files in `more_logs`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    more_logs: Path
    began: float
    until: float

    def end(self) -> None:
        """Kill it and everything that it started, in whatever session."""
        try:
            family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        except psutil.NoSuchProcess:
            return
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()

    def last_lines(self) -> str:
        """Of what it printed, and of what that printed that it started."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-LINES_SHOWN:])
            for log in [self.log, *sorted(self.more_logs.glob("*.log"))]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--out", type=Path, default=None, help="where to (default: a new temporary directory)")
    parser.add_argument("--engines", nargs="+", help="only these, and base (default: all)")
    for name in ("batches", "prefill", "update", "job"):
        parser.add_argument(f"--{name}", nargs="+", type=int, default=list(_default(Options, name)))
    for name in ("tokens", "prompt_tokens", "first_tokens", "rounds", "loras"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=_default(Options, name))
    for name in (field.name for field in fields(Shape)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=_default(Shape, name), help="of the model")
    parser.add_argument("--tests", nargs="+", default=list(engine_tests()), help="for pytest")
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    directory = (args.out or Path(tempfile.mkdtemp(prefix="tinylora-gpu-"))).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    options = Options(
        directory,
        Shape(**{field.name: getattr(args, field.name) for field in fields(Shape)}),
        None if args.engines is None else ["base", *(name for name in args.engines if name != "base")],
        args.batches, args.tokens, args.prompt_tokens, tuple(args.prefill), args.first_tokens, args.rounds, args.loras,
        args.eager, args.tests, tuple(args.update), tuple(args.job),
    )  # fmt: skip
    sys.exit(run(options, args.parts, 60 * args.minutes))


def run(options: Options, parts: Sequence[str], seconds: float) -> int:
    """Run the parts and print the table. 0 when all of them succeeded."""
    print(f"Results: {options.results.path}", flush=True)
    until = time.monotonic() + seconds - TABLE_S
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        stages = [chosen for stage in STAGES if (chosen := {name: stage[name] for name in stage if name in parts})]
        for number, stage in enumerate(stages):
            usual = sum(max(limits.values()) for limits in stages[number:])
            scale = (until - time.monotonic()) / usual
            _run_stage(options, {name: scale * limit for name, limit in stage.items()})
    finally:
        for name in parts:
            if "status" not in options.results.read().get("parts", {}).get(name, {}):
                options.results.record("parts", name, "status", value="not reached")
        print_table(options)
    told = options.results.read()["parts"]
    return int(any(told[name]["status"] != "done" for name in parts))


def _run_stage(options: Options, limits: dict[str, float]) -> None:
    now = time.monotonic()
    running = [_start(options, name, now, now + limit) for name, limit in limits.items() if limit > 0]
    try:
        while running:
            time.sleep(0.2)
            for part in list(running):
                code, late = part.process.poll(), time.monotonic() > part.until
                if code is not None or late:
                    running.remove(part)
                    _ended(options, part, "done" if code == 0 else "out of time" if code is None else "failed")
    finally:
        for part in running:
            _ended(options, part, "stopped")


def _start(options: Options, name: str, now: float, until: float) -> Running:
    print(f"==> {name}", flush=True)
    log = options.directory / f"{name}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "benchmarks.gpu_part", name, options.to_json()]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    return Running(name, process, log, options.directory / name, now, until)


def _ended(options: Options, part: Running, status: str) -> None:
    part.end()
    took = time.monotonic() - part.began
    options.results.record("parts", part.name, value={"status": status, "seconds": round(took, 1)})
    print(f"==> {part.name}: {status} after {took:.0f} s", flush=True)
    if status != "done":
        print(part.last_lines(), flush=True)


def _default(options: Any, name: str) -> Any:
    return next(field.default for field in fields(options) if field.name == name)


if __name__ == "__main__":
    main()
