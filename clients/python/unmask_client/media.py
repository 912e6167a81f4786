"""Pictures and sounds: made from whatever the caller has, saved, and shown in notebooks."""

import base64
import io
import wave
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, Union

from unmask_client.errors import UnmaskError

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

Source: TypeAlias = bytes | str | PathLike[str]
ImageLike: TypeAlias = Union["Image", Source, "PIL.Image.Image", "NDArray[Any]"]
AudioLike: TypeAlias = Union["Audio", Source]

SIGNATURES = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8", "jpeg"),
    (b"fLaC", "flac"),
    (b"OggS", "opus"),
    (b"ID3", "mp3"),
)


@dataclass(frozen=True)
class Image:
    """An encoded picture."""

    data: bytes = field(repr=False)

    @classmethod
    def of(cls, source: ImageLike) -> "Image":
        """From a path, the bytes of a file, a Pillow image, or an array (H, W, 3) of uint8."""
        if isinstance(source, Image):
            return source
        if isinstance(source, bytes | str | PathLike):
            return cls(_read(source))
        pil = _pillow()
        picture = source if isinstance(source, pil.Image) else pil.fromarray(source)
        out = io.BytesIO()
        picture.save(out, "png")
        return cls(out.getvalue())

    @classmethod
    def mask(cls, source: ImageLike) -> "Image":
        """What an edit may change. An array of bool is True there, a grey picture white; a PNG file is transparent."""
        if isinstance(source, Image | bytes | str | PathLike):
            return cls.of(source)
        pil = _pillow()
        picture = source if isinstance(source, pil.Image) else pil.fromarray(source)
        if "A" not in picture.getbands():
            kept = picture.convert("L").point([255] * 128 + [0] * 128)
            picture = pil.new("RGBA", picture.size)
            picture.putalpha(kept)
        return cls.of(picture)

    @property
    def format(self) -> str:
        return _sniff(self.data)

    def pil(self) -> "PIL.Image.Image":
        picture: PIL.Image.Image = _pillow().open(io.BytesIO(self.data))
        picture.load()
        return picture

    def save(self, path: str | PathLike[str]) -> None:
        Path(path).write_bytes(self.data)

    @property
    def html(self) -> str:
        return f'<img src="data:image/{self.format};base64,{base64.b64encode(self.data).decode()}">'

    def _repr_png_(self) -> bytes:
        return self.data if self.format == "png" else Image.of(self.pil()).data


@dataclass(frozen=True)
class Audio:
    """An encoded recording; `pcm` is bare s16le mono. What is None only the file itself tells."""

    data: bytes = field(repr=False)
    format: str
    sample_rate: int | None = None
    duration_s: float | None = None
    transcript: str | None = None

    @classmethod
    def of(cls, source: AudioLike) -> "Audio":
        """From a path or the bytes of a file."""
        if isinstance(source, Audio):
            return source
        data = _read(source)
        return cls(data, _sniff(data))

    @classmethod
    def from_samples(cls, samples: "NDArray[Any]", sample_rate: int) -> Self:
        """From an array (L,) or (L, channels), of int16 or of floats from -1 to 1."""
        import numpy as np

        floats = samples / 32768 if samples.dtype == np.int16 else samples.astype(np.float64)
        mono = floats.mean(axis=1) if floats.ndim == 2 else floats
        pcm = (mono.clip(-1, 1) * 32767).round().astype("<i2").tobytes()
        return cls(_wav(pcm, sample_rate), "wav", sample_rate, len(mono) / sample_rate)

    def samples(self) -> "tuple[NDArray[Any], int]":
        """The samples, (L,) of float32, and their rate; for the formats wav (16 bits) and pcm."""
        import numpy as np

        pcm, rate, channels = self._pcm()
        samples = np.frombuffer(pcm, "<i2").reshape(-1, channels).mean(axis=1) / 32768
        return samples.astype(np.float32), rate

    def pcm16(self, sample_rate: int) -> bytes:
        """Bare s16le mono at that rate."""
        pcm, rate, channels = self._pcm()
        if (rate, channels) == (sample_rate, 1):
            return pcm
        import soxr

        samples, _ = self.samples()
        moved: NDArray[Any] = soxr.resample(samples, rate, sample_rate)
        return bytes((moved.clip(-1, 1) * 32767).round().astype("<i2").tobytes())

    def save(self, path: str | PathLike[str]) -> None:
        """As it is; bare pcm gets its header where the file is to be a .wav."""
        is_wav = Path(path).suffix.lower() == ".wav"
        Path(path).write_bytes(self.file() if is_wav else self.data)

    def file(self) -> bytes:
        """What players and the server open: the data, pcm as wav."""
        if self.format != "pcm":
            return self.data
        pcm, rate, _ = self._pcm()
        return _wav(pcm, rate)

    def _pcm(self) -> tuple[bytes, int, int]:
        """s16le, rate, channels."""
        if self.format == "pcm" and self.sample_rate is not None:
            return self.data, self.sample_rate, 1
        if self.format != "wav":
            raise UnmaskError(f"the samples of {self.format} need a decoder such as soundfile; wav and pcm do not")
        with wave.open(io.BytesIO(self.data)) as file:
            if file.getsampwidth() != 2:
                raise UnmaskError(f"this wav file has {8 * file.getsampwidth()} bits a sample; only 16 are read here")
            return file.readframes(file.getnframes()), file.getframerate(), file.getnchannels()

    @property
    def html(self) -> str:
        mime = {"mp3": "mpeg", "opus": "ogg", "pcm": "wav"}.get(self.format, self.format)
        return f'<audio controls src="data:audio/{mime};base64,{base64.b64encode(self.file()).decode()}"></audio>'

    def _repr_html_(self) -> str:
        return self.html


def _read(source: Source) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _sniff(data: bytes) -> str:
    if data[:4] == b"RIFF":
        return "webp" if data[8:12] == b"WEBP" else "wav"
    known = next((name for start, name in SIGNATURES if data.startswith(start)), None)
    return known or ("mp3" if data[:1] == b"\xff" else "unknown")


def _wav(pcm: bytes, rate: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)
    return out.getvalue()


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError:
        raise UnmaskError("pictures other than files need Pillow: pip install 'unmask-client[media]'") from None
    return PIL.Image
