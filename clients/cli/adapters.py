"""`tinylora adapters ...`: the adapters of a running server.

Here is what takes one request; importing and exporting many adapters is in bulk.py. The server's refusals are shown in
its own words. The client is imported when a command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clients.cli import bulk
from clients.cli.calls import DEFAULT_URL, AsJson, Url, fail, say, table, writing
from clients.cli.client import connected

if TYPE_CHECKING:
    from tinylora_client import TinyLoRA
    from tinylora_client.objects import Alias

adapters = typer.Typer(no_args_is_help=True, help="Upload, list, import and export adapters.")

Name = Annotated[str, typer.Argument(help="An adapter: acme/math")]
Reference = Annotated[str, typer.Argument(help="An adapter or a version: acme/math, acme/math@3, acme/math@prod")]
Pairs = Annotated[list[str] | None, typer.Option("--metadata", help="key=value; may be given several times")]
SAFETENSORS = ".safetensors"


@adapters.command("list")
def list_adapters(
    prefix: Annotated[str, typer.Option(help="Only names that begin so")] = "",
    metadata: Pairs = None,
    public: Annotated[bool, typer.Option("--public", help="The public ones of all tenants")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the latest version of every adapter; with --json one to a line."""
    wanted = _pairs(metadata)
    with connected(url) as client:
        found = client.adapters.list(prefix=prefix, metadata=wanted, public=public)
        if as_json:
            for one in found:
                print(json.dumps(one.to_dict()))
            return
        rows = [
            (
                *(one.id, str(one.bytes), one.dtype, "yes" if one.public else ""),
                " ".join(f"{key}={value}" for key, value in one.metadata.items()),
            )
            for one in found
        ]
    table("id", "bytes", "dtype", "public", "metadata", rows=rows, right=("bytes",))


@adapters.command("upload")
def upload(
    name: Name,
    file: Annotated[
        Path, typer.Argument(help="A vector's bytes, a safetensors file, or a directory of PEFT's", exists=True)
    ],
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"], typer.Option(help="Of the vector's bytes")
    ] = "bfloat16",
    metadata: Pairs = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Store a file as the next version of an adapter, and print which that is."""
    pairs = _pairs(metadata)
    try:
        with connected(url) as client:
            stored = client.adapters.upload(name, file, dtype=dtype, metadata=pairs)
    except OSError as error:
        fail(str(error))
    _print(stored, stored.id, as_json)


@adapters.command("show")
def show(reference: Reference, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Print what is known of an adapter, as JSON; with --json on one line."""
    with connected(url) as client:
        print(json.dumps(client.adapters.get(reference).to_dict(), indent=None if as_json else 2))


@adapters.command("download")
def download(
    reference: Reference,
    file: Annotated[Path | None, typer.Option("--output", "-o", help="Where to; else standard output")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Get a version's bytes; as a safetensors file, with its recipe, if the output's name ends so."""
    as_file = file is not None and file.suffix == SAFETENSORS
    with connected(url) as client:
        data = client.adapters.download(reference, format="safetensors" if as_file else "raw")
    if file is None:
        sys.stdout.buffer.write(data)
    else:
        with writing(file):
            file.write_bytes(data)


@adapters.command("delete")
def delete(
    reference: Reference,
    purge: Annotated[bool, typer.Option("--purge", help="For good: it cannot be restored")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Delete a version, or an adapter with all of its versions."""
    with connected(url) as client:
        deleted = client.adapters.delete(reference, purge=purge)
    if as_json:
        print(json.dumps(deleted.to_dict()))
    else:
        say(f"{deleted.id} is deleted.")


@adapters.command("restore")
def restore(reference: Reference, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Take a deletion back."""
    with connected(url) as client:
        restored = client.adapters.restore(reference)
    _print(restored, restored.id, as_json)


@adapters.command("alias")
def alias(
    name: Name,
    alias: Annotated[str, typer.Argument(help="prod, canary, ...")],
    versions: Annotated[list[str] | None, typer.Argument(help="3, or 3=95 4=5 to share requests, up to 16")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="What it was before its last move")] = False,
    left: Annotated[
        list[int] | None,
        typer.Option("--from", help="With --rollback: only while it stands for this version; of several, each of them"),
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Let NAME@ALIAS stand for a version; without versions, say what it stands for, as JSON.

    A rollback that is done again takes the first one back; with --from it is refused then.
    """
    if rollback and versions:
        fail(f"--rollback goes to what {alias} was before; leave out {' '.join(versions)!r}, or --rollback")
    if left and not rollback:
        fail("--from is of --rollback: the version that is rolled back; add --rollback, or leave it out")
    wanted = _weights(versions) if versions else None
    with connected(url) as client:
        if rollback:
            answer = _roll_back(client, name, alias, left)
        elif wanted is not None:
            answer = client.adapters.set_alias(name, alias, wanted)
        else:
            answer = client.adapters.get_alias(name, alias)
    print(json.dumps(answer.to_dict()))


@adapters.command("import")
def import_many(
    file: Annotated[Path, typer.Argument(help=".ndjson or .safetensors", exists=True, dir_okay=False)],
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Of an import that broke off, to go on where it ended")
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Store all adapters of a file, each as the next version of its name.

    An import that breaks off says with which --idempotency-key it goes on where it ended.
    """
    key = key or f"import-{uuid.uuid4().hex}"
    try:
        result = bulk.import_file(url, file, key)
    except (typer.Exit, KeyboardInterrupt):
        say(f"The same command with --idempotency-key {key} goes on where it ended.")
        raise
    if as_json:
        print(json.dumps(result.to_dict()))
    else:
        say(f"{result.stored} adapters stored, {len(result.rejected)} rejected.")
    if result.rejected:
        raise typer.Exit(1)


@adapters.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to, as NDJSON", dir_okay=False)],
    all_versions: Annotated[bool, typer.Option("--all-versions", help="Not only the latest ones")] = False,
    prefix: Annotated[str, typer.Option(help="Only names that begin so")] = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Write all adapters to a file, which `import` reads."""
    count = bulk.export_file(url, file, all_versions=all_versions, prefix=prefix)
    if as_json:
        print(json.dumps({"adapters": count, "file": str(file)}))
    else:
        say(f"{count} adapters written to {file}.")


def _roll_back(client: TinyLoRA, name: str, alias: str, left: list[int] | None) -> Alias:
    """Roll an alias back, from the versions `left` if they are named, and say what it stood for."""
    from tinylora_client import AliasNotFoundError, PreconditionFailedError

    try:
        before = client.adapters.get_alias(name, alias)
    except AliasNotFoundError:
        if left:
            raise
        # Its last move was its removal, which is rolled back too.
        return client.adapters.roll_back_alias(name, alias)
    if left and sorted(map(int, before.versions)) != sorted(set(left)):
        fail(
            f"{before.id} is not rolled back: it stands for {_versions(before)}, "
            f"and not for {' and '.join(map(str, sorted(set(left))))}"
        )
    try:
        after = client.adapters.roll_back_alias(name, alias, if_match=before.etag)
    except PreconditionFailedError:
        fail(f"{before.id} is not rolled back: somebody moved it just now; look at what it stands for")
    say(f"{before.id} stood for {_versions(before)} and is {_versions(after)} again. Another rollback undoes that.")
    return after


def _versions(alias: Alias) -> str:
    return " and ".join(sorted(alias.versions, key=int))


def _print(answer: Any, line: str, as_json: bool) -> None:
    print(json.dumps(answer.to_dict()) if as_json else line)


def _pairs(metadata: list[str] | None) -> dict[str, str]:
    split = [pair.partition("=") for pair in metadata or []]
    for pair in split:
        if not pair[0] or not pair[1]:
            fail(f"--metadata is {''.join(pair)!r}, expected key=value")
    pairs = {key: value for key, _, value in split}
    if len(pairs) < len(split):
        fail(f"--metadata is {' '.join(metadata or [])!r}, expected each key once")
    return pairs


def _weights(versions: list[str]) -> dict[int, float]:
    split = [pair.partition("=") for pair in versions]
    try:
        weights = {int(version): float(weight or 1) for version, _, weight in split}
    except ValueError:
        fail(f"the versions are {' '.join(versions)!r}, expected a version, or version=weight several times")
    if len(weights) < len(split):
        fail(f"the versions are {' '.join(versions)!r}, expected each of them once")
    return weights
