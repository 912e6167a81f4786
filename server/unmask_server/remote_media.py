"""Media that a request names by URL: fetched where the operator has allowed their host, and refused otherwise.

A host's name is resolved once, its addresses must be public ones, and the connection goes to an address that has been
looked at: what its name server says later cannot turn the fetch into a request to the operator's own network.
"""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

import httpcore
import httpx

from unmask_engine.request import RequestError

SCHEMES: Final = ("http", "https")
MAX_FETCHED: Final = 4  # of one request; no prompt takes more media
MAX_AT_ONCE: Final = 16  # of all requests
TIMEOUT_S: Final = 10.0  # for the whole of one, name and connection included
GLOBAL_UNICAST: Final = ip_network("2000::/3")
OK: Final = 200
MAX_PORT: Final = 65_535
MAX_NAME: Final = 253  # characters; RFC 1035, section 2.3.4
LABEL: Final = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"  # names of other letters are written in their xn-- form


@dataclass(frozen=True)
class Refusal:
    """Why there are no bytes; who reads the part that names the URL says where it stands."""

    message: str
    code: str = "remote_media_refused"

    def at(self, param: str) -> RequestError:
        return RequestError(f"{param}: {self.message}", param=param, code=self.code)


Fetched = Mapping[str, bytes | Refusal]


def is_domain(text: str) -> bool:
    """Whether hosts can have that name, or one that ends in it: no URL, no port, no pattern."""
    name = _bare(text)
    return len(name) <= MAX_NAME and re.fullmatch(rf"{LABEL}(\.{LABEL})*", name) is not None


class RemoteMedia:
    """`domains` allow the hosts of these names and their subdomains; none, and nothing is fetched."""

    def __init__(self, domains: Sequence[str], max_bytes: int) -> None:
        self._domains = tuple(map(_bare, domains))
        self._max_bytes = max_bytes
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    async def fetched(self, urls: Iterable[str]) -> Fetched:
        """The bytes at those of `urls` that are URLs of other machines; nothing about the rest."""
        wanted = list(dict.fromkeys(url for url in urls if is_remote(url))) if self._domains else []
        answers = await asyncio.gather(*map(self._answer, wanted[:MAX_FETCHED]))
        refusal = Refusal(f"more than {MAX_FETCHED} URLs are not fetched for one request.")
        return dict.fromkeys(wanted, refusal) | dict(zip(wanted, answers, strict=False))

    async def _answer(self, text: str) -> bytes | Refusal:
        try:
            url = httpx.URL(text)
            is_url = url.port is None or 0 < url.port <= MAX_PORT
        except (httpx.InvalidURL, ValueError):
            is_url = False
        if not is_url:
            return Refusal("this is no URL that can be read.")
        host = url.raw_host.decode("ascii").lower().rstrip(".")
        if url.scheme not in SCHEMES or url.userinfo or not host:
            return Refusal("only URLs of http and https without a user's name are fetched.")
        if not any(host == domain or host.endswith(f".{domain}") for domain in self._domains):
            return Refusal("this server does not fetch from there; send base64 or a data: URL.")
        try:
            async with self._places, asyncio.timeout(TIMEOUT_S):
                return await self._fetch(url)
        except _NotPublic:
            return Refusal("the host has an address that is not public.")
        except TimeoutError:
            return Refusal(f"the host did not send it within {TIMEOUT_S:g} s.", "remote_media_failed")
        except (OSError, UnicodeError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            return Refusal("the host could not be reached, or sent no proper answer.", "remote_media_failed")

    async def _fetch(self, url: httpx.URL) -> bytes | Refusal:
        too_large = Refusal(f"what is there has more than {self._max_bytes:,} bytes.", "media_too_large")
        headers = [(b"host", url.netloc), (b"accept", b"*/*"), (b"accept-encoding", b"identity")]
        pool = httpcore.AsyncConnectionPool(
            ssl_context=_tls() if url.scheme == "https" else None, network_backend=_Checked(), max_connections=1
        )
        where = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        async with pool, pool.stream("GET", where, headers=headers) as response:
            if 300 <= response.status < 400:
                return Refusal("the host redirects to another URL; give that one.")
            if response.status != OK:
                return Refusal(f"the host answered with status {response.status}.", "remote_media_failed")
            announced = dict(response.headers).get(b"content-length", b"0")
            if announced.isdigit() and int(announced) > self._max_bytes:
                return too_large
            content = bytearray()
            async for chunk in response.aiter_stream():
                content += chunk
                if len(content) > self._max_bytes:
                    return too_large
            return bytes(content)


def _bare(domain: str) -> str:
    return domain.lower().strip(".")


def is_remote(text: str) -> bool:
    return text[:8].lower().startswith(tuple(f"{scheme}:" for scheme in SCHEMES))


def is_public(address: str) -> bool:
    """Of a machine on the internet: none of a private network, this machine's, or one that stands for such a one."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and (ip not in GLOBAL_UNICAST or ip.sixtofour or ip.teredo):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


async def resolved(host: str, port: int) -> list[str]:
    """All addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _NotPublic(Exception):
    """Refused before anything was connected."""


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that have been looked at. TLS goes by the host's name all the same."""

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *rest: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        addresses = await resolved(host, port)
        if not addresses or not all(map(is_public, addresses)):
            raise _NotPublic
        for address in addresses[:-1]:
            with contextlib.suppress(OSError, httpcore.NetworkError, httpcore.TimeoutException):
                return await self._network.connect_tcp(address, port, *rest, **options)
        return await self._network.connect_tcp(addresses[-1], port, *rest, **options)


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()
