"""/v1/files through the official openai client."""

import asyncio
import hashlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from server.api.app import create_app
from server.core.principal import DEFAULT_TENANT
from server.core.settings import Settings
from server.db.database import Database
from server.db.retention import Retention
from server.db.tables import AUDIT_LOG
from server.db.training_tables import FILES
from server.training.files.storage import FileStorage
from server.training.files.sweep import file_rule
from tests.server.conftest import client_of
from tests.server.support.acting import HEADER, act_as, new_tenant, principal
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.training_kit import ROWS, create_job, upload

MIB = 2**20
UPLOAD = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 4 * MIB, "mime_type": "application/jsonl"}


def stored_bytes(settings: Settings) -> list[Path]:
    return [path for path in Path(settings.files_url).rglob("*") if path.is_file()]


def test_file_comes_back_as_it_was_sent(openai_client: openai.OpenAI, settings: Settings) -> None:
    file = upload(openai_client, name="tröning data.jsonl")
    assert (file.bytes, file.filename, file.purpose) == (len(ROWS), "tröning data.jsonl", "fine-tune")
    assert file.sha256 == hashlib.sha256(ROWS).hexdigest()  # type: ignore[attr-defined]
    assert openai_client.files.wait_for_processing(file.id).status == "processed"
    answer = openai_client.files.content(file.id)
    assert answer.read() == ROWS
    assert answer.response.headers["content-length"] == str(len(ROWS))
    (path,) = stored_bytes(settings)
    assert path.read_bytes() == ROWS


def test_listing_pages_filters_and_orders(openai_client: openai.OpenAI) -> None:
    ids = [upload(openai_client, b"%d" % i, "fine-tune" if i % 2 else "evals").id for i in range(5)]
    # The client asks for as many pages as it takes.
    assert [file.id for file in openai_client.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in openai_client.files.list(limit=2, order="asc")] == ids
    assert [file.id for file in openai_client.files.list(purpose="evals", order="asc")] == ids[::2]
    page = openai_client.files.list(after=ids[3], limit=1)
    assert (page.data[0].id, page.has_more) == (ids[2], True)


def test_deleted_file_is_gone_with_its_bytes(openai_client: openai.OpenAI, settings: Settings) -> None:
    file = upload(openai_client)
    assert openai_client.files.delete(file.id).deleted
    for call in (openai_client.files.retrieve, openai_client.files.content, openai_client.files.delete):
        with pytest.raises(openai.NotFoundError, match="There is no file"):
            call(file.id)
    assert list(openai_client.files.list()) == []
    assert stored_bytes(settings) == []


def test_file_of_a_job_stays_until_the_job_has_ended(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client)
    job = create_job(openai_client, training_file=file.id)
    with pytest.raises(openai.BadRequestError, match=f"used by the job {job.id}"):
        openai_client.files.delete(file.id)
    openai_client.fine_tuning.jobs.cancel(job.id)
    assert openai_client.files.delete(file.id).deleted


def test_expired_file_goes_unless_a_job_uses_it(
    openai_client: openai.OpenAI, app_database: Database, settings: Settings
) -> None:
    expiry = {"anchor": "created_at", "seconds": 3600}
    used, unused = (
        openai_client.files.create(file=("a", ROWS), purpose="fine-tune", expires_after=expiry)  # type: ignore[arg-type]
        for _ in range(2)
    )
    assert used.expires_at == used.created_at + 3600
    job = create_job(openai_client, training_file=used.id)
    with app_database.write() as connection:
        connection.execute(FILES.update().values(expires_at=1))
    assert openai_client.files.content(used.id).read() == ROWS
    with pytest.raises(openai.NotFoundError):
        openai_client.files.retrieve(unused.id)
    later = upload(openai_client)
    files = FileStorage(settings.files_url)
    rule = file_rule(settings, files)
    assert [rule.remove(app_database, 0, 10) for _ in range(2)] == [1, 0]
    assert {path.name for path in stored_bytes(settings)} == {used.id, later.id}
    openai_client.fine_tuning.jobs.cancel(job.id)
    assert [file.id for file in openai_client.files.list()] == [later.id]


async def test_expired_files_go_without_anybody_asking(
    openai_client: openai.OpenAI, app_database: Database, settings: Settings
) -> None:
    upload(openai_client)
    with app_database.write() as connection:
        connection.execute(FILES.update().values(expires_at=1))
    await Retention(app_database, [file_rule(settings, FileStorage(settings.files_url))]).sweep(asyncio.Event())
    assert stored_bytes(settings) == []


async def test_a_tenant_has_so_many_files_and_bytes(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    def form(size: int) -> dict[str, Any]:
        return {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"x" * size)}}

    limits = {"max_tenant_files": 3, "max_tenant_file_bytes": 100}
    app = create_app(settings.model_copy(update=limits), engine, app_database)
    async with client_of(app) as client:
        answers = [await client.post("/v1/files", **form(size)) for size in (60, 41, 40, 1)]
        assert [answer.status_code for answer in answers] == [200, 400, 200, 400]
        assert "there would be 101 bytes in files, expected at most 100" in answers[1].json()["error"]["message"]
        await client.delete(f"/v1/files/{answers[0].json()['id']}")
        answers = [await client.post("/v1/files", **form(1)) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 400]
        error = answers[2].json()["error"]
        assert (error["code"], error["param"]) == ("file_limit_reached", "file")
        assert "There are 3 files" in error["message"]
        assert len(stored_bytes(settings)) == 3


@pytest.mark.parametrize(
    ("form", "status", "param"),
    [
        ({"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"x" * 10_001)}}, 413, "file"),
        ({"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"x" * 200_000)}}, 413, None),
        ({"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"")}}, 400, "file"),
        ({"data": {"purpose": "fine-tune"}, "files": {"other": ("a", b"x")}}, 400, "other"),
        ({"data": {"purpose": "poetry"}, "files": {"file": ("a", b"x")}}, 400, "purpose"),
        ({"data": {}, "files": {"file": ("a", b"x")}}, 400, "purpose"),
        ({"data": {"purpose": "fine-tune", "x": "1"}, "files": {"file": ("a", b"x")}}, 400, "x"),
        (
            {
                "data": {
                    "purpose": "evals",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": "59",
                },
                "files": {"file": ("a", b"x")},
            },
            400,
            "expires_after.seconds",
        ),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, None),
        ({"json": {"purpose": "fine-tune"}}, 415, "content-type"),
    ],
)
async def test_what_cannot_be_stored_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient, settings: Settings, form: dict[str, object], status: int, param: str | None
) -> None:
    response = await client.post("/v1/files", **form)  # type: ignore[arg-type]
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert stored_bytes(settings) == []
    assert (await client.get("/v1/files")).json()["data"] == []


async def test_upload_with_a_key_is_done_once(
    client: httpx.AsyncClient, settings: Settings, app_database: Database
) -> None:
    def form(content: bytes) -> dict[str, object]:
        return {
            "data": {"purpose": "fine-tune"},
            "files": {"file": ("a.jsonl", content)},
            "headers": {"idempotency-key": "once"},
        }

    first = await client.post("/v1/files", **form(ROWS))  # type: ignore[arg-type]
    second = await client.post("/v1/files", **form(ROWS))  # type: ignore[arg-type]
    assert first.json() == second.json()
    assert (await client.post("/v1/files", **form(b"other"))).status_code == 422  # type: ignore[arg-type]
    assert [path.name for path in stored_bytes(settings)] == [first.json()["id"]]
    with app_database.read() as connection:
        actions = connection.execute(sa.select(AUDIT_LOG.c.action)).scalars().all()
    assert actions == ["file.create"]


async def test_files_of_another_tenant_are_missing(
    client: httpx.AsyncClient, app: FastAPI, app_database: Database
) -> None:
    other = new_tenant(app_database, "other")
    act_as(app, {"us": principal(DEFAULT_TENANT), "them": principal(other)})
    us, them = {HEADER: "us"}, {HEADER: "them"}
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", ROWS)}}
    file_id = (await client.post("/v1/files", **form, headers=us)).json()["id"]  # type: ignore[arg-type]
    missing = file_id[:-4] + "0000"
    for method, path in (("GET", "{}"), ("GET", "{}/content"), ("GET", "{}/lines"), ("DELETE", "{}")):
        foreign = await client.request(method, f"/v1/files/{path.format(file_id)}", headers=them)
        absent = await client.request(method, f"/v1/files/{path.format(missing)}", headers=them)
        assert foreign.status_code == absent.status_code == 404
        assert foreign.text == absent.text.replace(missing, file_id)
    assert (await client.get("/v1/files", headers=them)).json()["data"] == []
    assert (await client.get(f"/v1/files/{file_id}/content", headers=us)).content == ROWS


async def test_storage_that_fails_is_a_503(client: httpx.AsyncClient, settings: Settings) -> None:
    Path(settings.files_url).write_bytes(b"a file where the directory should be")
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", ROWS)}}
    response = await client.post("/v1/files", **form)  # type: ignore[arg-type]
    assert (response.status_code, response.json()["error"]["code"]) == (503, "storage_unavailable")
    assert (await client.get("/v1/files")).json()["data"] == []


@pytest.fixture
def short_files() -> Iterator[int]:
    """Files of this process cannot grow beyond so many bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))
    yield 2 * MIB
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_disk_without_room_for_what_arrives_is_a_503(
    settings: Settings, engine: FakeEngine, app_database: Database, short_files: int
) -> None:
    app = create_app(settings.model_copy(update={"max_file_bytes": 8 * MIB}), engine, app_database)
    async with client_of(app) as client:
        upload = (await client.post("/v1/uploads", json=UPLOAD)).json()["id"]
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", bytes(short_files + 1))}}
        part = {"files": {"data": ("data", bytes(short_files + 1))}}
        for path, body in (("/v1/files", form), (f"/v1/uploads/{upload}/parts", part)):
            response = await client.post(path, **body)  # type: ignore[arg-type]
            assert (response.status_code, response.json()["error"]["code"]) == (503, "storage_unavailable"), path
        assert (await client.get("/v1/files")).json()["data"] == []


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("a" * 249 + ".jsonl", None),
        ("a/b.txt", None),
        ("Ferienbilder \U0001f468\u200d\U0001f469\u200d\U0001f467 3.00\u202fPM.txt", None),
        ("a" * 3994 + ".jsonl", "4000 characters, expected at most 255"),
        ("a" * 250 + ".jsonl", "256 characters, expected at most 255"),
        ("invoice\u202egpj.exe", "character 8 is U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("a\x00b", "character 2 is U+0000"),
        ("a\r\nb", "character 2 is U+000D"),
        ("a\x7f", "character 2 is U+007F"),
        ("a\ue000", "character 2 is U+E000"),
    ],
)
async def test_a_files_name_is_kept_or_refused(client: httpx.AsyncClient, name: str, wrong: str | None) -> None:
    body = {"bytes": 1, "filename": name, "mime_type": "text/plain", "purpose": "batch"}
    answers = {"filename": await client.post("/v1/uploads", json=body)}
    if not {"\x00", "\r", "\x7f"} & set(name):  # which clients write otherwise into a form
        form = {"data": {"purpose": "batch"}, "files": {"file": (name, b"x")}}
        answers["file"] = await client.post("/v1/files", **form)  # type: ignore[arg-type]
    for param, answer in answers.items():
        if wrong is None:
            assert (answer.status_code, answer.json()["filename"]) == (200, name)
        else:
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
            assert wrong in error["message"]


def test_a_form_that_cannot_be_read_says_what_is_taken(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"more than 4224 bytes.* at most 255 characters") as caught:
        openai_client.files.create(file=("a" * 5000, b"x"), purpose="batch")
    assert caught.value.code == "invalid_form"


@pytest.mark.parametrize(
    ("data", "param", "told"),
    [
        ({"purpose": ["batch", "evals"]}, "purpose", "'purpose' 2 times, expected it once"),
        ({"purpose": "batch", "expires_after[seconds]": ["1", "2"]}, "expires_after[seconds]", "2 times"),
        ({"purpose": "batch", **{f"x{i}": "" for i in range(5)}}, "x0", "known are purpose, expires_after[anchor]"),
        ({f"x{i}": "" for i in range(100)}, None, "Its fields are purpose, expires_after[anchor]"),
    ],
)
async def test_a_field_that_is_not_taken_is_named(
    client: httpx.AsyncClient, data: dict[str, Any], param: str | None, told: str
) -> None:
    response = await client.post("/v1/files", data=data, files={"file": ("a", b"x")})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert told in error["message"]
