"""Whether torch can compile a model for this machine's CPU.

It is tried on three lines with the compiler that torch would use, because a compiler alone is not enough: Python's and
OpenMP's headers and a linker are needed too. Design decision: without them the model is served uncompiled, with a
warning. A compiler from the package index was rejected: it is 100 MB and still lacks Python's headers.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile

from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

PROGRAM = "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"
TIMEOUT_S = 60


def why_not_compile() -> str | None:
    """What is missing, and the command that installs it on Debian and its kin; None when nothing is."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        compiler = get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler (apt-get install g++)"
    with tempfile.TemporaryDirectory() as directory:
        command = [compiler, "-x", "c++", "-shared", "-fPIC", "-fopenmp", "-I", sysconfig.get_path("include")]
        command += ["-o", f"{directory}/tried.so", "-"]
        try:
            done = subprocess.run(command, input=PROGRAM, capture_output=True, text=True, timeout=TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{compiler} does not run: {error}"
    if done.returncode == 0:
        return None
    if "Python.h" in done.stderr:
        return f"Python's headers are missing (apt-get install python{version}-dev)"
    reason = next((line for line in done.stderr.splitlines() if "error" in line), "it said nothing")
    return f"{compiler} cannot compile (apt-get install g++): {reason.strip()}"
