"""Recordings as browsers and phones make them: read where the extra `aac` is installed, refused with its name else."""

import io
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unmask_engine.media import MediaLimits, read_audio
from unmask_engine.request import RequestError

av: Any = pytest.importorskip("av", reason="the extra `aac` is not installed")

SECONDS = 1.5
LIMITS = MediaLimits(max_seconds=2.0)
FORMATS = {
    "WebM or Matroska": ("webm", "libopus", 48_000),
    "M4A": ("ipod", "aac", 44_100),
    "MP4": ("mp4", "aac", 24_000),
    "AAC": ("adts", "aac", 16_000),
}


def recorded(name: str, seconds: float = SECONDS, rate: int | None = None, layout: str = "mono") -> bytes:
    """A tone of 440 Hz, in all channels."""
    container, codec, usual = FORMATS[name]
    rate = rate or usual
    out = io.BytesIO()
    wave = np.float32(0.4 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate))
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        planes = np.stack([wave] * stream.codec_context.channels)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = rate
        for piece in (frame, None):
            file.mux(stream.encode(piece))
    return out.getvalue()


WHOLE = {name: recorded(name) for name in FORMATS}


def refusal(data: bytes, limits: MediaLimits = LIMITS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_audio(data, limits, param="file")
    assert caught.value.param == "file"
    return caught.value


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_tone_is_heard(name: str, layout: str) -> None:
    audio = read_audio(recorded(name, layout=layout), LIMITS)
    assert audio.sample_rate == FORMATS[name][2]
    assert audio.samples.dtype == np.float32
    assert len(audio.samples) / audio.sample_rate == pytest.approx(SECONDS, abs=0.15)  # encoders pad
    middle = audio.samples[audio.sample_rate // 2 :][: audio.sample_rate // 2]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.05)
    loudest = np.argmax(np.abs(np.fft.rfft(middle))) * audio.sample_rate / len(middle)
    assert loudest == pytest.approx(440, abs=3)


@pytest.mark.parametrize("name", FORMATS)
def test_the_limit_of_seconds_holds(name: str) -> None:
    assert refusal(recorded(name, 3.0)).code == "audio_too_long"


@pytest.mark.parametrize("name", FORMATS)
def test_the_limit_of_bytes_holds(name: str) -> None:
    assert refusal(recorded(name), MediaLimits(max_bytes=1000)).code == "media_too_large"


def test_seconds_are_counted_not_believed() -> None:
    """The header of an MP4 that lasts three seconds says that it lasts one."""
    data = bytearray(recorded("MP4", 3.0))
    for box, at in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):  # where their durations stand, from their names on
        start = data.index(box) + at
        data[start : start + 4] = (1000 if box != b"mdhd" else 24_000).to_bytes(4, "big")
    assert refusal(bytes(data)).code == "audio_too_long"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7])
def test_damaged_files_are_refused_or_heard_as_far_as_they_go(name: str, kept: float) -> None:
    data = recorded(name)
    short = data[: int(len(data) * kept)]
    if name == "WebM or Matroska" and kept > 0.1:  # a browser's stream promises nothing
        audio = read_audio(short, LIMITS)
        assert 0 < len(audio.samples) / audio.sample_rate < SECONDS
    else:
        assert refusal(short).code in ("invalid_audio", "unsupported_media")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=20))
def test_whatever_the_bytes_are_they_are_read_or_refused(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(WHOLE[name])
    for place, bits in flips:
        data[int(place**3 * len(data))] ^= bits  # most of them in the headers
    try:
        audio = read_audio(bytes(data), LIMITS)
    except RequestError:
        return
    assert 0 < len(audio.samples) / audio.sample_rate <= LIMITS.max_seconds
    assert np.abs(audio.samples).max() <= 1


def test_a_video_without_sound_has_no_sound() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("mjpeg", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        file.mux(stream.encode(av.VideoFrame(32, 32, "yuvj420p")))
        file.mux(stream.encode(None))
    error = refusal(out.getvalue())
    assert error.code == "unsupported_media"
    assert "no sound" in error.message


@pytest.mark.parametrize("name", FORMATS)
def test_without_the_extra_it_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = recorded(name)
    monkeypatch.setattr("unmask_engine.media_av.find_spec", lambda _: None)
    error = refusal(data)
    assert error.code == "unsupported_media"
    assert "the extra `aac`" in error.message
    assert name in error.message
    assert "WAV, FLAC, MP3, Ogg;" in error.message


def test_a_browsers_recording_is_transcribed(client: httpx.Client, engine: Any) -> None:
    files = {"file": ("blob", recorded("WebM or Matroska"), "audio/webm")}
    assert client.post("/v1/audio/transcriptions", files=files, data={"model": "any"}).status_code == 200
    (part,) = engine.requests[-1].parts
    assert part.sample_rate == 48_000
