"""The inside of the sandbox (sandbox.py): isolates itself, then runs untrusted `grade(sample, item)` code.

It is started inside new namespaces, reads a request as JSON from standard input, and answers in lines of JSON: first
what was verified, last the result. In this order it checks that the namespaces are new; replaces the file system by a
read-only one that holds the standard library and shared libraries, and an empty /tmp in memory; gives up root and every
capability; sets its limits; verifies all of that; runs the code.

It is one file that imports the standard library alone, because nothing else can be read inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import math
import os
import resource
import socket
import sys
import sysconfig
import traceback
from types import CodeType
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 1024, 4096, 16384
MNT_DETACH = 2
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
NOBODY = 65534
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")

NO_GRADE = "the source defines no function grade(sample, item)"

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    try:
        require_namespaces(request["host_namespaces"])
        confine_files(request["root"], request["scratch_bytes"])
        drop_privileges()
        limit(request)
        isolation = verify_isolation()
    except OSError as error:
        answer: dict[str, object] = {"isolation_error": str(error)}
    else:
        # Written before the code runs, so the code cannot have written it.
        os.write(1, json.dumps({"isolation": isolation}).encode() + b"\n")
        answer = run(request)
    os.write(1, json.dumps(answer).encode() + b"\n")


def require_namespaces(host: dict[str, str]) -> None:
    """Raises OSError when a namespace is still the host's. Must come before anything is mounted."""
    shared = [kind for kind, host_id in host.items() if os.readlink(f"/proc/self/ns/{kind}") == host_id]
    if shared or os.getpid() != 1:
        raise OSError(f"these namespaces are the machine's own: {', '.join(shared)}")


def confine_files(root: str, scratch_bytes: int) -> None:
    """Make `root` the only file system: empty but for what Python imports, and a /tmp of `scratch_bytes`."""
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in dict.fromkeys((*LIBRARIES, sysconfig.get_path("stdlib"), os.path.join(sys.base_prefix, "lib"))):
        copy = root + path
        if os.path.lexists(copy) or not os.path.isdir(path):
            continue
        os.makedirs(os.path.dirname(copy), mode=0o755, exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), copy)
        elif not os.path.lexists(copy):
            os.mkdir(copy, 0o755)
            mount(path, copy, None, MS_BIND | MS_REC)
            kept = os.statvfs(copy).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME)
            mount(None, copy, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)
    os.mkdir(root + "/tmp", 0o777)
    scratch = f"size={scratch_bytes},mode=1777,nr_inodes=1000"
    mount("tmpfs", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, scratch)
    os.mkdir(root + "/old", 0o700)
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], root.encode(), (root + "/old").encode()), "pivot_root")
    os.chdir("/tmp")
    check(libc.umount2(b"/old", MNT_DETACH), "umount the old root")
    os.rmdir("/old")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def drop_privileges() -> None:
    """Give up all capabilities for good, and become nobody where this is the machine's root."""
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # this kernel has no more capabilities
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    with contextlib.suppress(OSError):  # In a user namespace there is only one user to be.
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def limit(request: dict[str, Any]) -> None:
    """Set the kernel's resource limits of this process and its children."""
    for what, most in (
        (resource.RLIMIT_CPU, request["cpu_s"]),
        (resource.RLIMIT_AS, request["memory_bytes"]),
        (resource.RLIMIT_FSIZE, request["scratch_bytes"]),
        (resource.RLIMIT_NPROC, request["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def verify_isolation() -> dict[str, object]:
    """The isolation as found. Raises OSError when the network, the machine's files or a capability are within reach."""
    interfaces = [name for _, name in socket.if_nameindex()]
    files = sorted(os.listdir("/"))
    capabilities = (ctypes.c_uint32 * 6)()
    check(libc.capget((ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), capabilities), "capget")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        reachable = probe.connect_ex(("192.0.2.1", 9)) == 0
    if reachable or set(interfaces) - {"lo"}:
        raise OSError(f"the network is within reach through {', '.join(interfaces)}")
    if set(files) - {"lib", "lib64", "tmp", "usr", sysconfig.get_path("stdlib").split("/")[1]}:
        raise OSError(f"the machine's files are within reach: /{', /'.join(files)}")
    if any(capabilities):
        raise OSError("it still has capabilities")
    return {"interfaces": interfaces, "files": files, "pid": os.getpid(), "capabilities": 0, "uid": os.getuid()}


def run(request: dict[str, Any]) -> dict[str, object]:
    """The score or the error of the code; for a request without a sample, whether the code compiles and has `grade`."""
    printed = io.StringIO()
    try:
        code = compile(request["source"], "grader", "exec", dont_inherit=True)
        if "sample" not in request:
            return {"checked": True} if "grade" in code.co_names else {"error": NO_GRADE}
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            result = score(code, request["sample"], request["item"])
    except BaseException as error:  # SystemExit and the like are the code's own, too.
        result = {"error": describe(error)}
    return {**result, "printed": printed.getvalue()[-1000:]}


def score(code: CodeType, sample: object, item: object) -> dict[str, object]:
    """The score that the code's `grade` returns, or an error when it is no finite number."""
    namespace: dict[str, Any] = {"__name__": "grader"}
    exec(code, namespace)
    if not callable(namespace.get("grade")):
        return {"error": NO_GRADE}
    value = namespace["grade"](sample, item)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return {"error": f"grade returned {repr(value)[:100]}, expected a finite number"}
    return {"score": float(value)}


def describe(error: BaseException) -> str:
    """The error, with the line of the grader's source where it was raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "grader"]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = "" if line is None else f", line {line}"
    return f"{type(error).__name__}: {str(error)[:500]}{where}"


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2). Raises OSError."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    check(libc.mount(*encoded, ctypes.c_ulong(flags), options and options.encode()), f"mount {target}")


def check(result: int, what: str) -> None:
    """Raises OSError when a call into libc failed."""
    if result != 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
