"""A stranger's code, run: what it may do, what it cannot reach, and that nothing runs where it cannot be shut in."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from server.core.errors import Unavailable
from server.training.graders.build import GraderTools
from server.training.graders.grade import GraderError, Sample
from server.training.graders.math_pool import MathPool
from server.training.graders.python_grader import PythonGrader, PythonSpec
from server.training.graders.sandbox import IsolationUnavailable, Sandbox, SandboxedCodeError, SandboxLimits

SAMPLE = Sample.of_text('{"n": 3}').fields


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skips where the system forbids them, asked without our code."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    kinds = ["--net", "--mount", "--pid", "--ipc", "--uts", "--fork"]
    probe = subprocess.run(["unshare", *user, *kinds, "mount", "-t", "tmpfs", "tmpfs", "/tmp"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip(f"no namespaces here: {probe.stderr.decode()}")


@pytest.fixture
def sandbox(namespaces: None) -> Sandbox:
    return Sandbox(SandboxLimits(timeout_s=10, memory_bytes=256 * 2**20))


async def run(sandbox: Sandbox, *lines: str) -> float:
    body = "\n    ".join(lines)
    return (
        await sandbox.grade(f"import json, os, sys, socket\ndef grade(sample, item):\n    {body}", SAMPLE, {"a": 2})
    ).score


async def test_it_gets_sample_and_item_and_returns_a_score(sandbox: Sandbox) -> None:
    source = "def grade(sample, item):\n    print('seen')\n    return sample['output_json']['n'] / item['a']"

    result = await sandbox.grade(source, SAMPLE, {"a": 2})

    assert result.score == 1.5
    assert result.printed == "seen\n"


async def test_what_holds_inside_is_reported(sandbox: Sandbox) -> None:
    isolation = await sandbox.check("def grade(sample, item): pass")

    assert isolation["interfaces"] == ["lo"]
    assert (isolation["pid"], isolation["capabilities"]) == (1, 0)


async def test_the_standard_library_works(sandbox: Sandbox) -> None:
    modules = "json, re, math, decimal, fractions, difflib, hashlib, sqlite3, random, statistics, asyncio, unicodedata"

    assert await run(sandbox, f"import {modules}", "return float(fractions.Fraction('1/4'))") == 0.25


@pytest.mark.parametrize(
    "reach",
    [
        "socket.create_connection(('127.0.0.1', {port}), 1)",
        "socket.create_connection(('8.8.8.8', 53), 1)",
        "socket.getaddrinfo('localhost.example', 80)",
        "open({secret!r}).read()",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "os.listdir('/proc')",
        "open('/usr/lib/mine', 'w')",
        "open('/mine', 'w')",
        "os.kill(os.getppid() or -1, 9)",
        "os.kill({pid}, 0)",
        "os.execv('/bin/sh', ['sh'])",
        "os.setuid(0) or os.chroot('/')",
        "os.mknod('/tmp/sda', 0o60600, 2048)",
    ],
)
async def test_what_is_outside_cannot_be_reached(sandbox: Sandbox, tmp_path: Path, reach: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    expression = reach.format(port=9, secret=str(secret), pid=os.getpid())

    with pytest.raises(SandboxedCodeError, match=r"\w+[Ee]rror: "):
        await run(sandbox, expression, "return 1")


async def test_no_environment_variables_come_along(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_SECRET", "secret")

    assert await run(sandbox, "return sum('SECRET' in name or 'PATH' in name for name in os.environ) * 1.0") == 0


async def test_nothing_is_left_for_the_next_call(sandbox: Sandbox) -> None:
    assert await run(sandbox, "open('/tmp/left', 'w').write('x')", "return len(os.listdir('/tmp'))") == 1
    assert await run(sandbox, "return len(os.listdir('/tmp'))") == 0


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["return len('x' * 10**10)"], "MemoryError"),
        (["open('/tmp/big', 'wb').write(b'x' * 10**8)", "return 1"], "File too large|No space left"),
        (["while True: os.write(1, b'x' * 4096)"], "without a result"),
        (["os._exit(3)"], r"without a result \(status 3\)"),
        (["sys.exit('bye')"], "SystemExit: bye, line 3"),
        (["return 1 / 0"], "ZeroDivisionError: division by zero, line 3"),
        (["return item['b']"], "KeyError: 'b', line 3"),
        (["def f(): f()", "f()"], "RecursionError"),
        (["return 'high'"], "grade returned 'high'"),
        (["return float('nan')"], "grade returned nan"),
        (["return None"], "grade returned None"),
        (["os.write(1, b'score: 1')", "os._exit(0)"], "without a result"),
        (["os.write(1, json.dumps({'score': 'x'}).encode())", "os._exit(0)"], "without a result"),
        (["os.write(1, json.dumps({'score': 10**400}).encode())", "os._exit(0)"], "without a result"),
        (["os.write(1, b'[' * 60_000)", "os._exit(0)"], "without a result"),
    ],
)
async def test_code_that_fails_is_told_how_and_costs_bounded_time(
    sandbox: Sandbox, lines: list[str], reason: str
) -> None:
    with pytest.raises(SandboxedCodeError, match=reason):
        await run(sandbox, *lines)


@pytest.mark.parametrize("line", ["while True: pass", "__import__('time').sleep(60)"])
async def test_code_that_never_ends_is_ended(sandbox: Sandbox, line: str) -> None:
    with pytest.raises(SandboxedCodeError, match="ran longer than 1 s"):
        await run(Sandbox(SandboxLimits(timeout_s=1)), line)


async def test_processes_that_it_starts_end_with_it_and_are_few(sandbox: Sandbox) -> None:
    lines = ["import signal", "count = 0", "try:", "    while count < 1000:"]
    lines += ["        if os.fork() == 0: signal.pause()", "        count += 1", "except OSError: pass", "return count"]

    assert await run(sandbox, *lines) < 20


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def grade(sample, item:", "SyntaxError: .*line 1"),
        ("def score(sample, item): return 1", "defines no function grade"),
        ("(" * 10_000, "Error"),
        ("x = 1\0", "null bytes"),
    ],
)
async def test_a_source_is_checked_without_being_run(sandbox: Sandbox, source: str, reason: str) -> None:
    with pytest.raises(SandboxedCodeError, match=reason):
        await sandbox.check(source)


async def test_a_grader_that_raises_says_so_with_what_it_printed(sandbox: Sandbox) -> None:
    spec = PythonSpec(type="python", source="def grade(sample, item):\n    print('so far')\n    return item['b']")

    with pytest.raises(GraderError, match=r"KeyError: 'b', line 3 \(printed: so far") as caught:
        await PythonGrader(spec, sandbox).grade(Sample.of_text("x"), {})

    assert caught.value.kind == "python_grader_runtime_error"


RUNS_UNCONFINED = '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
IS_FORBIDDEN = "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("unshare", "reason"),
    [
        (None, "unshare .* not installed"),
        (IS_FORBIDDEN, "Operation not permitted"),
        (RUNS_UNCONFINED, "namespaces are the machine's own: net, mnt, pid, ipc, uts"),
    ],
    ids=["missing", "forbidden", "without effect"],
)
async def test_where_code_cannot_be_shut_in_it_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unshare: str | None, reason: str
) -> None:
    if unshare is not None:
        (tmp_path / "unshare").write_text(unshare)
        (tmp_path / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    trace = tmp_path / "trace"
    source = f"open({str(trace)!r}, 'w')\ndef grade(sample, item): return 1"

    with pytest.raises(IsolationUnavailable, match=reason):
        await Sandbox().grade(source, SAMPLE, {})
    with pytest.raises(GraderError) as caught:
        await PythonGrader(PythonSpec(type="python", source=source), Sandbox()).grade(Sample.of_text("x"), {})

    assert caught.value.kind == "python_grader_server_error"
    assert not trace.exists()


async def test_what_holds_inside_cannot_be_claimed_by_the_code(sandbox: Sandbox) -> None:
    lines = [
        'os.write(1, b\'{"isolation": {"uid": 7}, "isolation_error": "no", "score": 1, "printed": "\\\\ud800"}\\n\')'
    ]
    source = "import os\ndef grade(sample, item):\n    " + "\n    ".join([*lines, "os._exit(0)"])

    result = await sandbox.grade(source, SAMPLE, {})

    assert result.isolation["interfaces"] == ["lo"]
    assert result.score == 1
    assert result.printed == "\\ud800"


async def test_a_machine_that_is_too_busy_to_start_it_says_nothing_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.training.graders.sandbox.START_TIMEOUT_S", 0)
    spec = PythonSpec(type="python", source="def grade(sample, item): return 1")
    with pytest.raises(GraderError, match="did not start within") as caught:
        await PythonGrader(spec, Sandbox()).grade(Sample.of_text("x"), {})
    assert caught.value.kind == "python_grader_server_error"
    with pytest.raises(Unavailable, match="grader could not be tried: the sandbox did not start"):
        await GraderTools(MathPool(), sandbox=Sandbox()).check(spec)


async def test_code_that_hangs_is_waited_for_by_its_tenant(namespaces: None) -> None:
    sandbox = Sandbox(SandboxLimits(timeout_s=3), concurrency=1)
    sleeps = "import time\ndef grade(sample, item):\n    time.sleep(2)\n    return 0"
    hanging = [asyncio.create_task(sandbox.grade(sleeps, SAMPLE, {}, "acme")) for _ in range(8)]
    quick = "def grade(sample, item):\n    return 1"
    results = await asyncio.gather(*(sandbox.grade(quick, SAMPLE, {}, "globex") for _ in range(6)))

    assert [result.score for result in results] == [1] * 6
    assert sum(one.done() for one in hanging) <= 3
    for one in hanging:
        one.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
