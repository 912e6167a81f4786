"""Draws the pictures of README.md with the built-in model: `.venv/bin/python docs/pictures.py`.

Everything shown is an answer of the model, unretouched, from the prompts below in one go.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unmask_engine.engine import Engine
from unmask_engine.request import AudioPart, GenerationRequest, ImagePart, Modality, Part, TextPart

HERE = Path(__file__).parent
PROMPTS = (
    "a red circle left of a blue square",
    "a large green star",
    "a purple heart on a sand background",
    "a yellow diamond above a small pink circle",
    "an orange triangle in the top right on a black background",
    "a blue cross a red heart and a green circle in a row",
    "a small brown square in the bottom left on a sky background",
    "a pink star below a purple triangle on a gray background",
)
QUESTIONS = (
    "what is left of the square",
    "what shape is it",
    "what color is the heart",
    "what is above the circle",
    "where is the triangle",
    "how many shapes are there",
    "what color is the background",
    "describe the image",
)
SIDE, LINE = 200, 17


def ask(
    engine: Engine, parts: tuple[Part, ...], *outputs: Modality
) -> tuple[str | None, AudioPart | None, ImagePart | None]:
    (made,) = engine.generate([GenerationRequest(parts, outputs)])
    return made.text, made.audio, made.image


def wrapped(text: str, width: int = 31) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def sheet(engine: Engine) -> Image.Image:
    """Two rows of drawn pictures, each with its prompt and the model's answer to a question about it."""
    font = ImageFont.load_default(13)
    cell_height = SIDE + 5 * LINE
    page = Image.new("RGB", (4 * (SIDE + 12) + 12, 2 * (cell_height + 12) + 12), "white")
    draw = ImageDraw.Draw(page)
    for i, (prompt, question) in enumerate(zip(PROMPTS, QUESTIONS, strict=True)):
        _, _, image = ask(engine, (TextPart(prompt),), "image")
        assert image is not None
        answer, _, _ = ask(engine, (TextPart(question), image), "text")
        x, y = 12 + i % 4 * (SIDE + 12), 12 + i // 4 * (cell_height + 12)
        page.paste(Image.fromarray(image.pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        draw.rectangle((x, y, x + SIDE, y + SIDE), outline="#bbb")
        y += SIDE + 5
        for line in wrapped(prompt):
            draw.text((x, y), line, fill="black", font=font)
            y += LINE
        for line in wrapped(f"{question}? {answer}"):
            draw.text((x, y), line, fill="#0b61a4", font=font)
            y += LINE
    return page


def spectrogram(audio: AudioPart) -> Image.Image:
    """Log magnitude up to 8 kHz, time to the right."""
    window = 512
    starts = np.arange(0, len(audio.samples) - window, 128)
    frames = audio.samples[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.log10(np.abs(np.fft.rfft(frames)) + 1e-4).T[: int(window * 8000 / audio.sample_rate)]
    scaled = 255 * (power - power.min()) / (power.max() - power.min())
    return Image.fromarray(255 - scaled[::-1].astype(np.uint8)).resize((848, 160), Image.Resampling.BICUBIC)


def main() -> None:
    engine = Engine.load("unmask-mini")
    sheet(engine).save(HERE / "pictures.png", optimize=True)
    _, audio, _ = ask(engine, (TextPart(PROMPTS[0]),), "audio")
    assert audio is not None
    spectrogram(audio).save(HERE / "speech.png", optimize=True)


if __name__ == "__main__":
    main()
