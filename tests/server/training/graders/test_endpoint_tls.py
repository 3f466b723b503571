"""Endpoints with TLS: the connection goes to a checked address, and the certificate has to be the name's."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.endpoints.endpoint_client import Endpoint, EndpointClient, EndpointFailed
from server.endpoints.guarded_network import AllowedHosts
from server.training.graders.endpoint import EndpointGrader, EndpointSpec
from server.training.graders.grade import Sample, grade_row
from tests.server.training.graders.endpoint_app import endpoint_app


def certificate(directory: Path, host: str) -> Path:
    """A file with a self-signed certificate of `host` and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    today = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - day)
        .not_valid_after(today + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = directory / f"{host}.pem"
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture(params=["localhost", "other.example"])
def served(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """(The name of a certificate, the URL of a server on localhost that has it); the certificate is trusted."""
    file = certificate(tmp_path, request.param)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with endpoint_app((200, {"score": 1}), tls=context) as app:
        yield [request.param, app.url]


async def test_the_certificate_has_to_be_that_of_the_host(served: list[str]) -> None:
    name, url = served
    client = EndpointClient(AllowedHosts("localhost"), first_delay_s=0.001)
    try:
        asked = client.post(Endpoint(url, {}, None, 10), {})
        if name == "localhost":
            assert await asked == {"score": 1}
        else:
            with pytest.raises(EndpointFailed, match=r"no answer from the endpoint \(ConnectError: .*certificate"):
                await asked
    finally:
        await client.close()


async def test_one_that_ends_the_connection_behind_the_handshake_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TLS 1.3 a client learns only then that it should have had a certificate."""
    file = certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.load_verify_locations(file)
    context.verify_mode = ssl.CERT_REQUIRED
    client = EndpointClient(AllowedHosts("localhost"), first_delay_s=0.001)
    with endpoint_app((200, {"scores": [1, 1]}), tls=context) as app:
        spec = EndpointSpec(type="endpoint", name="mine", url=app.url, batch_size=2)
        grader = EndpointGrader(spec, client)
        async with asyncio.timeout(30):
            grades = [grade_row(grader, Sample.of_text(text), {}) for text in ("a", "b")]
            for grade in await asyncio.gather(*grades):
                assert grade.error is not None and grade.error.kind == "endpoint_grader_server_error"
    await client.close()


async def test_whatever_fails_a_batch_every_one_of_it_hears_of_it() -> None:
    class Defective(EndpointClient):
        async def post(self, endpoint: Endpoint, body: object) -> object:
            raise ZeroDivisionError("by zero")

    spec = EndpointSpec(type="endpoint", name="mine", url="http://localhost/grade", batch_size=2)
    grader = EndpointGrader(spec, Defective(AllowedHosts("localhost")))
    async with asyncio.timeout(30):
        grades = await asyncio.gather(*(grade_row(grader, Sample.of_text(text), {}) for text in ("a", "b")))
    assert [grade.error is not None and grade.error.kind for grade in grades] == ["other_error"] * 2
