"""Carries out the Dockerfile without an engine for containers, in directories that begin as a bare Debian.

    sudo python deploy/replay_image.py --target cpu DIRECTORY [--share PATH ...]
    python deploy/replay_image.py --target cpu --plan

Every stage is a directory, made by debootstrap or as a copy of the stage that it is FROM; RUN is a shell in it
(chroot), COPY takes what .dockerignore leaves of the context. Python is Debian's, of the same version as the base
image's. EXPOSE, VOLUME and HEALTHCHECK have no meaning without an engine and are left out; caches are not kept.

--share makes a path of this machine visible inside: its package index, or pip's configuration. --plan prints the steps
and does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[1]
# The image's /usr/local/bin/python.
PACKAGES = "python3,python3-venv,ca-certificates"
PROGRAMS = {"debootstrap": "debootstrap", "unshare": "util-linux"}
WITHOUT_MEANING = ("EXPOSE", "VOLUME", "HEALTHCHECK", "LABEL")


@dataclass
class Stage:
    """`origin` is another stage, or an image. `steps` are instructions with their text."""

    name: str
    origin: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    @property
    def sources(self) -> set[str]:
        """Stages that it takes something from."""
        text = " ".join(value for _, value in self.steps)
        return {self.origin, *re.findall(r"(?:--from=|,from=)([\w-]+)", text)}


@dataclass
class State:
    """What instructions leave for later ones."""

    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    directory: str = "/"
    user: str = "0:0"


def stages(dockerfile: Path = ROOT / "Dockerfile") -> dict[str, Stage]:
    """All stages, in the order of the file."""
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for step in DockerfileParser(path=str(dockerfile)).structure:
        instruction, value = step["instruction"], step["value"]
        if instruction == "COMMENT":
            continue
        if instruction == "FROM":
            origin, _, name = value.split()
            current = found[name] = Stage(name, origin)
        elif current is not None:
            current.steps.append((instruction, value))
    return found


def needed(target: str, known: dict[str, Stage]) -> list[Stage]:
    """The stages that `target` is made of, those first that others need."""
    order: list[Stage] = []

    def visit(name: str) -> None:
        if name in known and known[name] not in order:
            for source in sorted(known[name].sources):
                visit(source)
            order.append(known[name])

    visit(target)
    return order


def context() -> list[str]:
    """The files that .dockerignore leaves."""
    patterns = [
        line.strip()
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    return sorted(path for path in exclude_paths(str(ROOT), patterns) if (ROOT / path).is_file())


class Replay:
    """Stages below `directory`; `shared` paths of this machine are seen by every RUN."""

    def __init__(self, directory: Path, shared: list[Path], arguments: dict[str, str]) -> None:
        self._directory, self._shared, self._arguments = directory, shared, arguments
        self._states: dict[str, State] = {}

    def make(self, stage: Stage) -> Path:
        root = self._directory / stage.name
        origin = self._states.get(stage.origin)
        if origin is None:
            release = stage.origin.rpartition("-")[2]
            # In a mount namespace: what debootstrap mounts inside is gone with it, however it ends.
            debootstrap = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(root)]
            _run(["unshare", "--mount", *debootstrap])
            (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            state = State()
        else:
            _run(["cp", "--archive", "--link", str(self._directory / stage.origin), str(root)])
            state = State(dict(origin.environment), origin.directory, origin.user)
        self._states[stage.name] = state
        for instruction, value in stage.steps:
            print(f"==> [{stage.name}] {instruction} {' '.join(value.split())[:100]}", flush=True)
            self._do(root, state, instruction, value)
        return root

    def _do(self, root: Path, state: State, instruction: str, value: str) -> None:
        if instruction == "ENV":
            for name, _, given in (pair.partition("=") for pair in shlex.split(value)):
                state.environment[name] = given.replace("$PATH", state.environment["PATH"])
        elif instruction == "ARG":
            name, _, default = value.partition("=")
            state.environment[name] = self._arguments.get(name, default)
        elif instruction == "WORKDIR":
            state.directory = value
            (root / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "USER":
            state.user = value
        elif instruction == "COPY":
            self._copy(root, state, value)
        elif instruction == "RUN":
            self._shell(root, state, value)
        elif instruction not in (*WITHOUT_MEANING, "ENTRYPOINT", "CMD"):
            raise SystemExit(f"{instruction} is not known here")

    def _copy(self, root: Path, state: State, value: str) -> None:
        *sources, target = [word for word in value.split() if not word.startswith("--")]
        stage = re.match(r"--from=(\S+)", value)
        place = root / os.path.join(state.directory, target).lstrip("/")
        if stage is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            for source in sources:
                _run(["cp", "--archive", "--link", f"{self._directory / stage[1]}/{source.lstrip('/')}", str(place)])
            return
        for source in sources:
            files = [path for path in context() if path == source or path.startswith(f"{source}/")]
            if not files:
                raise SystemExit(f"COPY {source}: .dockerignore leaves nothing of it")
            for path in files:
                inner = Path(path).relative_to(source)
                into = (
                    place / inner if str(inner) != "." else place / Path(path).name if target.endswith("/") else place
                )
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, into)

    def _shell(self, root: Path, state: State, value: str) -> None:
        options = re.findall(r"--mount=(\S+)", value)
        command = re.sub(r"--mount=\S+\s*", "", value)
        binds = [(str(path), str(path)) for path in self._shared]
        for option in options:
            fields = dict(pair.split("=", 1) for pair in option.split(","))
            if fields["type"] == "bind":
                binds.append((f"{self._directory / fields['from']}{fields['source']}", fields["target"]))
        mounts = [f"mount --bind {source} {root}{target}" for source, target in binds]
        for source, target in binds:
            inside = Path(f"{root}{target}")
            if Path(source).is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.touch()
        environment = [f"{name}={value}" for name, value in {"HOME": "/root", **state.environment}.items()]
        inner = f"cd {state.directory} && {command}"
        enter = ["chroot", f"--userspec={state.user}", str(root), "env", "-i", *environment, "sh", "-ec", inner]
        mounts += [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev", shlex.join(enter)]
        _run(["unshare", "--mount", "sh", "-ec", " && ".join(mounts)])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", help="for the stages; it is made, and must not be there yet")
    parser.add_argument("--target", default="cpu", help="the last stage")
    parser.add_argument("--plan", action="store_true", help="print the steps only")
    parser.add_argument("--share", type=Path, action="append", default=[], help="a path of this machine")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    order = needed(options.target, stages())
    if options.plan or options.directory is None:
        print(json.dumps([{"stage": one.name, "from": one.origin, "steps": one.steps} for one in order], indent=2))
        return
    if os.geteuid() != 0:
        raise SystemExit(
            "This makes root directories of Debian, which only root can: sudo python deploy/replay_image.py"
        )
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not there: apt-get install {package}")
    try:
        options.directory.mkdir(parents=True)
    except FileExistsError:
        raise SystemExit(f"{options.directory} is there already: name another one, or remove it") from None
    replay = Replay(options.directory.resolve(), options.share, dict(one.split("=", 1) for one in options.build_arg))
    for stage in order:
        root = replay.make(stage)
    print(f"==> {options.target}: {root}")


if __name__ == "__main__":
    main()
