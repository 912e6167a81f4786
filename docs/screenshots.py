"""The pictures of the playground in docs/, and the recording on its first page:
python docs/screenshots.py http://127.0.0.1:8000, with a server there."""

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

DOCS = Path(__file__).parent
RECORDING = DOCS.parent / "clients" / "web" / "recorded.txt"
MAX_BYTES = 200_000


def ask(page: Page, text: str, task: str) -> Locator:
    page.locator("#prompt").fill(text)
    page.locator("#tasks label", has_text=task).first.click()
    page.locator("#prompt").press("Enter")
    turn = page.locator(".turn").last
    turn.locator(".samples").wait_for()
    return turn


def unmasking(page: Page) -> None:
    """A picture in the middle of its making."""
    turn = ask(page, "a large red circle on a sand background", "Draw")
    dial = turn.locator(".steps input")
    dial.fill(str(int(dial.get_attribute("max") or 0) * 2 // 5))
    dial.blur()


def conversation(page: Page) -> None:
    """A picture, an answer about it, speech."""
    turn = ask(page, "a large blue star", "Draw")
    turn.get_by_role("button", name="Ask about it").click()
    ask(page, "what color is the star", "Answer")
    ask(page, "a blue star", "Say")


def welcome(page: Page) -> None:
    page.wait_for_timeout(3000)


SHOTS: dict[str, tuple[Callable[[Page], None], dict[str, object]]] = {
    "playground.png": (unmasking, {"viewport": {"width": 1200, "height": 860}}),
    "playground-dark.png": (conversation, {"viewport": {"width": 1200, "height": 1000}, "color_scheme": "dark"}),
    "playground-welcome.png": (welcome, {"viewport": {"width": 1200, "height": 860}}),
    "playground-phone.png": (
        unmasking,
        {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
    ),
}


def record(url: str, prompt: str) -> None:
    """The stream of one drawing, as clients/web/recording.js shows it."""
    body = {
        "input": prompt,
        "output": [{"type": "image", "format": "webp"}],
        "stream": True,
        "preview": {"every_steps": 2, "confidence": True},
    }
    answer = httpx.post(f"{url}/v1/generate", json=body, timeout=600).raise_for_status()
    assert len(answer.content) < MAX_BYTES
    RECORDING.write_bytes(answer.content)


def main(url: str) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(base_url=url)
        page.goto("/")
        record(url, page.locator("#recording").get_attribute("data-prompt") or "")
        page.close()
        for name, (act, options) in SHOTS.items():
            page = browser.new_page(base_url=url, **options)  # type: ignore[arg-type]
            page.goto("/")
            page.locator("#examples button").first.wait_for()
            act(page)
            page.wait_for_timeout(700)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(256, dither=Image.Dither.NONE)
            picture.save(DOCS / name, optimize=True)
            assert (DOCS / name).stat().st_size < MAX_BYTES
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
