"""/v1/files over a bucket, of an S3 server that checks signatures."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import httpx
import openai
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from server.core.settings import Settings
from server.training.files.storage import BLOCK_BYTES, FileStorage
from tests.server.support.training_kit import ROWS, upload

BUCKET = "files"
LONG = bytes(range(256)) * (BLOCK_BYTES // 100)  # more than two blocks
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
FORM = {"purpose": "fine-tune"}


@dataclass(frozen=True)
class S3:
    """A server with one bucket, and the keys of its one user, by the names of their variables."""

    client: Any
    environment: dict[str, str]

    def files(self) -> dict[str, bytes]:
        objects = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {o["Key"]: self.client.get_object(Bucket=BUCKET, Key=o["Key"])["Body"].read() for o in objects}

    def unfinished_uploads(self) -> list[Any]:
        uploads: list[Any] = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return uploads


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    anyone = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
    iam = boto3.client("iam", endpoint_url=url, **anyone)
    iam.create_user(UserName="gateway")
    iam.put_user_policy(UserName="gateway", PolicyName="files", PolicyDocument=json.dumps(EVERYTHING))
    key = iam.create_access_key(UserName="gateway")["AccessKey"]
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    httpx.post(f"{url}/moto-api/reset-auth", content=b"0").raise_for_status()  # from here on, signatures are checked
    keys = {name.lower(): environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    yield S3(boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys), environment)
    server.stop()


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server with an empty bucket, where the environment says."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    s3fs.S3FileSystem.clear_instance_cache()  # which knows the last test's environment
    server.client.create_bucket(Bucket=BUCKET)
    yield server
    for key in server.files():
        server.client.delete_object(Bucket=BUCKET, Key=key)
    server.client.delete_bucket(Bucket=BUCKET)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def settings(settings: Settings, s3: S3, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a gateway that uses the bucket, after the changes to the environment that a test asks for."""
    url = f"s3://{BUCKET}/some/folder"
    for name, value in getattr(request, "param", {}).items():
        if name == "TINYLORA_FILES_URL":
            url = value
        elif value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    return settings.model_copy(update={"files_url": url, "max_file_bytes": len(LONG)})


@pytest.mark.parametrize("content", [ROWS, LONG], ids=["short", "of several parts"])
def test_file_is_an_object_until_it_is_deleted(openai_client: openai.OpenAI, s3: S3, content: bytes) -> None:
    file = upload(openai_client, content)
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())  # type: ignore[attr-defined]
    assert s3.files() == {f"some/folder/1/{file.id}": content}
    assert openai_client.files.content(file.id).read() == content
    openai_client.files.delete(file.id)
    assert s3.files() == {}


async def test_file_that_is_too_long_is_not_stored(client: httpx.AsyncClient, s3: S3) -> None:
    response = await client.post("/v1/files", data=FORM, files={"file": ("a", LONG + b"x")})
    assert response.status_code == 413
    assert s3.files() == {}


def test_a_write_that_breaks_off_leaves_nothing(s3: S3) -> None:
    class BreaksOff(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size) if self.tell() < len(LONG) - 1 else bytes(1 // 0)

    with pytest.raises(ZeroDivisionError):
        FileStorage(f"s3://{BUCKET}").write(BreaksOff(LONG), "1/file-a")
    assert s3.files() == {}
    assert s3.unfinished_uploads() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"TINYLORA_FILES_URL": "s3://absent"},
        {"AWS_SECRET_ACCESS_KEY": "wrong"},
        {"AWS_ACCESS_KEY_ID": "AKIAABSENT"},
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    ],
    ids=["no such bucket", "wrong secret", "unknown key", "no key", "no server"],
    indirect=True,
)
@pytest.mark.parametrize("content", [ROWS, LONG], ids=["short", "of several parts"])
async def test_bucket_that_cannot_be_written_is_a_503(client: httpx.AsyncClient, content: bytes, s3: S3) -> None:
    response = await client.post("/v1/files", data=FORM, files={"file": ("a", content)})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (503, "server_error", "storage_unavailable")
    assert "check TINYLORA_FILES_URL and its credentials" in error["message"]
    assert (await client.get("/v1/files")).json()["data"] == []
    assert [bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]] == [BUCKET]


async def test_file_whose_object_is_gone_is_a_503_and_can_be_deleted(client: httpx.AsyncClient, s3: S3) -> None:
    file_id = (await client.post("/v1/files", data=FORM, files={"file": ("a", ROWS)})).json()["id"]
    s3.client.delete_object(Bucket=BUCKET, Key=f"some/folder/1/{file_id}")
    for part in ("content", "lines"):
        response = await client.get(f"/v1/files/{file_id}/{part}")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "file_missing")
        assert file_id in response.json()["error"]["message"]
    assert (await client.delete(f"/v1/files/{file_id}")).json()["deleted"]
