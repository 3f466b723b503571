"""The command `tinylora adapters` against the gateway on a socket."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

from clients.cli.bulk import LINES
from server.launch.cli import cli
from tests.clients.cli.pipe import piped

VECTOR = "AD8APwA/AD8APwA/AD8APwA/AD8APwA/AD8="


@pytest.fixture(autouse=True)
def _server(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_URL", base_url)


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["adapters", *map(str, arguments)])
    assert result.exit_code == code, result.output
    # A sentence and a status, or what went wrong would be a traceback.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_upload_alias_download_delete_and_restore(tmp_path: Path) -> None:
    vector = tmp_path / "v.bin"
    vector.write_bytes(b"\x00\x3f" * 13)
    assert run("upload", "acme/math", vector).stdout == "acme/math@1\n"
    vector.write_bytes(bytes(26))
    run("upload", "acme/math", vector)
    run("alias", "acme/math", "prod", "1=95", "2=5")
    assert json.loads(run("alias", "acme/math", "prod").stdout)["versions"] == {"1": 95.0, "2": 5.0}
    run("alias", "acme/math", "prod", 2)
    run("alias", "acme/math", "prod", "--rollback")
    assert run("download", "acme/math@prod").stdout_bytes == b"\x00\x3f" * 13
    run("download", "acme/math@1", "-o", tmp_path / "v.safetensors")
    assert safetensors.torch.load_file(tmp_path / "v.safetensors")["vector"].eq(0.5).all()
    assert run("upload", "copy", tmp_path / "v.safetensors").stdout == "copy@1\n"
    run("delete", "copy")
    assert "There is no adapter 'copy'" in run("show", "copy", code=1).stderr
    run("restore", "copy")
    assert [line.split()[0] for line in run("list").stdout.splitlines()] == ["id", "acme/math@2", "copy@1"]


def test_a_rollback_says_what_it_left_and_is_not_undone_by_the_same_command(tmp_path: Path, base_url: str) -> None:
    vector = tmp_path / "v.bin"
    vector.write_bytes(bytes(26))
    for move in (["1"], ["1=95", "2=5"], ["2"]):
        run("upload", "a", vector)
        run("alias", "a", "prod", *move)
    left = run("alias", "a", "prod", "--rollback", "--from", 2)
    assert json.loads(left.stdout)["versions"] == {"1": 95.0, "2": 5.0}
    assert "a@prod stood for 2 and is 1 and 2 again" in left.stderr
    again = run("alias", "a", "prod", "--rollback", "--from", 2, code=1).stderr
    assert "a@prod is not rolled back: it stands for 1 and 2, and not for 2" in again
    both = run("alias", "a", "prod", "--rollback", "--from", 2, "--from", 1)
    assert json.loads(both.stdout)["versions"] == {"2": 1.0}
    assert "stood for 2 and is" in run("alias", "a", "prod", "--rollback").stderr
    httpx.delete(f"{base_url}/v1/adapters/a/aliases/prod").raise_for_status()
    assert "no alias" in run("alias", "a", "prod", "--rollback", "--from", 2, code=1).stderr
    assert json.loads(run("alias", "a", "prod", "--rollback").stdout)["versions"] == {"1": 95.0, "2": 5.0}


def test_import_of_more_than_one_request_says_what_was_rejected_and_can_be_repeated(tmp_path: Path) -> None:
    file = tmp_path / "many.ndjson"
    names = [f"u/{number:05d}" for number in range(LINES + 2)]
    lines = [json.dumps({"name": name, "vector": VECTOR}) for name in names]
    lines[LINES + 1] = json.dumps({"name": "bad", "vector": "AAA="})
    file.write_text("\n".join(lines))
    for _ in range(2):
        result = run("import", file, "--idempotency-key", "of-the-run", code=1)
        assert f"{LINES + 1} adapters stored, 1 rejected." in result.stderr
        assert f"item {LINES + 1} (bad): " in result.stderr
    assert json.loads(run("show", "u/00000").stdout)["version"] == 1
    exported = tmp_path / "back.ndjson"
    run("export", exported)
    assert [json.loads(line)["name"] for line in exported.read_text().splitlines()] == names[: LINES + 1]


@pytest.mark.parametrize("deletion", [("delete",), ("delete", "--purge")])
def test_import_of_what_was_deleted_stores_it_again(tmp_path: Path, deletion: tuple[str, ...]) -> None:
    file = tmp_path / "one.ndjson"
    file.write_text(json.dumps({"name": "acme/math", "vector": VECTOR}))
    run("import", file)
    run(*deletion, "acme/math")
    assert "1 adapters stored, 0 rejected." in run("import", file).stderr
    assert json.loads(run("show", "acme/math").stdout)["name"] == "acme/math"


def test_import_of_what_is_piped(tmp_path: Path) -> None:
    line = json.dumps({"name": "acme/math", "vector": VECTOR})
    with piped(tmp_path / "many.ndjson", f"{line}\n".encode()) as pipe:
        assert "1 adapters stored, 0 rejected." in run("import", pipe).stderr


def test_import_of_a_safetensors_file(tmp_path: Path) -> None:
    file = tmp_path / "many.safetensors"
    safetensors.torch.save_file({"a": torch.ones(13, 1), "b": torch.zeros(13, 1)}, file)
    assert "2 adapters stored, 0 rejected." in run("import", file).stderr


def test_json_has_the_servers_objects(tmp_path: Path) -> None:
    vector = tmp_path / "v.bin"
    vector.write_bytes(bytes(26))
    stored = json.loads(run("upload", "a", vector, "--metadata", "team=blue", "--json").stdout)
    assert (stored["id"], stored["metadata"], stored["recipe"]["groups"]) == ("a@1", {"team": "blue"}, 13)
    assert json.loads(run("list", "--json").stdout) == stored == json.loads(run("show", "a", "--json").stdout)
    assert json.loads(run("delete", "a", "--json").stdout)["versions"] == [1]
    assert json.loads(run("restore", "a", "--json").stdout)["id"] == "a@1"
    exported = json.loads(run("export", tmp_path / "all.ndjson", "--json").stdout)
    assert exported == {"adapters": 1, "file": str(tmp_path / "all.ndjson")}
    assert json.loads(run("import", tmp_path / "all.ndjson", "--json").stdout) == {"stored": 1, "rejected": []}


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    assert "has no adapter_model.safetensors" in run("upload", "empty", tmp_path, code=1).stderr
    assert "expected a version" in run("alias", "a", "prod", "one", code=1).stderr
    assert "expected each of them once" in run("alias", "a", "prod", "3=95", "3=5", code=1).stderr
    assert "--from is of --rollback" in run("alias", "a", "prod", "--from", 4, code=1).stderr
    assert "leave out '4', or --rollback" in run("alias", "a", "prod", "4", "--rollback", code=1).stderr
    nowhere = tmp_path / "none" / "x"
    vector = tmp_path / "v.bin"
    vector.write_bytes(bytes(26))
    run("upload", "a", vector)
    for command in (("export", nowhere), ("download", "a", "-o", nowhere)):
        assert f"{nowhere} cannot be written: No such file or directory" in run(*command, code=1).stderr
    vector.write_bytes(b"123")
    assert "26 bytes" in run("upload", "short", vector, code=1).stderr
    assert "expected key=value" in run("list", "--metadata", "team", code=1).stderr
    assert "expected each key once" in run("list", "--metadata", "team=blue", "--metadata", "team=red", code=1).stderr
    assert "no answer of a TinyLoRA server" in run("list", "--url", "http://127.0.0.1:9", code=1).stderr
