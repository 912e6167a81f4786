"""Bytes <-> pixels and samples. The bytes are untrusted: everything is bounded before and while it is decoded.

All that can be wrong with a file is a `RequestError` with one of the codes `empty_media`, `media_too_large`,
`unsupported_media`, `invalid_image`, `image_too_large`, `invalid_audio`, `audio_too_long`. `param` is the caller's name
for the offending field. Decoders are imported where they are used, so importing this module is cheap.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unmask_engine import media_av
from unmask_engine.heap import give_back
from unmask_engine.media_sniff import AUDIO_BY_EXTRA, READABLE_AUDIO, READABLE_IMAGES, Kind, Sniffed, sniff
from unmask_engine.request import AudioPart, ImagePart, RequestError

if TYPE_CHECKING:
    from PIL.Image import Image
    from soundfile import SoundFile

ImageFormat = Literal["png", "webp", "jpeg"]
AudioFormat = Literal["wav", "flac", "mp3", "opus", "pcm"]

MAX_ASPECT = 64  # a 1 x 1,000,000 picture would be resized to 512 x 512,000,000
LARGE_BYTES = 8_000_000  # a picture whose reading takes memory that is worth giving back at once
MAX_CHANNELS = 8
SAMPLE_RATES = (4_000, 192_000)  # Hz, lowest and highest
BLOCK_FRAMES = 65_536  # decoded or encoded at a time
MAX_WAV_CHUNKS = 1000  # looked through for the samples
UNKNOWN_WAV_SIZE = 0x7FFF_F000  # from here on a size field means "written while streaming": ffmpeg, sox, browsers
UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's count for a FLAC whose header leaves it open
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz; RFC 6716, section 2.1.3
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz; MPEG 1, 2 and 2.5, layer III


@dataclass(frozen=True)
class MediaLimits:
    """What one file may cost."""

    max_bytes: int = 25_000_000
    max_pixels: int = 32_000_000
    max_seconds: float = 120.0


def read_image(data: bytes, limits: MediaLimits, *, param: str | None = None) -> ImagePart:
    """An upright RGB picture: first frame, EXIF orientation applied, transparency laid on white."""
    pixels = _read_pixels(data, limits, param, _upright_rgb)
    if pixels.size > LARGE_BYTES:
        give_back()
    return ImagePart(pixels)


def read_mask(data: bytes, limits: MediaLimits, *, param: str | None = None) -> NDArray[np.bool_]:
    """(H, W): where a picture is more transparent than not."""
    return _read_pixels(data, limits, param, lambda image: image.convert("RGBA").getchannel("A")) < 128


def _read_pixels(
    data: bytes, limits: MediaLimits, param: str | None, read: Callable[["Image"], "Image"]
) -> NDArray[np.uint8]:
    from PIL import Image

    name = _check_container(data, limits, "image", READABLE_IMAGES, param)
    too_large = RequestError(
        f"The image has too many pixels: at most {limits.max_pixels:,} are allowed, sides up to {MAX_ASPECT}:1.",
        param=param,
        code="image_too_large",
    )
    try:
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            width, height = image.size  # from the header; nothing is decoded yet
            if width * height > limits.max_pixels or max(width, height) > MAX_ASPECT * min(width, height):
                raise too_large
            image.load()
            pixels = np.array(read(image))
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large from None
    except Exception:  # PIL's plugins raise whatever the bytes lead them to: OSError, SyntaxError, struct.error, ...
        message = f"The {name} image cannot be decoded: it is cut off or damaged."
        raise RequestError(message, param=param, code="invalid_image") from None
    return pixels


def read_audio(data: bytes, limits: MediaLimits, *, param: str | None = None) -> AudioPart:
    """Mono samples (mean of the channels) at the file's own rate, clipped to [-1, 1]."""
    import soundfile

    name = _check_container(data, limits, "audio", _audio_formats(), param)
    if name in AUDIO_BY_EXTRA:
        return _read_by_extra(data, name, limits, param)
    try:
        if name == "WAV":
            data = _with_true_size(data, limits, param)
        if name == "Ogg":
            _check_last_page(data, param)
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(file, limits, param)
            samples = _read_mono(file, limits, param)
            rate = int(file.samplerate)
            promised = int(file.frames) if _promises_length(name, data) else 0
    except RequestError:
        raise
    except Exception:  # libsndfile's own error, or what its callbacks into Python ran into
        message = f"The {name} audio cannot be decoded: it is cut off, damaged or in an encoding that is not supported."
        raise RequestError(message, param=param, code="invalid_audio") from None
    if not len(samples):
        raise RequestError("The audio holds no samples.", param=param, code="empty_media")
    if len(samples) < promised <= _frames(limits, rate):
        message = f"The {name} audio is cut off: its header promises {promised:,} frames, {len(samples):,} are there."
        raise RequestError(message, param=param, code="invalid_audio")
    return AudioPart(samples, rate)


def write_image(image: ImagePart, format: str, *, quality: int | None = None, param: str | None = None) -> bytes:
    """An encoded picture. PNG and WebP are lossless, so that edits return untouched pixels bit for bit.

    `quality`, 0 to 100, makes a WebP or JPEG smaller, and the WebP lossy.
    """
    from PIL import Image

    if format not in get_args(ImageFormat):
        raise _no_such_format("image", format, get_args(ImageFormat), param)
    best: dict[str, dict[str, Any]] = {"webp": {"lossless": True}, "jpeg": {"quality": 95, "subsampling": 0}}
    options = best if quality is None else {"webp": {"quality": quality}, "jpeg": {"quality": quality}}
    out = io.BytesIO()
    Image.fromarray(image.pixels).save(out, format, **options.get(format, {}))
    return out.getvalue()


def write_audio(audio: AudioPart, format: str, *, param: str | None = None) -> bytes:
    """Encoded samples, 16 bits where lossless; `pcm` is bare s16le. Opus and MP3 may change the sample rate."""
    import soundfile

    if format not in get_args(AudioFormat):
        raise _no_such_format("audio", format, get_args(AudioFormat), param)
    if format == "pcm":
        return _int16(audio.samples).tobytes()
    if format == "opus" and audio.sample_rate not in OPUS_RATES:
        audio = resample(audio, 48_000)
    if format == "mp3" and audio.sample_rate not in MP3_RATES:
        audio = resample(audio, 44_100)
    container, subtype = {
        "wav": ("WAV", "PCM_16"),
        "flac": ("FLAC", "PCM_16"),
        "mp3": ("MP3", "MPEG_LAYER_III"),
        "opus": ("OGG", "OPUS"),
    }[format]
    samples = audio.samples.clip(-1, 1) if format in ("mp3", "opus") else _int16(audio.samples)
    if not len(samples):
        samples = np.zeros(1, samples.dtype)  # without any sample the encoders do not even write a header
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", audio.sample_rate, 1, subtype=subtype, format=container) as file:
        for start in range(0, len(samples), BLOCK_FRAMES):
            file.write(samples[start : start + BLOCK_FRAMES])
    return out.getvalue()


def resample(audio: AudioPart, rate: int) -> AudioPart:
    """The same sound at another rate in Hz, by soxr's HQ filter."""
    import soxr

    if rate == audio.sample_rate:
        return audio
    samples: NDArray[np.float32] = soxr.resample(audio.samples, audio.sample_rate, rate, quality="HQ")
    return AudioPart(samples.astype(np.float32, copy=False), rate)


def _check_container(data: bytes, limits: MediaLimits, kind: Kind, readable: tuple[str, ...], param: str | None) -> str:
    """The container's name, if files of that size, kind and container are read."""
    if not data:
        raise RequestError(f"The {kind} is empty: it has no bytes.", param=param, code="empty_media")
    if len(data) > limits.max_bytes:
        message = f"The {kind} has {len(data):,} bytes; at most {limits.max_bytes:,} are allowed."
        raise RequestError(message, param=param, code="media_too_large")
    sniffed = sniff(data)
    if sniffed is None or sniffed.name not in readable:
        raise _unsupported(kind, sniffed, readable, param)
    return sniffed.name


def _audio_formats() -> tuple[str, ...]:
    return (*READABLE_AUDIO, *AUDIO_BY_EXTRA) if media_av.is_there() else READABLE_AUDIO


def _unsupported(kind: Kind, found: Sniffed | None, readable: tuple[str, ...], param: str | None) -> RequestError:
    message = f"Expected {kind} in one of the formats {', '.join(readable)}; the bytes are "
    message += str(found or "in no known format")
    if kind == "audio" and found is not None and found.name in AUDIO_BY_EXTRA:
        without = ", which needs the extra `aac` on this server (pip install 'unmask[aac]')"
        message += ", and no sound is found in it" if found.name in readable else without
    return RequestError(f"{message}.", param=param, code="unsupported_media")


def _read_by_extra(data: bytes, name: str, limits: MediaLimits, param: str | None) -> AudioPart:
    audio = media_av.decode(
        data, name, rates=SAMPLE_RATES, max_channels=MAX_CHANNELS, max_seconds=limits.max_seconds, param=param
    )
    if audio is None:
        raise _unsupported("audio", sniff(data), _audio_formats(), param)
    return audio


def _no_such_format(kind: str, format: str, known: tuple[str, ...], param: str | None) -> RequestError:
    message = f"There is no {kind} output format {format!r}; choose one of {', '.join(known)}."
    return RequestError(message, param=param, code="unsupported_media")


def _upright_rgb(image: "Image") -> "Image":
    from PIL import Image
    from PIL.Image import Transpose

    turns = {  # EXIF tag 0x0112, how to undo it
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(0x0112, 1))
    except Exception:  # broken EXIF does not make the pixels unusable
        turn = None
    if image.mode.startswith("I"):  # 16-bit grey: PIL's own conversion to 8 bits clips instead of scaling
        image = Image.fromarray((np.asarray(image).clip(0, 0xFFFF) // 257).astype(np.uint8))
    if image.has_transparency_data:
        seen = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _frames(limits: MediaLimits, rate: int) -> int:
    return int(limits.max_seconds * rate)


def _too_long(limits: MediaLimits, param: str | None) -> RequestError:
    message = f"The audio is too long: at most {limits.max_seconds:g} seconds are allowed."
    return RequestError(message, param=param, code="audio_too_long")


def _check_header(file: "SoundFile", limits: MediaLimits, param: str | None) -> None:
    lowest, highest = SAMPLE_RATES
    if not lowest <= file.samplerate <= highest:
        message = f"The audio's sample rate is {file.samplerate:,} Hz; {lowest:,} to {highest:,} Hz are allowed."
        raise RequestError(message, param=param, code="invalid_audio")
    if file.channels > MAX_CHANNELS:
        message = f"The audio has {file.channels} channels; at most {MAX_CHANNELS} are allowed."
        raise RequestError(message, param=param, code="invalid_audio")
    if _frames(limits, file.samplerate) < file.frames < UNKNOWN_FRAMES:
        raise _too_long(limits, param)


def _read_mono(file: "SoundFile", limits: MediaLimits, param: str | None) -> NDArray[np.float32]:
    """Block by block, because a header may promise less than the stream holds."""
    blocks: list[NDArray[np.float32]] = []
    left = _frames(limits, file.samplerate)
    # Else soundfile seeks after every read: MP3 decodes differently then (by up to 0.15), FLAC of open length fails.
    file.seekable = lambda: False
    while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):  # (frames, channels)
        left -= len(block)
        if left < 0:
            raise _too_long(limits, param)
        if not np.isfinite(block).all():
            message = "The audio holds samples that are not finite numbers (NaN or infinity)."
            raise RequestError(message, param=param, code="invalid_audio")
        blocks.append(block.clip(-1, 1).mean(axis=1))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _with_true_size(data: bytes, limits: MediaLimits, param: str | None) -> bytes:
    """A WAV whose sizes are placeholders of a streaming writer gets the true ones; one that is cut off is refused."""
    at, bytes_per_second = 12, 0
    for _ in range(MAX_WAV_CHUNKS):
        if at + 8 > len(data):
            break
        tag, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        there = len(data) - at
        if tag == b"fmt ":
            bytes_per_second = int.from_bytes(data[at + 8 : at + 12], "little")
        if tag == b"data":
            if data[:4] == b"RF64" or 0 < size <= there:
                return data
            if size == 0 or size >= UNKNOWN_WAV_SIZE:
                sizes = [(len(data) - 8).to_bytes(4, "little"), there.to_bytes(4, "little")]
                return data[:4] + sizes[0] + data[8 : at - 4] + sizes[1] + data[at:]
            if size > limits.max_seconds * bytes_per_second > 0:
                raise _too_long(limits, param)
            message = f"The WAV audio is cut off: its header promises {size:,} bytes of samples, {there:,} are there."
            raise RequestError(message, param=param, code="invalid_audio")
        at += size + size % 2  # chunks are padded to even sizes
    return data


def _promises_length(name: str, data: bytes) -> bool:
    """Without a Xing or Info header the length of an MP3 is a guess from its first frame's bit rate."""
    return name != "MP3" or b"Xing" in data or b"Info" in data


def _check_last_page(data: bytes, param: str | None) -> None:
    """Ogg promises no length; its last page says that it is the last (RFC 3533, section 6)."""
    at = data.rfind(b"OggS")
    lacing = data[at + 27 : at + 27 + data[at + 26]] if len(data) > at + 26 else b""
    end = at + 27 + len(lacing) + sum(lacing)
    if not lacing or end > len(data) or not data[at + 5] & 0x04:
        raise RequestError("The Ogg audio is cut off: its last page is missing.", param=param, code="invalid_audio")


def _int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Little-endian; the inverse of how 16-bit files are read (s / 32768), so those come back bit for bit."""
    whole: NDArray[np.int16] = np.rint(samples * np.float32(32768)).clip(-32768, 32767).astype("<i2")
    return whole
