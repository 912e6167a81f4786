"""Recordings in containers that libsndfile does not know, by FFmpeg (PyAV, the extra `aac`): browsers' and phones'.

The demuxer is told, not guessed, and no decoder runs but those of CODECS: the bytes are untrusted. Of a video the first
sound is read.
"""

import io
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unmask_engine.media_sniff import AUDIO_BY_EXTRA
from unmask_engine.request import AudioPart, RequestError

CODECS: Final = ("aac", "mp3", "mp3float", "opus", "vorbis")  # all of them decode to planar floats
DEMUXERS: Final = dict(zip(AUDIO_BY_EXTRA, ("aac", "mp4", "mp4", "matroska"), strict=True))
SLACK_S: Final = 0.5  # by which a whole recording may be shorter than promised: encoders pad


def is_there() -> bool:
    """Whether the extra is installed."""
    return find_spec("av") is not None


def decode(
    data: bytes, name: str, *, rates: tuple[int, int], max_channels: int, max_seconds: float, param: str | None
) -> AudioPart | None:
    """Mono samples (mean of the channels) of one of AUDIO_BY_EXTRA; None where no sound can be found in it.

    The bounds hold while it is decoded: headers may promise anything.
    """
    av: Any = import_module("av")
    options = {"codec_whitelist": ",".join(CODECS)}
    try:
        file = av.open(io.BytesIO(data), format=DEMUXERS[name], options=options, metadata_errors="ignore")
    except Exception:  # FFmpeg's errors are of many types
        return None
    with file:
        stream = next(iter(file.streams.audio), None)
        if stream is None or stream.codec_context is None or stream.codec_context.name not in CODECS:
            return None
        try:
            samples, rate = _decoded(file, stream, rates, max_channels, max_seconds, param)
            promised = float(stream.duration * stream.time_base) if stream.duration else 0.0
        except RequestError:
            raise
        except Exception:
            raise _invalid(f"The {name} audio cannot be decoded: it is cut off or damaged.", param) from None
    if not len(samples):
        return None
    if name != "AAC" and len(samples) / rate < promised - SLACK_S:  # ADTS promises nothing; FFmpeg guesses
        raise _invalid(f"The {name} audio is cut off: it promises {promised:.1f} seconds.", param)
    return AudioPart(samples, rate)


def _decoded(
    file: Any, stream: Any, rates: tuple[int, int], max_channels: int, max_seconds: float, param: str | None
) -> tuple[NDArray[np.float32], int]:
    stream.codec_context.thread_count = 1
    blocks: list[NDArray[np.float32]] = []
    rate, left = 0, 0
    for frame in file.decode(stream):
        if not rate:
            rate = int(frame.sample_rate)
            if not rates[0] <= rate <= rates[1]:
                message = f"The audio's sample rate is {rate:,} Hz; {rates[0]:,} to {rates[1]:,} Hz are allowed."
                raise _invalid(message, param)
            left = int(max_seconds * rate)
        planes = frame.to_ndarray()  # (channels, samples)
        if frame.sample_rate != rate or frame.format.name != "fltp":
            raise _invalid("The audio changes its sample rate or encoding on the way.", param)
        if len(planes) > max_channels:
            raise _invalid(f"The audio has {len(planes)} channels; at most {max_channels} are allowed.", param)
        left -= planes.shape[1]
        if left < 0:
            message = f"The audio is too long: at most {max_seconds:g} seconds are allowed."
            raise RequestError(message, param=param, code="audio_too_long")
        if not np.isfinite(planes).all():
            raise _invalid("The audio holds samples that are not finite numbers (NaN or infinity).", param)
        blocks.append(planes.clip(-1, 1).mean(axis=0, dtype=np.float32))
    return (np.concatenate(blocks) if blocks else np.zeros(0, np.float32)), rate


def _invalid(message: str, param: str | None) -> RequestError:
    return RequestError(message, param=param, code="invalid_audio")
