"""Untrusted media: what is read, what is refused and how; nothing but RequestError ever comes out."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from unmask_engine.media import MediaLimits, read_audio, read_image, write_audio, write_image
from unmask_engine.request import AudioPart, ImagePart, RequestError

LIMITS = MediaLimits()
SMALL = MediaLimits(max_bytes=200_000, max_pixels=100_000, max_seconds=1.0)
RATE = 16_000
IMAGES = ["png", "webp", "jpeg"]
AUDIO = ["wav", "flac", "mp3", "opus"]


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


def tone(seconds: float = 0.5, rate: int = RATE) -> AudioPart:
    return AudioPart(np.float32(0.4 * np.sin(2 * np.pi * 330 * np.arange(int(seconds * rate)) / rate)), rate)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def wav(samples: NDArray[Any], rate: int = RATE, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=format, subtype=subtype)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def refusal(read: Callable[..., object], data: bytes, limits: MediaLimits = LIMITS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(data, limits, param="input[0]")
    error = caught.value
    assert error.param == "input[0]"
    assert "0x" not in error.message
    assert "/" not in error.message
    assert "BytesIO" not in error.message
    return error


@pytest.mark.parametrize("format", IMAGES)
def test_images_are_written_and_read(format: str) -> None:
    pixels = np.ascontiguousarray(np.broadcast_to(np.arange(48, dtype=np.uint8)[None, :, None] * 5, (32, 48, 3)))
    read = read_image(write_image(ImagePart(pixels), format), LIMITS).pixels
    assert read.dtype == np.uint8
    assert read.shape == (32, 48, 3)
    assert np.abs(np.int16(read) - np.int16(pixels)).max() <= (4 if format == "jpeg" else 0)


@pytest.mark.parametrize("format", ["GIF", "BMP"])
def test_other_containers_are_read(format: str) -> None:
    assert read_image(saved(Image.new("RGB", (9, 5), (255, 0, 0)), format), LIMITS).pixels[2, 3].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("mode", "colour", "format", "expected"),
    [
        ("1", 1, "PNG", [255, 255, 255]),
        ("L", 100, "PNG", [100, 100, 100]),
        ("L", 100, "JPEG", [100, 100, 100]),
        ("LA", (100, 0), "PNG", [255, 255, 255]),
        ("RGBA", (200, 0, 0, 255), "PNG", [200, 0, 0]),
        ("RGBA", (200, 0, 0, 0), "PNG", [255, 255, 255]),
        ("RGBA", (0, 0, 0, 128), "PNG", [127, 127, 127]),
        ("RGBA", (200, 0, 0, 0), "WEBP", [255, 255, 255]),
        ("CMYK", (0, 0, 0, 0), "JPEG", [255, 255, 255]),
        ("CMYK", (0, 0, 0, 255), "JPEG", [0, 0, 0]),
    ],
)
def test_every_mode_becomes_rgb(mode: str, colour: Any, format: str, expected: list[int]) -> None:
    pixels = read_image(saved(Image.new(mode, (8, 6), colour), format), LIMITS).pixels
    assert pixels.shape == (6, 8, 3)
    assert pixels[3, 4].tolist() == expected


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 257, 32_768, 65_535]], np.uint16))
    assert read_image(saved(grey, "PNG"), LIMITS).pixels[0, :, 0].tolist() == [0, 1, 127, 255]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palettes_with_transparency_lie_on_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    pixels = read_image(saved(image, "PNG", transparency=transparency), LIMITS).pixels
    assert pixels[0].tolist() == [[255, 255, 255], [40, 50, 60]]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # the upper left quarter is white
    undo = {  # how a camera that holds `orientation` has stored the picture
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_image(saved(Image.fromarray(np.ascontiguousarray(undo)), format, exif=exif), LIMITS).pixels
    assert pixels.shape == upright.shape
    np.testing.assert_array_equal(pixels > 127, upright > 127)


def test_broken_exif_is_ignored() -> None:
    assert read_image(saved(Image.new("RGB", (4, 4)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff"), LIMITS).pixels.any() == 0


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert read_image(data, LIMITS).pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (10_000, 5_000),  # 50 megapixels: over our limit
        (10_000, 10_000),  # PIL would warn
        (60_000, 60_000),  # PIL would raise
        (2**31 - 1, 2**31 - 1),
        (1_000, 1),  # would become 512 x 512,000 in the image tokenizer's resize
    ],
)
def test_an_image_too_large_is_refused_by_its_header(width: int, height: int) -> None:
    data = png_header(width, height)
    assert len(data) < 1000
    error = refusal(read_image, data)
    assert error.code == "image_too_large"
    assert "32,000,000" in error.message


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG", "GIF", "BMP"])
def test_the_pixel_limit_holds_in_every_container(format: str) -> None:
    limits = MediaLimits(max_pixels=400 * 300)
    assert read_image(saved(Image.new("RGB", (400, 300)), format), limits).pixels.shape == (300, 400, 3)
    assert refusal(read_image, saved(Image.new("RGB", (401, 300)), format), limits).code == "image_too_large"


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG", "GIF", "BMP"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_truncated_image_is_refused(format: str, kept: float) -> None:
    data = saved(Image.fromarray(noise(64, 64, 3)), format)
    error = refusal(read_image, data[: int(len(data) * kept)])
    assert error.code == "invalid_image"
    assert "cut off or damaged" in error.message


@pytest.mark.parametrize("read", [read_image, read_audio])
def test_empty_and_oversized_files_are_refused(read: Callable[..., object]) -> None:
    assert refusal(read, b"").code == "empty_media"
    error = refusal(read, bytes(200_001), SMALL)
    assert error.code == "media_too_large"
    assert "200,000" in error.message


@pytest.mark.parametrize("read", [read_image, read_audio])
@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf <svg/>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "MP4"),
        (b"\0\0\0\x18ftypM4A \0\0\0\0", "M4A"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86", "WebM"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"PK\x03\x04", "ZIP"),
        (b"\xff\xf1\x50\x80", "AAC"),
        (b"<!doctype html><html>", "HTML"),
        (b"hello", "no known format"),
        (b"\x80\x04\x95\x0b\0\0\0", "no known format"),  # a pickle
    ],
)
def test_other_files_are_told_what_they_are(read: Callable[..., object], data: bytes, name: str) -> None:
    error = refusal(read, data)
    assert error.code == "unsupported_media"
    assert name in error.message
    assert "PNG, JPEG" in error.message or "WAV, FLAC" in error.message


def test_image_and_audio_are_not_confused() -> None:
    error = refusal(read_image, write_audio(tone(), "wav"))
    assert error.code == "unsupported_media"
    assert "an audio file (WAV)" in error.message
    assert "an image file (PNG)" in refusal(read_audio, write_image(ImagePart(noise(4, 4, 3)), "png")).message


def test_unknown_output_formats_are_refused() -> None:
    with pytest.raises(RequestError, match="png, webp, jpeg") as caught:
        write_image(ImagePart(noise(4, 4, 3)), "tiff", param="output[0].format")
    assert caught.value.param == "output[0].format"
    with pytest.raises(RequestError, match="wav, flac, mp3, opus, pcm"):
        write_audio(tone(), "aac")


def test_importing_loads_no_decoder() -> None:
    engine = Path(__file__).parents[2] / "engine"
    code = (
        "import sys, unmask_engine.media; print([m for m in ('PIL', 'soundfile', 'soxr', 'torch') if m in sys.modules])"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(engine)!r}); {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


VALID_IMAGES = [saved(Image.fromarray(noise(24, 20, 3)), f) for f in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]
VALID_AUDIO = [write_audio(tone(0.1), f) for f in AUDIO] + [wav(tone(0.1).samples, subtype="VORBIS", format="OGG")]
OUTCOMES = {"read", "empty_media", "media_too_large", "unsupported_media"}
IMAGE_OUTCOMES = OUTCOMES | {"invalid_image", "image_too_large"}
AUDIO_OUTCOMES = OUTCOMES | {"invalid_audio", "audio_too_long"}
HARD = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def mutated(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """A valid file with some bytes changed (headers more often than the rest), a piece removed or doubled, or cut."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 8))):
        last = draw(st.sampled_from([63, 255, len(data)]))
        data[draw(st.integers(0, min(last, len(data)) - 1))] = draw(
            st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
        )
    start, length = draw(st.integers(0, len(data))), draw(st.sampled_from([0, 0, 1, 4, 100]))
    data[start : start + length] = data[start : start + length] * draw(st.integers(0, 2))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def outcome(read: Callable[..., ImagePart | AudioPart], data: bytes) -> str:
    """ "read", or the code of the refusal; anything else that is raised fails the test."""
    try:
        read(data, SMALL, param="file")
    except RequestError as error:
        return error.code
    return "read"


@HARD
@given(mutated(VALID_IMAGES))
def test_mutated_images_raise_nothing_but_request_errors(data: bytes) -> None:
    assert outcome(read_image, data) in IMAGE_OUTCOMES


@HARD
@given(mutated(VALID_AUDIO))
def test_mutated_audio_raises_nothing_but_request_errors(data: bytes) -> None:
    assert outcome(read_audio, data) in AUDIO_OUTCOMES


@given(st.sampled_from([b"", *[file[:16] for file in VALID_IMAGES + VALID_AUDIO]]), st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_request_errors(head: bytes, tail: bytes) -> None:
    assert outcome(read_image, head + tail) in IMAGE_OUTCOMES
    assert outcome(read_audio, head + tail) in AUDIO_OUTCOMES


LARGE = """
import io, threading
from pathlib import Path
from PIL import Image
from unmask_engine.media import MediaLimits, read_image

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

out = io.BytesIO()
Image.new("RGBA", (6000, 4000)).save(out, "PNG", compress_level=1)
data = out.getvalue()
del out
read_image(data[:1000] + data[1000:], MediaLimits())
before = resident()
for _ in range(2):
    thread = threading.Thread(target=read_image, args=(data, MediaLimits()))
    thread.start()
    thread.join()
assert resident() < before + 30, (before, resident())  # MiB; one decoded copy has 92
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_large_picture_leaves_no_memory_behind() -> None:
    """On another thread than the first one, whose heap glibc keeps."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
