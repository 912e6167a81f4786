"""An audio file that is written while its sound is still being made."""

import io
import struct
import threading
from typing import Any, Final, Self

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from unmask_engine.media import AudioFormat, write_audio
from unmask_engine.request import AudioPart

RATE: Final = 24_000  # Hz; what OpenAI's clients take headerless samples to be, and a rate that every format knows
_WAV_HEADER: Final = struct.pack(  # its two sizes are those of a WAV that is still being written
    "<4sI4s4sIHHIIHH4sI", b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", 2**32 - 1
)


class AudioWriter:
    """`write` and `close` return the bytes that are new; put together they are the file, mono at `RATE`.

    A header that is gone when the length is known leaves the length open. FLAC comes as a whole, at the end: its
    readers do not all take an open length.
    """

    def __init__(self, format: AudioFormat) -> None:
        self._resampler: soxr.ResampleStream | None = None
        self._file: _Plain | _Encoded = _Plain(format) if format in ("wav", "pcm") else _Encoded(format)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """What was not closed is given up."""
        self._file.drop()

    def write(self, audio: AudioPart) -> bytes:
        """All of one rate."""
        if self._resampler is None:
            self._resampler = soxr.ResampleStream(audio.sample_rate, RATE, 1, dtype="float32", quality="HQ")
        return self._file.write(self._resampler.resample_chunk(audio.samples))

    def close(self) -> bytes:
        nothing = np.zeros(0, np.float32)
        rest = nothing if self._resampler is None else self._resampler.resample_chunk(nothing, last=True)
        return self._file.write(rest) + self._file.close()


class _Plain:
    def __init__(self, format: AudioFormat) -> None:
        self._header = _WAV_HEADER if format == "wav" else b""

    def write(self, samples: NDArray[np.float32]) -> bytes:
        header, self._header = self._header, b""
        return header + write_audio(AudioPart(samples, RATE), "pcm")

    def close(self) -> bytes:
        return b""

    def drop(self) -> None:
        pass


class _Encoded:
    def __init__(self, format: AudioFormat) -> None:
        how: dict[str, dict[str, Any]] = {
            "flac": {"format": "FLAC", "subtype": "PCM_16"},
            # With a constant bit rate, here 128 kb/s, a reader knows the length without the header.
            "mp3": {
                "format": "MP3",
                "subtype": "MPEG_LAYER_III",
                "bitrate_mode": "CONSTANT",
                "compression_level": 0.2,
            },
            "opus": {"format": "OGG", "subtype": "OPUS"},
        }
        self._whole_only = format == "flac"
        self._out = io.BytesIO()
        self._sent = 0
        self._lock = threading.Lock()  # it may be dropped while a thread still writes
        self._file = soundfile.SoundFile(self._out, "w", RATE, 1, **how[format])

    def write(self, samples: NDArray[np.float32]) -> bytes:
        with self._lock:
            self._file.write(samples.clip(-1, 1))
            return b"" if self._whole_only else self._new()

    def close(self) -> bytes:
        with self._lock:
            if not self._file.frames:
                self._file.write(np.zeros(1, np.float32))  # without any sample the encoders do not even write a header
            self._file.close()
            return self._new()

    def drop(self) -> None:
        with self._lock:
            self._file.close()

    def _new(self) -> bytes:
        new = bytes(self._out.getbuffer()[self._sent :])
        self._sent += len(new)
        return new
