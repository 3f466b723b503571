"""`tinylora data`: a public set as a file to train on, or to evaluate on.

What is heavy is imported when the command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.calls import AsJson, fail, say


def data(
    names: Annotated[list[str], typer.Argument(help="gsm8k-train, gsm8k, math-train, math-hard, math500, ...")],
    directory: Annotated[Path, typer.Option("--output", "-o", help="Where to, as NAME.jsonl")] = Path("data/sets"),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows")] = None,
    copies: Annotated[
        Path | None, typer.Option(help="Copies of the sets' repositories, OWNER/NAME below it", file_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write public sets as JSONL, from the Hugging Face hub or from copies, and say under which licence they are."""
    from clients.evaluation.public_sets import PUBLIC_SETS, RowsError, write_set

    for name in names:
        if name not in PUBLIC_SETS:
            fail(f"there is no public set {name!r}; those are {', '.join(PUBLIC_SETS)}")
    written = []
    for name in names:
        try:
            written.append(write_set(name, directory, limit, copies))
        except RowsError as error:
            fail(str(error))
        if not as_json:
            say(written[-1].sentence)
            print(written[-1].file)
    if as_json:
        print(json.dumps([asdict(one) | {"file": str(one.file)} for one in written]))
