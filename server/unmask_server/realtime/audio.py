"""The wire's audio formats: 16-bit PCM at 24 kHz, and the two laws of G.711 at 8 kHz."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from unmask_engine.request import RequestError

FormatName = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
Samples = NDArray[np.int16]

PCM_RATE: Final = 24_000
G711_RATE: Final = 8_000
MAX_DELTA_S: Final = 0.2  # some clients take no frame above 512 KiB, and a reader may want to stop soon


def _mu_law_levels() -> Samples:
    """ITU-T G.711, table 2, scaled to 16 bits; index: the byte on the wire."""
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _a_law_levels() -> Samples:
    """ITU-T G.711, table 1, scaled to 16 bits; index: the byte on the wire."""
    code = np.arange(256) ^ 0x55
    segment = (code & 0x70) >> 4
    step = ((code & 0x0F) << 4) + np.where(segment, 0x108, 8)
    magnitude = step << np.maximum(segment - 1, 0)
    levels: Samples = np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
    return levels


def _mu_law_codes() -> NDArray[np.uint8]:
    """Index: a 16-bit sample as unsigned."""
    sample = np.arange(65536).astype(np.uint16).view(np.int16).astype(np.int32) >> 2
    biased = np.minimum(np.abs(sample), 8159) + 33
    segment = np.searchsorted([0x3F << i | (1 << i) - 1 for i in range(8)], biased)
    code = segment << 4 | biased >> (segment + 1) & 0x0F
    return (np.where(segment > 7, 0x7F, code) ^ np.where(sample < 0, 0x7F, 0xFF)).astype(np.uint8)


def _a_law_codes() -> NDArray[np.uint8]:
    """Index: a 16-bit sample as unsigned."""
    sample = np.arange(65536).astype(np.uint16).view(np.int16).astype(np.int32) >> 3
    magnitude = np.where(sample < 0, ~sample, sample)
    segment = np.searchsorted([0x1F << i | (1 << i) - 1 for i in range(8)], magnitude)
    code = segment << 4 | magnitude >> np.maximum(segment, 1) & 0x0F
    return (code ^ np.where(sample < 0, 0x55, 0xD5)).astype(np.uint8)


@dataclass(frozen=True)
class WireFormat:
    name: FormatName
    rate: int  # Hz
    levels: Samples | None = None  # of the 256 bytes; None is plain PCM
    codes: NDArray[np.uint8] | None = None  # of the 65536 samples

    def to_json(self) -> dict[str, Any]:
        return {"type": self.name, "rate": self.rate} if self.levels is None else {"type": self.name}

    def decode(self, text: object, param: str) -> Samples:
        """base64 of the wire -> samples; raises RequestError."""
        try:
            if not isinstance(text, str):
                raise ValueError
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            message = f"{param} must be base64 of {self.name}."
            raise RequestError(message, param=param, code="invalid_audio") from None
        if self.levels is not None:
            return self.levels[np.frombuffer(data, np.uint8)]
        if len(data) % 2:
            message = f"{param} has half a sample at its end: 16-bit PCM has an even number of bytes."
            raise RequestError(message, param=param, code="invalid_audio")
        return np.frombuffer(data, "<i2").astype(np.int16)

    def encode(self, samples: Samples) -> str:
        data = samples.astype("<i2") if self.codes is None else self.codes[samples.view(np.uint16)]
        return base64.b64encode(data.tobytes()).decode()


FORMATS: Final[dict[FormatName, WireFormat]] = {
    "audio/pcm": WireFormat("audio/pcm", PCM_RATE),
    "audio/pcmu": WireFormat("audio/pcmu", G711_RATE, _mu_law_levels(), _mu_law_codes()),
    "audio/pcma": WireFormat("audio/pcma", G711_RATE, _a_law_levels(), _a_law_codes()),
}


def as_float(samples: Samples) -> NDArray[np.float32]:
    return samples.astype(np.float32) / np.float32(32768)


@dataclass(frozen=True)
class Piece:
    """Of the model's speech, at most `MAX_DELTA_S`."""

    audio: str  # base64 of the wire's format
    num_samples: int


class SpeechOut:
    """The model's samples, chunk by chunk, in the wire's format. The chunks put together are the whole resampled."""

    def __init__(self, format: WireFormat, rate: int) -> None:
        self._format = format
        self._stream = soxr.ResampleStream(rate, format.rate, 1, dtype="float32", quality="HQ")

    def feed(self, samples: NDArray[np.float32]) -> Iterator[Piece]:
        """The resampler keeps some milliseconds back."""
        return self._encoded(self._stream.resample_chunk(samples))

    def flush(self) -> Iterator[Piece]:
        """The rest; nothing can be fed any more."""
        return self._encoded(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))

    def _encoded(self, resampled: NDArray[np.float32]) -> Iterator[Piece]:
        whole = np.rint(resampled * 32767).clip(-32768, 32767).astype(np.int16)
        size = int(MAX_DELTA_S * self._format.rate)
        for start in range(0, len(whole), size):
            piece = whole[start : start + size]
            yield Piece(self._format.encode(piece), len(piece))
