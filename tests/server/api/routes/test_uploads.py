"""/v1/uploads through the official openai client."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from server.core.clock import now
from server.core.settings import Settings
from server.db.database import Database
from server.db.upload_tables import UPLOADS
from server.training.files.storage import FileStorage
from server.training.files.uploads import UploadRule

WHOLE = bytes(range(256)) * 8


def stored(settings: Settings) -> int:
    """How many files there are below the storage's root."""
    return sum(path.is_file() for path in Path(settings.files_url).rglob("*"))


def announce(client: openai.OpenAI, size: int = len(WHOLE), **fields: Any) -> Any:
    return client.uploads.create(
        **{"bytes": size, "filename": "big.jsonl", "mime_type": "text/jsonl", "purpose": "batch", **fields}
    )


def test_parts_in_any_order_become_the_file(openai_client: openai.OpenAI, settings: Settings) -> None:
    upload = announce(openai_client, expires_after={"anchor": "created_at", "seconds": 3600})
    assert (upload.status, upload.object, upload.expires_at - upload.created_at) == ("pending", "upload", 3600)
    pieces = [WHOLE[at : at + 500] for at in range(0, len(WHOLE), 500)]
    parts = [openai_client.uploads.parts.create(upload.id, data=piece) for piece in reversed(pieces)]
    assert {part.upload_id for part in parts} == {upload.id}
    lost = [part.id for part in parts][::-1]
    for wrong, param in ((lost[:-1], "part_ids"), ([*lost[:-1], "part_none"], "part_ids"), ([lost[0]] * 5, "part_ids")):
        with pytest.raises(openai.BadRequestError) as caught:
            openai_client.uploads.complete(upload.id, part_ids=wrong)
        assert caught.value.param == param
    md5 = hashlib.md5(WHOLE).hexdigest()
    with pytest.raises(openai.BadRequestError, match="another order"):
        openai_client.uploads.complete(upload.id, part_ids=lost[::-1], md5=md5)
    done = openai_client.uploads.complete(upload.id, part_ids=lost, md5=md5)
    assert done.status == "completed" and done.file is not None
    assert (done.file.filename, done.file.purpose, done.file.bytes) == ("big.jsonl", "batch", len(WHOLE))
    assert done.file.expires_at == done.file.created_at + 3600
    assert openai_client.files.content(done.file.id).read() == WHOLE
    for same in ({"md5": md5}, {"md5": md5.upper()}, {}):
        again = openai_client.uploads.complete(upload.id, part_ids=lost, **same)
        assert again.file is not None and again.file.id == done.file.id, "the answer may have been lost"
    others = (lost[:-1], lost[::-1], [*lost, "part_none"], ["part_none"])
    for other, param in (*(({"part_ids": ids}, "part_ids") for ids in others), ({"md5": "0" * 32}, "md5")):
        with pytest.raises(openai.BadRequestError, match="was completed with other parts") as caught:
            openai_client.uploads.complete(upload.id, **{"part_ids": lost, **other})
        assert caught.value.param == param
    for call in (
        lambda: openai_client.uploads.cancel(upload.id),
        lambda: openai_client.uploads.parts.create(upload.id, data=b"x"),
    ):
        with pytest.raises(openai.BadRequestError, match="is completed"):
            call()
    assert stored(settings) == 1, "the parts are gone"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bytes": True}, "bytes"),
        ({"bytes": "10"}, "bytes"),
        ({"bytes": 10.5}, "bytes"),
        ({"expires_after": {"anchor": "created_at", "seconds": True}}, "expires_after.seconds"),
        *(({"mime_type": kind}, "mime_type") for kind in ("", "jsonl", "text/", "text/a\r\nX: y", "text/a; b", "é/a")),
    ],
)
def test_what_is_announced_is_what_it_says(openai_client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        announce(openai_client, **fields)
    assert caught.value.param == param
    assert announce(openai_client, mime_type='text/plain; charset="utf-8"').status == "pending"


def test_completing_twice_at_one_moment_makes_one_file_and_gives_it_twice(
    openai_client: openai.OpenAI, settings: Settings
) -> None:
    with ThreadPoolExecutor(4) as threads:
        for count in range(1, 6):
            upload = announce(openai_client)
            part = openai_client.uploads.parts.create(upload.id, data=WHOLE)
            headers = {"Idempotency-Key": f"key {count}"} if count % 2 else {}
            complete = partial(openai_client.uploads.complete, upload.id, extra_headers=headers)
            sent = [threads.submit(complete, part_ids=[part.id]) for _ in range(4)]
            done = [one.result() for one in sent]
            assert len({one.file.id for one in done if one.file is not None}) == 1
            assert stored(settings) == count


def test_completing_otherwise_at_one_moment_makes_one_file_and_refuses_the_others(
    openai_client: openai.OpenAI, settings: Settings
) -> None:
    with ThreadPoolExecutor(4) as threads:
        for count in range(1, 4):
            upload = announce(openai_client, 2)
            a, b = (openai_client.uploads.parts.create(upload.id, data=data).id for data in (b"a", b"b"))
            sent = {
                ids: threads.submit(openai_client.uploads.complete, upload.id, part_ids=ids) for ids in ((a, b), (b, a))
            }
            errors = {ids: one.exception() for ids, one in sent.items()}
            [refused] = [error for error in errors.values() if error is not None]
            assert isinstance(refused, openai.BadRequestError) and "completed with other parts" in str(refused)
            [(ids, won)] = [(ids, one.result()) for ids, one in sent.items() if errors[ids] is None]
            assert won.file is not None
            assert openai_client.files.content(won.file.id).read() == (b"ab" if ids == (a, b) else b"ba")
            assert stored(settings) == count


def test_the_clients_own_way_to_send_chunks(openai_client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    path.write_bytes(WHOLE)
    done = openai_client.uploads.upload_file_chunked(file=path, mime_type="text/jsonl", purpose="batch", part_size=700)
    assert done.file is not None and openai_client.files.content(done.file.id).read() == WHOLE


def test_cancelled_and_late_uploads_leave_nothing(
    openai_client: openai.OpenAI, app_database: Database, settings: Settings
) -> None:
    cancelled, late = announce(openai_client), announce(openai_client)
    for upload in (cancelled, late):
        openai_client.uploads.parts.create(upload.id, data=b"x" * 100)
    assert openai_client.uploads.cancel(cancelled.id).status == "cancelled"
    assert openai_client.uploads.cancel(cancelled.id).status == "cancelled"
    assert stored(settings) == 1
    with app_database.write() as connection:
        connection.execute(UPLOADS.update().where(UPLOADS.c.id == late.id).values(expires_at=now() - 1))
    with pytest.raises(openai.BadRequestError, match="is expired"):
        openai_client.uploads.parts.create(late.id, data=b"x")
    rule = UploadRule(FileStorage(settings.files_url))
    assert [rule.remove(app_database, now(), 10) for _ in range(2)] == [1, 0]
    assert stored(settings) == 0
    assert rule.remove(app_database, now() + 2 * 24 * 3600, 10) == 2, "the rows go a day later"


def test_a_part_whose_answer_was_lost_is_sent_again(openai_client: openai.OpenAI, settings: Settings) -> None:
    half, other = WHOLE[:1000], WHOLE[1000:]
    upload = announce(openai_client)
    add = partial(openai_client.uploads.parts.create, upload.id)
    keyed = [add(data=half, extra_headers={"Idempotency-Key": "part 1"}).id for _ in range(3)]
    assert len(set(keyed)) == 1 and stored(settings) == 1
    with pytest.raises(openai.UnprocessableEntityError):
        add(data=other, extra_headers={"Idempotency-Key": "part 1"})
    again, second = add(data=half).id, add(data=other).id
    assert stored(settings) == 3
    add(data=WHOLE)
    with pytest.raises(openai.BadRequestError, match="at most 3 times the 2048 announced"):
        add(data=WHOLE)
    done = openai_client.uploads.complete(upload.id, part_ids=[again, second])
    assert done.file is not None and openai_client.files.content(done.file.id).read() == WHOLE
    assert stored(settings) == 1


def test_more_than_was_announced_or_is_allowed_is_refused(
    openai_client: openai.OpenAI, base_url: str, settings: Settings
) -> None:
    upload = announce(openai_client, 10)
    with pytest.raises(openai.BadRequestError, match="has 11 bytes, expected at most 10"):
        openai_client.uploads.parts.create(upload.id, data=b"x" * 11)
    with pytest.raises(openai.APIStatusError) as caught:
        announce(openai_client, settings.max_file_bytes + 1)
    assert (caught.value.status_code, caught.value.param) == (413, "bytes")  # type: ignore[attr-defined]
    for form in ({"files": {"other": ("a", b"x")}}, {"data": {"data": "x"}}, {"files": {"data": ("a", b"")}}):
        answer = httpx.post(f"{base_url}/v1/uploads/{upload.id}/parts", **form)  # type: ignore[arg-type]
        assert answer.status_code in (400, 415), answer.text
    with pytest.raises(openai.NotFoundError, match=r"There is no upload .*POST /v1/uploads makes one"):
        openai_client.uploads.parts.create("upload_none", data=b"x")
    assert stored(settings) == 0
