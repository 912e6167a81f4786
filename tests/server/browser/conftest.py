"""The playground in a real Chromium, in front of the built-in model."""

import shutil
import wave
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from unmask_engine.engine import Engine
from unmask_engine.media import resample
from unmask_engine.request import GenerationRequest, TextPart
from unmask_server.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUESTION = "what color is the sky"
RATE = 48_000
PATIENCE_MS = 240_000  # the machine may be busy with other things
WATCH = """
window.sounds = 0;
window.soundedEarly = false;  // before the whole answer was there
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...when) {
  window.sounds += 1;
  window.soundedEarly ||= document.querySelector(".turn:last-child .busy") !== null;
  return start.apply(this, when);
};
window.tracks = [];  // of every microphone and camera that was opened
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  const stream = await open(wanted);
  window.tracks.push(...stream.getTracks());
  return stream;
};
"""
VIEW = (640, 480)  # of the camera: all red

OpenPage = Callable[..., AbstractContextManager["Page"]]


@pytest.fixture(scope="session")
def mini() -> Engine:
    return Engine.load("unmask-mini")


@pytest.fixture(scope="session")
def server(start, wait, mini: Engine) -> Iterator[str]:
    with start(lambda: mini, Settings()) as client:
        http: httpx.Client = client
        wait(lambda: http.get("/ready").status_code == 200)
        yield str(http.base_url)


@pytest.fixture(scope="session")
def microphone(mini: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Chromium's fake microphone hears, over and over: a question between silences."""
    (asked,) = mini.generate([GenerationRequest((TextPart(QUESTION),), ("audio",))])
    assert asked.audio is not None
    speech = resample(asked.audio, RATE).samples
    samples = np.concatenate([np.zeros(RATE), speech, np.zeros(12 * RATE)])
    file = tmp_path_factory.mktemp("microphone") / "question.wav"
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((samples * 32767).astype("<i2").tobytes())
    return file


@pytest.fixture(scope="session")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Chromium's fake camera sees: red, as Y'CbCr."""
    width, height = VIEW
    planes = bytes([76]) * (width * height) + bytes([85]) * (width * height // 4) + bytes([255]) * (width * height // 4)
    file = tmp_path_factory.mktemp("camera") / "red.y4m"
    file.write_bytes(b"YUV4MPEG2 W%d H%d F30:1 Ip A1:1 C420jpeg\n" % VIEW + 3 * (b"FRAME\n" + planes))
    return file


@pytest.fixture
def browser(microphone: Path, camera: Path) -> Iterator["Browser"]:
    """A new one for each test: the fake microphone's recording begins with the browser's first use of it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: sudo apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        arguments = [
            "--no-sandbox",  # tests often run as root
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={microphone}",
            f"--use-file-for-fake-video-capture={camera}",
            "--autoplay-policy=no-user-gesture-required",
        ]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser", server: str) -> OpenPage:
    """A context manager; whatever the page or its policy complains about fails the test."""

    @contextmanager
    def opened(**options: object) -> Iterator["Page"]:
        context = browser.new_context(base_url=server, permissions=["microphone", "camera"], **options)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(WATCH)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.goto("/")
        page.locator("#model", has_text="unmask-mini").wait_for()
        yield page
        context.close()
        refusals = "Failed to load resource"  # of a 4xx, which tests provoke
        assert not [text for text in complaints if not text.startswith(refusals)]

    return opened


@pytest.fixture
def page(open_page: OpenPage) -> Iterator["Page"]:
    with open_page() as page:
        yield page
