"""`python -m benchmarks.gpu_part NAME OPTIONS`: one part of benchmarks.gpu, in this process."""

from __future__ import annotations

import os
import subprocess
import sys

from filelock import FileLock

from benchmarks.gpu_options import Options

# Of the card, for each engine of the tests, one of which is alive at a time.
TESTS_SHARE = "0.1"


def main() -> None:
    name, options = sys.argv[1], Options.from_json(sys.argv[2])
    if name == "tests":
        sys.exit(_tests(options))
    if name == "engines":
        from benchmarks.gpu_engines import run
    elif name == "training":
        from benchmarks.gpu_training import run
    else:
        from benchmarks.gpu_serve import run
    run(options)


def _tests(options: Options) -> int:
    """Nobody measures meanwhile. How many passed and which failed is recorded as they come."""
    # A file that needs a package that is missing leaves the others alone.
    flags = ["-v", "--no-header", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *flags, *options.test_arguments]
    environ = {**os.environ, "TINYLORA_TEST_GPU_SHARE": TESTS_SHARE}
    passed, failed = 0, []
    with FileLock(options.card):
        tests = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert tests.stdout is not None
        for line in tests.stdout:
            print(line, end="", flush=True)
            name, _, rest = line.partition(" ")
            if "::" in name and (rest.startswith(("PASSED", "FAILED", "ERROR"))):
                passed += rest.startswith("PASSED")
                failed += [] if rest.startswith("PASSED") else [name]
                options.results.record("tests", value={"passed": passed, "failed": failed})
        return tests.wait()


if __name__ == "__main__":
    main()
