"""The page and its files are served whole, typed, guarded and revalidated."""

import re
from pathlib import Path

import httpx
import pytest

WEB = Path(__file__).parents[2] / "clients" / "web"
MODULES = sorted(file.name for file in WEB.glob("*.js"))
TYPES = {".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def test_the_page_and_all_it_names_are_there(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:href|src)="(playground/[^"]+)"', page.text)
    assert len(named) >= 3
    for path in named:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200, path
        assert TYPES[Path(path).suffix] in answer.headers["content-type"]


@pytest.mark.parametrize("module", MODULES)
def test_whatever_a_module_imports_is_served(client: httpx.Client, module: str) -> None:
    source = client.get(f"/playground/{module}")
    assert "javascript" in source.headers["content-type"]
    for imported in re.findall(r'^import .*?from "\./([^"]+)"', source.text, re.MULTILINE | re.DOTALL):
        answer = client.get(f"/playground/{imported}")
        assert answer.status_code == 200, f"{module} imports {imported}"
        assert "javascript" in answer.headers["content-type"]


@pytest.mark.parametrize("path", ["/", "/playground/main.js", "/playground/client/index.js"])
def test_only_what_the_server_sends_may_run(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/playground/style.css", "/playground/client/client.js"])
def test_files_are_revalidated(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


def test_nothing_else_of_the_disk_is_served(client: httpx.Client) -> None:
    for path in ("/playground/none.js", "/playground/%2e%2e/js/package.json", "/playground/client/..%2fpackage.json"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"


def test_no_style_or_script_stands_in_the_page() -> None:
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", page)
    assert "http://" not in page
    assert "https://" not in page
