"""What the built-in model draws, says, hears and changes, as docs/gallery.md: `.venv/bin/python docs/gallery.py`.

Everything shown is the first answer to its prompt at the presets' settings, unretouched, wrong ones included. Files go
into docs/gallery/. `--model` takes another bundle, `--out` another folder.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pictures import PROMPTS, QUESTIONS, ask, spectrogram
from PIL import Image, ImageDraw

from unmask_engine.engine import Engine
from unmask_engine.media import write_audio
from unmask_engine.request import (
    AudioPart,
    Edit,
    Generation,
    GenerationRequest,
    ImagePart,
    Progress,
    Span,
    TextPart,
)

SIDE = 192  # pixels, as shown
FRAMES = 6  # of the film
SAYINGS = ("a red circle", "a large green star", "what color is the sky")
SPOKEN_QUESTION = "what shape is it"
HOLES = "a [MASK:1] [MASK:1] on a yellow background"
HEAD = """# Gallery

What **{name}** makes of some prompts: the first answer each, at the presets' settings, unretouched, the wrong ones too.
How often it is right is in its model card; this page shows what that looks and sounds like.
Written by `python docs/gallery.py`.
"""


class Gallery:
    """The page as it grows, and the files beside it."""

    def __init__(self, engine: Engine, out: Path) -> None:
        self.engine = engine
        self._out = out
        self._text: list[str] = []
        (out / "gallery").mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        text = "\n".join([HEAD.format(name=self.engine.name), *self._text])
        (self._out / "gallery.md").write_text(text.rstrip() + "\n", encoding="utf-8")

    def section(self, title: str, about: str) -> None:
        self._text += [f"## {title}\n", f"{about}\n"]

    def table(self, *columns: str) -> None:
        self._text += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]

    def row(self, *cells: str) -> None:
        self._text.append(f"| {' | '.join(cell.replace('|', '&#124;').replace(chr(10), ' ') for cell in cells)} |")

    def end(self) -> None:
        self._text.append("")

    def paragraph(self, text: str) -> None:
        self._text.append(f"{text}\n")

    def image(self, name: str, image: Image.Image, description: str) -> str:
        """Saves it; -> Markdown."""
        image.save(self._out / "gallery" / f"{name}.png", optimize=True)
        return f"![{description}](gallery/{name}.png)"

    def sound(self, name: str, audio: AudioPart) -> str:
        """Its spectrogram, its player."""
        if len(audio.samples) < 1024 or not audio.samples.any():
            return "(silence)"
        (self._out / "gallery" / f"{name}.wav").write_bytes(write_audio(audio, "wav"))
        shown = self.image(name, spectrogram(audio).resize((424, 80)), "Spectrogram up to 8 kHz")
        return f'{shown}<br><audio controls src="gallery/{name}.wav"></audio>'


def enlarged(image: ImagePart) -> Image.Image:
    return Image.fromarray(image.pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def drawings(page: Gallery) -> list[ImagePart]:
    page.section(
        "Drawing, and looking at it", "From the words; then a question about the drawing, and the model's own answer."
    )
    page.table("prompt", "drawing", "question", "answer")
    made = []
    for i, (prompt, question) in enumerate(zip(PROMPTS, QUESTIONS, strict=True)):
        _, _, image = ask(page.engine, (TextPart(prompt),), "image")
        assert image is not None
        answer, _, _ = ask(page.engine, (TextPart(question), image), "text")
        page.row(prompt, page.image(f"drawing-{i}", enlarged(image), prompt), question, answer or "(nothing)")
        made.append(image)
    page.end()
    return made


def film(page: Gallery) -> None:
    """The steps of one drawing; patches that are not committed yet are veiled."""
    engine, frames = page.engine, []
    is_committed: set[int] = set()

    def look(progress: Progress) -> None:
        is_committed.update(progress.commits.positions)
        if progress.step in wanted(progress.steps):
            frames.append((progress, veiled(engine.draw(progress.image), is_committed, len(progress.image))))

    prepared = engine.prepare(GenerationRequest((TextPart(PROMPTS[0]),), ("image",)))
    running = engine.submit(prepared, look)
    while running not in engine.step():
        pass
    strip = Image.new("RGB", (len(frames) * (SIDE + 8) - 8, SIDE), "white")
    for i, (_, frame) in enumerate(frames):
        strip.paste(frame, (i * (SIDE + 8), 0))
    page.section(
        "The same drawing, step by step", f"*{PROMPTS[0]}*. Veiled patches are guesses, all others are committed."
    )
    page.paragraph(page.image("steps", strip, "The drawing after some of its steps"))
    page.paragraph(
        ", ".join(f"step {progress.step}: {progress.committed} of {progress.total}" for progress, _ in frames)
    )


def wanted(steps: int) -> set[int]:
    """FRAMES steps from the first to the last."""
    return {1 + round(i * (steps - 1) / (FRAMES - 1)) for i in range(FRAMES)}


def veiled(image: ImagePart, is_committed: set[int], num_codes: int) -> Image.Image:
    shown = enlarged(image)
    veil = Image.new("L", shown.size, 0)
    grid = math.isqrt(num_codes)
    side = SIDE / grid
    for code in range(num_codes):
        if code + 1 not in is_committed:  # codes begin behind the mark that begins a picture
            x, y = code % grid * side, code // grid * side
            ImageDraw.Draw(veil).rectangle((x, y, x + side - 1, y + side - 1), fill=160)
    return Image.composite(Image.new("RGB", shown.size, "#d8d6cf"), shown, veil)


def speech(page: Gallery) -> list[AudioPart]:
    page.section("Speaking, and hearing it", "The words said, and what the model's own ears make of them.")
    page.table("words", "speech", "heard as")
    made = []
    for i, words in enumerate(SAYINGS):
        _, audio, _ = ask(page.engine, (TextPart(words),), "audio")
        assert audio is not None
        heard, _, _ = ask(page.engine, (audio,), "text")
        page.row(words, page.sound(f"speech-{i}", audio), heard or "(nothing)")
        made.append(audio)
    page.end()
    return made


def mixed(page: Gallery, drawn: list[ImagePart], said: list[AudioPart]) -> None:
    """Speech to a drawing; a spoken question about a picture to a spoken answer."""
    page.section(
        "From speech",
        "What was said above, drawn; and a spoken question about a drawing, answered aloud, all in the model's voice.",
    )
    page.table("heard", "with", "answer")
    for i, audio in enumerate(said[:2]):
        _, _, image = ask(page.engine, (audio,), "image")
        assert image is not None
        page.row(f'"{SAYINGS[i]}"', "", page.image(f"heard-{i}", enlarged(image), f"Drawn from speech: {SAYINGS[i]}"))
    _, question, _ = ask(page.engine, (TextPart(SPOKEN_QUESTION),), "audio")
    assert question is not None
    text, answer, _ = ask(page.engine, (question, drawn[1]), "text", "audio")
    assert answer is not None
    spoken = page.sound("answer", answer)
    page.row(
        page.sound("question", question), page.image("asked", enlarged(drawn[1]), PROMPTS[1]), f"{text}<br>{spoken}"
    )
    page.end()


def edits(page: Gallery, drawn: list[ImagePart], said: list[AudioPart]) -> None:
    page.section("Editing", "What is not masked comes back unchanged: pixel for pixel, sample for sample.")
    page.table("before", "masked", "asked for", "after")
    before = drawn[0]
    height, width, _ = before.pixels.shape
    mask = np.zeros((height, width), np.bool_)
    mask[:, : width // 2] = True
    wish = "a green triangle left of a blue square"
    after = edited(page.engine, wish, "image", Edit(before, mask=mask)).image
    assert after is not None
    assert (after.pixels[~mask] == before.pixels[~mask]).all()
    page.row(
        page.image("edit-before", enlarged(before), PROMPTS[0]),
        page.image("edit-mask", enlarged(ImagePart(masked(before, mask))), "The left half is masked"),
        wish,
        page.image("edit-after", enlarged(after), wish),
    )
    length = len(said[0].samples) / said[0].sample_rate
    span = Span(round(0.2 * length, 2), round(0.55 * length, 2), "green")
    respoken = edited(page.engine, "a green circle", "audio", Edit(said[0], spans=(span,))).audio
    assert respoken is not None
    page.row(
        page.sound("respoken-before", said[0]),
        f"{span.start} to {span.end} s",
        "a green circle",
        page.sound("respoken-after", respoken),
    )
    filled = edited(page.engine, "a large green star on a yellow background", "text", Edit(TextPart(HOLES))).text
    page.row(f"`{HOLES}`", "the holes", "a large green star on a yellow background", filled or "(nothing)")
    page.end()


def edited(engine: Engine, wish: str, kind: str, edit: Edit) -> Generation:
    (made,) = engine.generate([GenerationRequest((TextPart(wish),), (kind,), edit=edit)])  # type: ignore[arg-type]
    return made


def masked(image: ImagePart, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(mask[..., None], (image.pixels // 3 + 144).astype(np.uint8), image.pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the gallery of the documentation.")
    parser.add_argument("--model", default="unmask-mini", help="bundle name or directory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of gallery.md and gallery/")
    options = parser.parse_args()
    page = Gallery(Engine.load(options.model), options.out)
    drawn = drawings(page)
    film(page)
    said = speech(page)
    mixed(page, drawn, said)
    edits(page, drawn, said)
    page.write()


if __name__ == "__main__":
    main()
