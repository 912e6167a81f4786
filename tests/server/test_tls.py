"""TLS: a server with a certificate, and what is wrong with one."""

import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from unmask_server.commands.exits import CommandError, UsageError
from unmask_server.commands.health import health
from unmask_server.commands.serve import serve
from unmask_server.settings import Settings

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """For 127.0.0.1, signed by itself; and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_a_server_with_a_certificate_speaks_tls_alone(start, wait, new_engine, certificate) -> None:
    cert, key = certificate
    with start(lambda: new_engine, Settings(ssl_certfile=str(cert), ssl_keyfile=str(key))) as plain:
        port = plain.base_url.port
        context = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context) as client:
            wait(lambda: client.get("/ready").status_code == 200)
            assert client.post("/v1/generate", json={"input": "hi"}).json()["output"][0]["text"] == "hi"
        with pytest.raises(httpx.TransportError):
            plain.get("/ready")
        health(port, has_tls=True)
        with pytest.raises(CommandError):
            health(port)


def test_a_certificate_that_cannot_be_used_is_refused(certificate, tmp_path: Path) -> None:
    cert, key = map(str, certificate)
    nothing = tmp_path / "nothing.pem"
    for settings, message in (
        (Settings(ssl_keyfile=key), "needs --ssl-certfile"),
        (Settings(ssl_certfile=str(nothing)), "No such file"),
        (Settings(ssl_certfile=cert, ssl_keyfile=cert), "ssl-keyfile"),
    ):
        with pytest.raises(UsageError, match=message):
            serve(settings)
