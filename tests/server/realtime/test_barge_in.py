"""The playground in a real Chromium: somebody interrupts a model that talks for ten seconds.

The microphone is a stream that the test speaks into when it wants to, with a voice that Silero itself hears.
"""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, WebSocketRoute

pytestmark = pytest.mark.slow  # starts a browser, and talks in real time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MICROPHONE = """
navigator.mediaDevices.getUserMedia = async () => {
  const context = new AudioContext();
  await context.resume();
  const room = context.createMediaStreamDestination();
  window.speak = async (wav) => {
    const bytes = Uint8Array.from(atob(wav), (letter) => letter.charCodeAt(0));
    const voice = context.createBufferSource();
    voice.buffer = await context.decodeAudioData(bytes.buffer);
    voice.connect(room);
    await new Promise((resolve) => { voice.onended = resolve; voice.start(); });
  };
  return room.stream;
};
"""
PLAYED = """
window.played = window.silenced = 0;
const { start, stop } = AudioBufferSourceNode.prototype;
AudioBufferSourceNode.prototype.start = function (...when) { window.played += 1; return start.apply(this, when); };
AudioBufferSourceNode.prototype.stop = function (...when) { window.silenced += 1; return stop.apply(this, when); };
"""


@pytest.fixture(scope="module")
def question() -> str:
    """Base64 of a recording."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("no voice: sudo apt-get install espeak-ng")
    spoken = subprocess.run(["espeak-ng", "--stdout", "what color is the sky today"], capture_output=True, check=True)
    return base64.b64encode(spoken.stdout).decode()


@pytest.fixture
def new_page(server) -> Iterator["Page"]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: sudo apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.add_init_script(MICROPHONE + PLAYED)
        yield page
        browser.close()
        assert not complaints


def begin(page: "Page", url: str) -> None:
    page.goto(url)
    page.locator("#model", has_text="fake").wait_for()
    page.get_by_role("button", name="Talk").click()
    status(page, "Listening").wait_for()


@pytest.fixture
def page(new_page, server, talking) -> Iterator["Page"]:
    """In a dialogue."""
    talking.chunk_s = 1.0
    begin(new_page, server.url)
    yield new_page
    assert new_page.locator("#hint").text_content() == ""  # nothing went wrong
    new_page.get_by_role("button", name="End", exact=True).click()
    new_page.locator("#prompt").wait_for()


@dataclass
class Script:
    """In place of the server's end of a dialogue, for what it does too seldom to be waited for."""

    socket: "WebSocketRoute | None" = None
    received: list[dict[str, Any]] = field(default_factory=list)

    def take(self, socket: "WebSocketRoute") -> None:
        self.socket = socket
        socket.on_message(lambda message: self.received.append(json.loads(message)))
        self.send("session.created", session={})

    def send(self, kind: str, **fields: Any) -> None:
        assert self.socket is not None
        self.socket.send(json.dumps({"type": kind, **fields}))

    def say(self, item: str) -> None:
        """Half a minute of an answer."""
        self.send("response.output_audio_transcript.delta", item_id=item, delta="one ")
        self.send("response.output_audio.delta", item_id=item, delta=base64.b64encode(bytes(30 * 48_000)).decode())

    def got(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.received if event["type"] == kind]


@pytest.fixture
def script(new_page, server) -> Script:
    """Of a dialogue in which the user has asked something."""
    script = Script()
    new_page.route_web_socket("**/v1/realtime", script.take)
    begin(new_page, server.url)
    script.send("input_audio_buffer.committed", item_id="asked")
    script.send("response.created", response={})
    return script


def status(page: "Page", text: str) -> "Locator":
    return page.locator("#talk .status", has_text=text)


def remembered(talking) -> list[str]:
    """What the model is told of the dialogue before each spoken answer."""
    asked = [request for request in talking.requests if request.task == "sqa"]
    return [" ".join(turn.text for turn in request.history if turn.role == "assistant") for request in asked]


def test_who_talks_is_listened_to(page, talking, question) -> None:
    page.evaluate("wav => window.speak(wav)", question)
    status(page, "Speaking").wait_for()
    page.wait_for_timeout(1500)
    page.evaluate("wav => window.speak(wav)", question)
    first, second = page.locator(".turn.spoken").first, page.locator(".turn.spoken").nth(1)
    first.get_by_text("(interrupted)").wait_for()
    assert page.evaluate("window.silenced") > 0
    second.locator(".words:not(:empty)").wait_for()
    assert "(interrupted)" not in second.inner_text()
    assert "one" in remembered(talking)[1]  # of its first answer, what was heard of it
    assert "ten" not in remembered(talking)[1]


def test_an_answer_that_is_still_being_made_is_cut_off(page, talking, question) -> None:
    talking.stop_at = 3
    page.evaluate("wav => window.speak(wav)", question)
    status(page, "Speaking").wait_for()
    page.evaluate("wav => window.speak(wav)", question)
    page.locator(".turn.spoken").first.get_by_text("(interrupted)").wait_for()
    page.locator(".turn.spoken").nth(1).wait_for()
    assert talking.num_cancelled >= 1


def test_the_button_interrupts_too(page, talking, question) -> None:
    page.get_by_text("Push to talk").click()
    status(page, "Hold the button").wait_for()
    talking.stop_at = 3
    hold = page.get_by_role("button", name="Hold to talk")
    hold.dispatch_event("pointerdown")
    page.evaluate("wav => window.speak(wav)", question)
    hold.dispatch_event("pointerup")
    status(page, "Speaking").wait_for()
    hold.dispatch_event("pointerdown")
    page.locator(".turn.spoken").first.get_by_text("(interrupted)").wait_for()
    talking.stop_at = None
    page.evaluate("wav => window.speak(wav)", question)
    hold.dispatch_event("pointerup")
    page.locator(".turn.spoken").nth(1).locator(".words:not(:empty)").wait_for()
    assert talking.num_cancelled >= 1


def test_a_touch_of_the_button_is_no_turn(page, talking) -> None:
    page.get_by_text("Push to talk").click()
    status(page, "Hold the button").wait_for()
    page.evaluate("""() => {
        const button = [...document.querySelectorAll("button")].find((each) => each.textContent === "Hold to talk");
        button.dispatchEvent(new PointerEvent("pointerdown"));
        button.dispatchEvent(new PointerEvent("pointerup"));
    }""")
    status(page, "too short").wait_for()
    assert not talking.requests
    assert page.locator(".turn.spoken").count() == 0


def test_after_the_answer_it_listens_again(page, talking, question) -> None:
    talking.chunk_s = 0.1
    page.evaluate("wav => window.speak(wav)", question)
    status(page, "Speaking").wait_for()
    status(page, "Listening").wait_for()
    assert page.get_by_text("(interrupted)").count() == 0


def test_what_comes_late_of_an_interrupted_answer_is_not_played(new_page, script) -> None:
    script.say("answer")
    status(new_page, "Speaking").wait_for()
    script.send("input_audio_buffer.speech_started", item_id="next")
    new_page.get_by_text("(interrupted)").wait_for()
    played = new_page.evaluate("window.played")
    script.say("answer")
    script.send("response.done", response={"status": "cancelled"})
    script.send("input_audio_buffer.committed", item_id="next")
    status(new_page, "Thinking").wait_for()
    assert new_page.evaluate("window.played") == played
    (cut,) = script.got("conversation.item.truncate")
    assert cut["item_id"] == "answer"
    assert 0 <= cut["audio_end_ms"] <= 30_000


def test_the_button_cancels_an_answer_that_is_not_heard_yet(new_page, script) -> None:
    new_page.get_by_text("Push to talk").click()
    new_page.get_by_role("button", name="Hold to talk").dispatch_event("pointerdown")
    status(new_page, "Listening").wait_for()
    new_page.wait_for_function("document.querySelector('.held') !== null")
    assert script.got("response.cancel")
    assert not script.got("conversation.item.truncate")
    script.send("error", error={"code": "response_cancel_not_active", "message": "it had ended by itself"})
    script.send("response.done", response={"status": "cancelled"})
    assert new_page.get_by_text("it had ended by itself").count() == 0
    new_page.get_by_role("button", name="Hold to talk").dispatch_event("pointerup")
    assert new_page.get_by_text("(interrupted)").count() == 0
