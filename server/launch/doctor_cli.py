"""`tinylora doctor`: what this machine can run, what is misconfigured, whether a server is well, and what to do.

Like cli.py it imports what it needs when it runs.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.calls import AsJson, printable

if TYPE_CHECKING:
    from clients.cli.finding import Finding

STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def doctor(
    url: Annotated[
        str | None,
        typer.Option(envvar="TINYLORA_URL", help="A server to look at too", show_default=False),
    ] = None,
    machine: Annotated[bool, typer.Option(help="Look at this machine and its settings")] = True,
    port: Annotated[int, typer.Option(min=1, max=65535, help="To serve on")] = 8000,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can run, what is misconfigured, whether a server is well, and what to do about it.

    It changes nothing. The exit status is 1 when something fails. vLLM takes it half a minute.
    """
    from rich.console import Console

    found: list[Finding] = []
    with Console(stderr=True).status("Looking") as status:
        for finding in _findings(url, machine, port):
            found.append(finding)
            status.update(f"Looked at {finding.check}")
            if not as_json:
                _print(finding)
    failures = [finding for finding in found if finding.status == "failure"]
    if as_json:
        checks = [dataclasses.asdict(finding) for finding in found]
        print(json.dumps({"ok": not failures, "checks": checks}))
    if failures:
        raise typer.Exit(1)


def _findings(url: str | None, machine: bool, port: int) -> Iterator[Finding]:
    if machine:
        from server.launch.machine_findings import machine_findings
        from server.launch.settings_findings import settings_findings

        yield from settings_findings()
        yield from machine_findings(port)
    if url is not None:
        from clients.cli.server_health import server_findings

        yield from server_findings(url)


def _print(finding: Finding) -> None:
    from rich.console import Console
    from rich.text import Text

    # In it are addresses, paths and what servers say; what is not UTF-8 could not be printed.
    found = printable(finding.found).encode(errors="backslashreplace").decode()
    line = Text(f"{finding.status:8}", style=STYLES[finding.status])
    line.append(f" {finding.check:10} {found}", style="default not bold")
    if finding.advice is not None:
        line.append(f"\n{'':20}-> {finding.advice}", style="default not bold")
    Console(highlight=False, markup=False, file=sys.stdout).print(line, soft_wrap=True)
