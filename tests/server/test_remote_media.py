"""Media by URL: from where the operator allows it, from public addresses, within bounds, and from nowhere else."""

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from unmask_engine.request import AudioPart, ImagePart
from unmask_server import remote_media
from unmask_server.remote_media import MAX_FETCHED, Refusal, RemoteMedia, is_public
from unmask_server.settings import Settings

HOST = "media.example"
MAX_BYTES = 5000


class Host(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.asked.append((self.headers["host"], self.path))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "http://127.0.0.1/secret")
            self.send_header("content-length", "0")
            self.end_headers()
        elif self.path in ("/endless", "/slow"):
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(bytes(1000 if self.path == "/endless" else 1))
                    time.sleep(0.05 if self.path == "/slow" else 0)
            except OSError:
                pass
            self.close_connection = True
        elif self.path == "/nonsense":
            self.wfile.write(b"nonsense\r\n\r\n")
            self.close_connection = True
        elif self.path in self.files:
            self.send_response(200)
            self.send_header("content-length", str(len(self.files[self.path])))
            self.end_headers()
            self.wfile.write(self.files[self.path])
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host(png: bytes, wav: bytes) -> Iterator[ThreadingHTTPServer]:
    Host.files, Host.asked = {"/a.png": png, "/a.wav": wav, "/large": bytes(MAX_BYTES + 1)}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name leads to this machine, and that counts as public; -> the names that were looked up."""
    names: list[str] = []

    async def resolve(name: str, port: int) -> list[str]:
        names.append(name)
        return ["127.0.0.1"]

    monkeypatch.setattr(remote_media, "resolved", resolve)
    monkeypatch.setattr(remote_media, "is_public", lambda address: address == "127.0.0.1")
    return names


def fetch(*urls: str, domains: tuple[str, ...] = (HOST,)) -> list[bytes | Refusal]:
    async def run() -> list[bytes | Refusal]:
        found = await RemoteMedia(domains, MAX_BYTES).fetched(urls)
        return [found[url] for url in dict.fromkeys(urls)]

    return asyncio.run(run())


def code(answer: bytes | Refusal) -> str:
    assert isinstance(answer, Refusal)
    return answer.code


@pytest.mark.parametrize("name", [HOST, f"cdn.{HOST}", HOST.upper(), f"{HOST}."])
def test_a_host_of_an_allowed_domain(host, loopback, png, name: str) -> None:
    url = f"http://{name}:{host.server_port}/a.png"
    assert fetch(url) == [png]
    assert [path for _, path in Host.asked] == ["/a.png"]
    assert Host.asked[0][0].lower().startswith(name.lower())


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a.png",
        f"http://{HOST}.other.example/a.png",
        f"http://not{HOST}/a.png",
        f"http://other.example/{HOST}",
        f"http://{HOST}@other.example/a.png",
        f"http://user:password@{HOST}/a.png",
        f"http://other.example#@{HOST}/",
        "http://127.0.0.1/a.png",
        "http://[::1]/a.png",
        "http:///a.png",
        "https:a.png",
        "http://[",
        f"http://{HOST}:99999/",
    ],
)
def test_any_other_is_not_even_looked_up(loopback, url: str) -> None:
    assert code(*fetch(url)) == "remote_media_refused"
    assert loopback == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/moved", "remote_media_refused"),
        ("/none", "remote_media_failed"),
        ("/nonsense", "remote_media_failed"),
        ("/large", "media_too_large"),
        ("/endless", "media_too_large"),
        ("/slow", "remote_media_failed"),
    ],
)
def test_what_a_host_may_do_wrong(host, loopback, monkeypatch, path: str, expected: str) -> None:
    if path == "/slow":  # five seconds in all
        monkeypatch.setattr(remote_media, "TIMEOUT_S", 0.7)
    assert code(*fetch(f"http://{HOST}:{host.server_port}{path}")) == expected
    assert len(Host.asked) == 1


def test_nobody_there(loopback) -> None:
    assert code(*fetch(f"http://{HOST}:1/a.png")) == "remote_media_failed"
    assert code(*fetch(f"https://{'a' * 70}.{HOST}:1/a.png")) == "remote_media_failed"


def test_a_request_fetches_so_many(host, loopback, png) -> None:
    urls = [f"http://{HOST}:{host.server_port}/a.png?{i}" for i in range(MAX_FETCHED + 1)]
    Host.files |= {f"/a.png?{i}": png for i in range(MAX_FETCHED + 1)}
    assert [isinstance(answer, Refusal) for answer in fetch(*urls, urls[0])] == [False] * MAX_FETCHED + [True]
    assert len(Host.asked) == MAX_FETCHED


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["169.254.169.254"], ["::ffff:127.0.0.1"], []]
)
def test_a_name_that_leads_inside_is_refused_before_a_connection(host, monkeypatch, addresses: list[str]) -> None:
    async def resolve(*_: object) -> list[str]:
        return addresses

    monkeypatch.setattr(remote_media, "resolved", resolve)
    assert code(*fetch(f"http://{HOST}:{host.server_port}/a.png")) == "remote_media_refused"
    assert Host.asked == []


def test_the_name_is_resolved_once(host, loopback) -> None:
    """So a name server that changes its mind changes nothing."""
    fetch(f"http://{HOST}:{host.server_port}/a.png")
    assert loopback == [HOST]


def test_each_address_is_tried(host, monkeypatch, png) -> None:
    async def resolve(*_: object) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]  # the host listens at the latter

    monkeypatch.setattr(remote_media, "resolved", resolve)
    monkeypatch.setattr(remote_media, "is_public", lambda _: True)
    assert fetch(f"http://{HOST}:{host.server_port}/a.png") == [png]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(address) == expected


def test_through_the_api(start, wait, new_engine, host, loopback, png) -> None:
    url = f"http://{HOST}:{host.server_port}"
    settings = Settings(allowed_media_domains=(HOST,))
    with start(lambda: new_engine, settings) as client:
        wait(lambda: client.get("/ready").status_code == 200)

        def ask(path: str, body: dict[str, object]) -> httpx.Response:
            return client.post(path, json=body)

        content = [
            {"type": "image_url", "image_url": {"url": f"{url}/a.png"}},
            {"type": "text", "text": f"{url}/b.png"},
        ]
        native = [{"type": "image", "data": f"{url}/a.png"}, {"type": "audio", "data": f"{url}/a.wav"}]
        edit = {"target": native[0], "mask": {"data": f"{url}/none"}}
        message = {"role": "user", "content": content}
        assert ask("/v1/chat/completions", {"messages": [message]}).status_code == 200
        sound = [{"type": "audio_url", "audio_url": {"url": f"{url}/a.wav"}}]
        assert ask("/v1/chat/completions", {"messages": [{"role": "user", "content": sound}]}).status_code == 200
        picture = [{"type": "input_image", "image_url": f"{url}/a.png"}]
        assert ask("/v1/responses", {"input": [{"role": "user", "content": picture}]}).status_code == 200
        assert ask("/v1/generate", {"input": native}).status_code == 200
        assert ask("/v1/generate", {"messages": [{"role": "user", "content": native}]}).status_code == 200
        kinds = [[type(part) for part in request.parts] for request in new_engine.requests]
        assert [kind[0] for kind in kinds] == [ImagePart, AudioPart, ImagePart, ImagePart, ImagePart]
        failed = ask("/v1/generate", {"input": "x", "output": ["image"], "edit": edit}).json()["error"]
        assert (failed["param"], failed["code"]) == ("edit.mask.data", "remote_media_failed")
        other = [{"type": "image_url", "image_url": {"url": "http://other.example/a.png"}}]
        refused = ask("/v1/chat/completions", {"messages": [{"role": "user", "content": other}]})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "remote_media_refused"
        assert refused.json()["error"]["param"] == "messages[0].content[0].image_url"
        assert not any(path == "/b.png" for _, path in Host.asked)


def test_a_slow_host_keeps_nobody_else_waiting(start, wait, new_engine, host, loopback, monkeypatch) -> None:
    monkeypatch.setattr(remote_media, "TIMEOUT_S", 3.0)
    url = f"http://{HOST}:{host.server_port}/slow"
    settings = Settings(allowed_media_domains=(HOST,), max_media_threads=1)
    with start(lambda: new_engine, settings) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        slow = threading.Thread(
            target=client.post, args=("/v1/generate",), kwargs={"json": {"input": [{"type": "image", "data": url}]}}
        )
        slow.start()
        wait(lambda: len(Host.asked) == 1)
        png = {"type": "image", "data": base64.b64encode(Host.files["/a.png"]).decode()}
        assert client.post("/v1/generate", json={"input": [png]}).status_code == 200
        assert slow.is_alive()
        slow.join()


def test_without_the_setting_nothing_is_fetched(client: httpx.Client, host, loopback) -> None:
    for url in (f"http://{HOST}:{host.server_port}/a.png", "ftp://x/a.png"):
        answer = client.post("/v1/generate", json={"input": [{"type": "image", "data": url}]})
        assert answer.json()["error"]["code"] == "remote_media_refused"
    assert Host.asked == loopback == []
