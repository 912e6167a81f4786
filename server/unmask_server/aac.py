"""AAC for `/v1/audio/speech`, by the extra `aac`: libsndfile writes none, FFmpeg (PyAV) does."""

import io
import threading
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Self

import numpy as np

from unmask_engine.audio_stream import RATE, AudioWriter
from unmask_engine.request import AudioPart

BIT_RATE: Final = 128_000
MIME: Final = "audio/aac"


def is_there() -> bool:
    """Whether the extra is installed."""
    return find_spec("av") is not None


class AacWriter:
    """As AudioWriter: mono at its rate, in ADTS frames, each of which a player can begin with."""

    def __init__(self) -> None:
        self._av: Any = import_module("av")
        self._pcm = AudioWriter("pcm")
        self._out = io.BytesIO()
        self._lock = threading.Lock()  # it may be dropped while a thread still writes
        self._file: Any = self._av.open(self._out, "w", format="adts")
        self._stream: Any = self._file.add_stream("aac", rate=RATE, layout="mono")
        self._stream.bit_rate = BIT_RATE
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._file.close()

    def write(self, audio: AudioPart) -> bytes:
        with self._lock:
            self._encode(self._pcm.write(audio))
            return self._new()

    def close(self) -> bytes:
        with self._lock:
            self._encode(self._pcm.close())
            self._file.mux(self._stream.encode(None))
            self._file.close()
            return self._new()

    def _encode(self, pcm: bytes) -> None:
        if not pcm:
            return
        samples = np.frombuffer(pcm, "<i2").astype(np.int16)[None]  # (1, N)
        frame = self._av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = RATE
        self._file.mux(self._stream.encode(frame))

    def _new(self) -> bytes:
        new = bytes(self._out.getbuffer()[self._sent :])
        self._sent += len(new)
        return new
