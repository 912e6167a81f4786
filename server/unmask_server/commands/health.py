"""`unmask health`: what a container's health check asks. Standard library only, since it runs every few seconds."""

import json
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from unmask_server.commands.exits import CommandError

TIMEOUT_S = 5.0


def health(port: int, has_tls: bool = False) -> None:
    """Raises CommandError unless the server on this machine is ready for requests."""
    connection = _secure(port) if has_tls else HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, HTTPException) as error:
        raise CommandError(f"nothing answers on port {port}: {error}") from None
    finally:
        connection.close()
    if status != 200:
        raise CommandError(f"not ready: {_reason(body) or f'status {status}'}")
    print("ready")


def _secure(port: int) -> HTTPConnection:
    """The certificate is for the server's public name, and nobody stands between a machine and itself."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=context)


def _reason(body: bytes) -> str | None:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return None
