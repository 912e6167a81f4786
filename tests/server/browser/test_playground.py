"""What somebody does on the page who has come to try the model."""

import base64
import io
import re
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.slow  # loads the model, starts a browser


def ask(page: "Page", text: str, task: str | None = None) -> "Locator":
    """Sends a prompt; -> its turn, answered."""
    page.locator("#prompt").fill(text)
    if task is not None:
        page.locator("#tasks label", has_text=re.compile(f"^{task}$")).click()
    page.locator("#prompt").press("Enter")
    return answered(page)


def answered(page: "Page") -> "Locator":
    turn = page.locator(".turn").last
    turn.locator(".samples").wait_for()  # comes with the end
    return turn


def pixels(picture: "Locator") -> np.ndarray:
    """(H, W, 3) of what an <img> shows."""
    url = picture.evaluate(
        """async (image) => {
            await image.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def test_a_picture_is_drawn_and_its_steps_can_be_seen(page) -> None:
    turn = ask(page, "a large red circle", "Draw")
    drawn = turn.locator(".picture img")
    assert pixels(drawn).shape == (128, 128, 3)
    final = drawn.get_attribute("src")
    dial = turn.locator(".steps input")
    last = int(dial.get_attribute("max"))
    assert last > 4  # a slow reader gets several steps as one
    assert re.match(r"3\d steps", turn.locator(".facts").inner_text())
    dial.fill(str(last // 2))
    assert "step" in turn.locator(".steps output").inner_text()
    assert drawn.get_attribute("src") != final
    dial.fill(str(last))
    assert drawn.get_attribute("src") == final


def test_the_first_page_shows_a_drawing_being_made(page) -> None:
    page.add_init_script(
        """window.seen = new Set();
        new MutationObserver(() => {
            const image = document.querySelector("#recording img");
            if (image?.src && !image.hidden) window.seen.add(image.src);
        }).observe(document, { subtree: true, childList: true, attributes: true });"""
    )
    page.reload()
    page.wait_for_function("() => window.seen.size > 8")  # previews, then the picture
    shown = page.locator("#recording img")
    assert shown.get_attribute("alt") == page.locator("#recording").get_attribute("data-prompt")
    assert page.locator("#recording .quiet").inner_text().endswith("steps, recorded")


def test_fewer_steps_are_asked_for_with_the_slider(page) -> None:
    page.locator("#steps").fill("3")
    turn = ask(page, "a blue star", "Draw")
    assert "4 steps" in turn.locator(".facts").inner_text()
    assert '"steps":4' in turn.locator("code").text_content()


def test_an_uploaded_picture_is_asked_about(page, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    Image.new("RGB", (300, 200), "red").save(file)
    page.locator("#file").set_input_files(file)
    page.locator(".chip img").wait_for()
    turn = ask(page, "what color is it")
    assert turn.locator(".words.final").inner_text().strip()
    assert turn.locator(".asked h2").inner_text() == "Answer"
    assert page.locator(".chip").count() == 0


def test_a_spoken_question_is_answered_aloud(page) -> None:
    page.get_by_role("button", name="Record").click()
    page.wait_for_timeout(3500)
    page.locator("#record").click()
    page.locator(".chip audio").wait_for()
    page.locator("#tasks label", has_text="Reply aloud").click()
    page.locator("#send").click()
    turn = answered(page)
    assert turn.locator(".words").inner_text().strip()
    assert page.evaluate("window.sounds") > 0
    turn.get_by_role("button", name="Play", exact=True).click()
    turn.get_by_role("button", name="Pause").wait_for()


def test_an_uploaded_picture_is_asked_about_by_voice_and_the_answer_heard(page, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.new("RGB", (300, 200), "red").save(file)
    page.locator("#file").set_input_files(file)
    page.locator(".chip img").wait_for()
    page.get_by_role("button", name="Record").click()
    page.wait_for_timeout(3500)
    page.locator("#record").click()
    page.locator(".chip audio").wait_for()
    page.locator("#more summary").click()
    page.locator("#block").fill("16")  # from the left, so that the speech begins before the last step
    page.locator("#tasks label", has_text="Answer aloud").click()
    page.locator("#send").click()
    turn = answered(page)
    assert page.evaluate("window.soundedEarly")
    assert turn.locator(".words").inner_text().strip()
    assert " svqa " in turn.locator(".facts").inner_text()


def test_a_photo_is_taken_and_asked_about(page) -> None:
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take it").click()
    photo = pixels(page.locator(".chip img"))
    assert photo.shape == (480, 640, 3)
    assert photo.mean((0, 1)) == pytest.approx((254, 0, 0), abs=12)
    assert page.evaluate("window.tracks.map((track) => track.readyState)") == ["ended"]  # the camera is off
    assert ask(page, "what color is it").locator(".words.final").inner_text().strip()


def test_no_photo_is_taken(page) -> None:
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take it").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    page.wait_for_function("window.tracks.every((track) => track.readyState === 'ended')")
    assert page.locator(".chip").count() == 0


@pytest.mark.parametrize(
    ("button", "hint"), [("Camera", "No camera could be opened"), ("Record", "was not allowed to")]
)
def test_a_device_that_is_refused_is_explained(page, button, hint) -> None:
    refuse = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'))"
    page.evaluate(f"() => {{ {refuse} }}")
    page.get_by_role("button", name=button).click()
    page.locator("#hint", has_text=hint).wait_for()


def repaint(page: "Page", text: str) -> None:
    """Paints over a part of the left half in the dialogue that is open."""
    box = page.locator(".easel canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.6, steps=5)
    page.mouse.up()
    page.locator("dialog input[type=text]").fill(text)
    page.locator("dialog").get_by_role("button", name="Repaint").click()


def test_a_picture_that_was_given_is_repainted(page, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.new("RGB", (96, 96), "yellow").save(file)
    page.locator("#file").set_input_files(file)
    page.locator(".chip").get_by_role("button", name="Repaint").click()
    repaint(page, "a red circle on a yellow background")
    turn = answered(page)
    after = pixels(turn.locator(".picture img"))
    assert (after[:, 60:] == (255, 255, 0)).all()
    assert page.locator(".chip").count() == 0


def test_a_part_of_a_picture_is_repainted_and_the_rest_kept(page) -> None:
    before = pixels(ask(page, "a large red circle", "Draw").locator(".picture img"))
    page.get_by_role("button", name="Repaint").click()
    repaint(page, "a large blue circle")
    page.locator(".turn").nth(1).wait_for()
    after = pixels(answered(page).locator(".picture img"))
    assert (after[:, 80:] == before[:, 80:]).all()
    assert (after != before).any()


def test_a_repainting_is_possible_by_keys(page) -> None:
    ask(page, "a blue star", "Draw")
    page.get_by_role("button", name="Repaint").press("Enter")
    for key in ("ArrowLeft", "ArrowUp", "Space"):
        page.locator(".easel canvas").press(key)
    page.locator("dialog input[type=text]").press("Enter")
    page.locator(".turn").nth(1).wait_for()
    assert answered(page).locator(".asked h2").inner_text() == "Repaint"


def test_a_part_of_speech_is_said_anew(page) -> None:
    turn = ask(page, "a red circle", "Say")
    assert page.evaluate("window.sounds") > 0
    box = turn.locator(".speech canvas").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=4)
    page.mouse.up()
    form = turn.locator(".respeak")
    assert float(form.locator("input").nth(1).input_value()) > float(form.locator("input").nth(0).input_value()) > 0
    form.get_by_label("The whole then says").fill("a green circle")
    form.get_by_role("button", name="Say it anew").click()
    page.locator(".turn").nth(1).wait_for()
    assert answered(page).locator(".asked h2").inner_text().startswith("Say anew")


def test_words_are_chosen_and_said_anew(page) -> None:
    turn = ask(page, "a red circle", "Say")
    turn.get_by_role("button", name="Say a part anew").click()
    form = turn.locator(".respeak")
    start, end = form.get_by_label("From, s"), form.get_by_label("to, s")
    whole = float(end.input_value())
    form.get_by_role("button", name="circle").click()
    assert whole * 0.3 < float(start.input_value()) < float(end.input_value()) <= whole
    form.get_by_role("button", name="circle").click()  # no longer
    form.get_by_role("button", name="red").click()
    assert 0 < float(start.input_value()) < float(end.input_value()) < whole
    form.get_by_label("What is said there").fill("green")
    assert form.get_by_label("The whole then says").input_value() == "a green circle"
    form.get_by_role("button", name="Say it anew").click()
    page.locator(".turn").nth(1).wait_for()
    assert '"text":"green"' in answered(page).locator("code").text_content()


def test_a_recording_is_written_down_and_changed_by_its_words(page, tmp_path: Path, microphone: Path) -> None:
    with wave.open(str(microphone)) as whole:  # sound from 1 s on
        rate, samples = whole.getframerate(), whole.readframes(3 * whole.getframerate())
    file = tmp_path / "question.wav"
    with wave.open(str(file), "wb") as short:
        short.setparams((1, 2, rate, 0, "NONE", ""))
        short.writeframes(samples)
    page.locator("#file").set_input_files(file)
    page.locator(".chip audio").wait_for()
    page.locator("#tasks label", has_text="Write down").click()
    page.locator("#send").click()
    turn = answered(page)
    words = turn.locator(".words.final").inner_text().split()
    turn.get_by_role("button", name="Say a part anew").click()
    form = turn.locator(".respeak")
    if len(words) > 1:  # as it understood
        form.locator(".picker button").first.click()
        assert float(form.get_by_label("From, s").input_value()) >= 0.9  # the words come after the silence
    form.get_by_label("What is said there").fill("who")
    form.get_by_role("button", name="Say it anew").click()
    page.locator(".turn").nth(1).wait_for()
    assert answered(page).locator(".asked h2").inner_text().startswith("Say anew")


def test_holes_are_filled_in_and_the_rest_kept(page) -> None:
    turn = ask(page, "the sky is [MASK:1] today")
    text = turn.locator(".words").inner_text()
    assert text.startswith("the sky is")
    assert text.endswith("today")


def test_words_that_are_selected_are_masked(page) -> None:
    page.locator("#prompt").fill("a large red circle")
    page.evaluate("document.getElementById('prompt').setSelectionRange(2, 11)")
    page.get_by_role("button", name="Mask", exact=True).click()
    assert page.locator("#prompt").input_value() == "a [MASK:2] circle"
    assert page.locator("#tasks span").inner_text() == "Fill in"


def test_a_dialogue_hands_free(page) -> None:
    page.get_by_role("button", name="Talk").click()
    page.locator("#talk .status", has_text="Listening").wait_for()
    page.locator("#talk .status", has_text="Speaking").wait_for()
    page.locator(".turn.spoken .words:not(:empty)").first.wait_for()
    assert page.evaluate("window.sounds") > 0
    page.get_by_role("button", name="End").click()
    page.locator("#prompt").wait_for()


def test_a_dialogue_push_to_talk(page) -> None:
    page.get_by_role("button", name="Talk").click()
    page.locator("#talk .status", has_text="Listening").wait_for()
    page.get_by_text("Push to talk").click()
    button = page.get_by_role("button", name="Hold to talk")
    button.dispatch_event("pointerdown")
    page.wait_for_timeout(6000)
    button.dispatch_event("pointerup")
    page.locator(".turn.spoken .words:not(:empty)").first.wait_for()


def test_a_mistake_is_explained_and_can_be_mended(page) -> None:
    page.locator("#more summary").click()
    page.locator("#temperature").fill("1000")
    page.locator("#prompt").fill("a red circle")
    page.locator("#prompt").press("Enter")
    problem = page.get_by_role("alert")
    problem.wait_for()
    assert "Temperature must be" in problem.inner_text()
    assert problem.get_by_role("button", name="Try again").is_visible()


@pytest.mark.parametrize("options", [{"reduced_motion": "reduce"}, {"viewport": {"width": 360, "height": 700}}])
def test_still_and_small(open_page, options) -> None:
    with open_page(**options) as page:
        ask(page, "a green square", "Draw")
        ask(page, "a large green square and a red circle", "Say").get_by_role("button", name="Say a part anew").click()
        page.locator("#more summary").click()
        page.locator(".samples summary").first.click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_everything_has_a_name_and_an_order(page) -> None:
    page.locator("#prompt").focus()
    page.locator("#prompt").fill("hello")
    order = []
    for _ in range(7):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert order == ["add-picture", "add-photo", "record", "add-hole", "start-talk", "task", "send"]
    assert (
        page.evaluate(
            """[...document.querySelectorAll("button, input:not([type=file]), textarea")]
            .filter((element) => !element.innerText && !element.labels?.length && !element.ariaLabel)
            .map((element) => element.outerHTML)"""
        )
        == []
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_hinders_anybody(open_page, scheme) -> None:
    """By the rules of axe: names, roles, order, contrast."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with open_page(color_scheme=scheme, reduced_motion="reduce") as page:
        found = [axe.run(page)]
        ask(page, "a blue star", "Draw").locator(".samples summary").click()
        ask(page, "a red circle", "Say").get_by_role("button", name="Say a part anew").click()
        page.locator("#more summary").click()
        found.append(axe.run(page))
        page.locator(".turn").first.get_by_role("button", name="Repaint").click()
        found.append(axe.run(page))
    assert not any(results.violations_count for results in found), "\n".join(r.generate_report() for r in found)


def test_light_and_dark_are_different(open_page) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        with open_page(color_scheme=scheme) as page:
            colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
            brightness[scheme] = sum(map(int, re.findall(r"\d+", colour)[:3]))
    assert brightness["light"] > 600 > 200 > brightness["dark"]
