"""`tinylora adapters ...`: the adapters of a running server, over HTTP.

Here is what takes one request; importing and exporting many adapters is in bulk.py. The server's refusals are shown in
its own words.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from clients.cli import bulk
from clients.cli.calls import DEFAULT_URL, AsJson, Url, call, checked, connection, fail, pages, say, table

adapters = typer.Typer(no_args_is_help=True, help="Upload, list, import and export adapters.")

Name = Annotated[str, typer.Argument(help="An adapter: acme/math")]
Reference = Annotated[str, typer.Argument(help="An adapter or a version: acme/math, acme/math@3, acme/math@prod")]
Pair = Annotated[list[str] | None, typer.Option("--metadata", help="key=value; may be given several times")]
SUFFIXES = {".safetensors": "application/x-safetensors"}


@adapters.command("list")
def list_adapters(
    prefix: Annotated[str, typer.Option(help="Only names that begin so")] = "",
    metadata: Pair = None,
    public: Annotated[bool, typer.Option("--public", help="The public ones of all tenants")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the latest version of every adapter."""
    query = {f"metadata[{key}]": value for key, value in _pairs(metadata).items()}
    found = pages(url, "/adapters", prefix=prefix, public=str(public).lower(), **query)
    if as_json:
        for item in found:
            print(json.dumps(item))
        return
    rows = (
        (
            *(item["id"], str(item["bytes"]), item["dtype"], "yes" if item["public"] else ""),
            " ".join(f"{key}={value}" for key, value in item["metadata"].items()),
        )
        for item in found
    )
    table("id", "bytes", "dtype", "public", "metadata", rows=rows)


@adapters.command("upload")
def upload(
    name: Name,
    file: Annotated[Path, typer.Argument(help="A vector's bytes, or a safetensors file", exists=True, dir_okay=False)],
    dtype: Annotated[str, typer.Option(help="Of the vector's bytes: bfloat16, float16 or float32")] = "bfloat16",
    url: Url = DEFAULT_URL,
) -> None:
    """Store a file as the next version of an adapter."""
    kind = SUFFIXES.get(file.suffix, "application/octet-stream")
    query = {"name": name} if file.suffix in SUFFIXES else {"name": name, "dtype": dtype}
    with connection(url) as client:
        headers = {"content-type": kind}
        answer = checked(client.post("/adapters", content=file.read_bytes(), params=query, headers=headers)).json()
    print(answer["id"])


@adapters.command("show")
def show(reference: Reference, url: Url = DEFAULT_URL) -> None:
    """Print what is known of an adapter, as JSON."""
    print(json.dumps(call(url, "GET", _path(reference)), indent=2))


@adapters.command("download")
def download(
    reference: Reference,
    file: Annotated[Path | None, typer.Option("--output", "-o", help="Where to; else standard output")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Get a version's bytes; as a safetensors file, with its recipe, if the output's name ends so."""
    query = {"format": "safetensors" if file is not None and file.suffix in SUFFIXES else "raw"}
    with connection(url) as client:
        data = checked(client.get(f"{_path(reference)}/vector", params=query)).content
    if file is None:
        sys.stdout.buffer.write(data)
    else:
        file.write_bytes(data)


@adapters.command("delete")
def delete(
    reference: Reference,
    purge: Annotated[bool, typer.Option("--purge", help="For good: it cannot be restored")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a version, or an adapter with all of its versions."""
    say(f"{call(url, 'DELETE', _path(reference), purge=str(purge).lower())['id']} is deleted.")


@adapters.command("restore")
def restore(reference: Reference, url: Url = DEFAULT_URL) -> None:
    """Take a deletion back."""
    print(call(url, "POST", f"{_path(reference)}/restore")["id"])


@adapters.command("alias")
def alias(
    name: Name,
    alias: Annotated[str, typer.Argument(help="prod, canary, ...")],
    versions: Annotated[list[str] | None, typer.Argument(help="3, or 3=95 4=5 to share requests between two")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="What it was before its last move")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Let NAME@ALIAS stand for a version; without versions, say what it stands for."""
    path = f"{_path(name)}/aliases/{quote(alias, safe='')}"
    if rollback:
        answer = call(url, "POST", f"{path}/rollback")
    elif versions:
        answer = call(url, "PUT", path, {"versions": _weights(versions)})
    else:
        answer = call(url, "GET", path)
    print(json.dumps(answer))


@adapters.command("import")
def import_many(
    file: Annotated[Path, typer.Argument(help=".ndjson or .safetensors", exists=True, dir_okay=False)],
    url: Url = DEFAULT_URL,
) -> None:
    """Store all adapters of a file. One that broke off goes on where it ended when it is started again."""
    totals = bulk.import_file(url, file)
    say(f"{totals.stored} adapters stored, {totals.rejected} rejected.")
    if totals.rejected:
        raise typer.Exit(1)


@adapters.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to, as NDJSON", dir_okay=False)],
    all_versions: Annotated[bool, typer.Option("--all-versions", help="Not only the latest ones")] = False,
    prefix: Annotated[str, typer.Option(help="Only names that begin so")] = "",
    url: Url = DEFAULT_URL,
) -> None:
    """Write all adapters to a file, which `import` reads."""
    say(f"{bulk.export_file(url, file, all_versions=all_versions, prefix=prefix)} adapters written to {file}.")


def _path(reference: str) -> str:
    return f"/adapters/{quote(reference, safe='/~@:')}"


def _pairs(metadata: list[str] | None) -> dict[str, str]:
    split = [pair.partition("=") for pair in metadata or []]
    for pair in split:
        if not pair[0] or not pair[1]:
            fail(f"--metadata is {''.join(pair)!r}, expected key=value")
    return {key: value for key, _, value in split}


def _weights(versions: list[str]) -> dict[str, float]:
    split = [pair.partition("=") for pair in versions]
    try:
        return {version: float(weight or 1) for version, _, weight in split}
    except ValueError:
        fail(f"the versions are {' '.join(versions)!r}, expected a version, or version=weight several times")
