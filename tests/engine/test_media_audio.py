"""Audio as bytes: what is read and written, and what is refused before and while it is decoded."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from unmask_engine.media import MediaLimits, read_audio, resample, write_audio
from unmask_engine.request import AudioPart, RequestError

LIMITS = MediaLimits()
SMALL = MediaLimits(max_seconds=1.0)
RATE = 16_000
AUDIO = ["wav", "flac", "mp3", "opus"]


def tone(seconds: float = 0.5, rate: int = RATE) -> AudioPart:
    return AudioPart(np.float32(0.4 * np.sin(2 * np.pi * 330 * np.arange(int(seconds * rate)) / rate)), rate)


def wav(samples: NDArray[Any], rate: int = RATE, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=format, subtype=subtype)
    return out.getvalue()


def with_data_size(data: bytes, size: int) -> bytes:
    assert data[36:40] == b"data"
    return data[:40] + struct.pack("<I", size) + data[44:]


def with_flac_frames(data: bytes, frames: int) -> bytes:
    """STREAMINFO: the count is the low 36 bits of the 8 bytes at offset 18 (RFC 9639, section 8.2)."""
    kept = int.from_bytes(data[18:26], "big") >> 36 << 36
    return data[:18] + (kept | frames).to_bytes(8, "big") + data[26:]


def refusal(data: bytes, limits: MediaLimits = LIMITS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_audio(data, limits, param="input[0]")
    assert caught.value.param == "input[0]"
    return caught.value


@pytest.mark.parametrize("format", AUDIO)
def test_audio_is_written_and_read(format: str) -> None:
    sent = tone()
    read = read_audio(write_audio(sent, format), LIMITS)
    assert read.samples.dtype == np.float32
    assert read.samples.ndim == 1
    assert read.sample_rate == RATE
    assert len(read.samples) == len(sent.samples)
    tolerance = {"wav": 2e-5, "flac": 2e-5, "mp3": 0.1, "opus": 0.1}[format]
    np.testing.assert_allclose(read.samples[800:-800], sent.samples[800:-800], rtol=0, atol=tolerance)


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_sixteen_bit_samples_return_bit_for_bit(format: str) -> None:
    sent = np.random.default_rng(1).integers(-32768, 32768, 5000, np.int16)
    read = read_audio(wav(sent), LIMITS)
    again, _ = soundfile.read(io.BytesIO(write_audio(read, format)), dtype="int16")
    np.testing.assert_array_equal(again, sent)
    assert write_audio(read, "pcm") == sent.astype("<i2").tobytes()


@pytest.mark.parametrize("format", AUDIO)
def test_rates_that_a_format_lacks_are_resampled(format: str) -> None:
    read = read_audio(write_audio(tone(rate=22_050), format), LIMITS)
    assert read.sample_rate == (48_000 if format == "opus" else 22_050)
    assert len(read.samples) == pytest.approx(0.5 * read.sample_rate, abs=2)
    assert read_audio(write_audio(tone(rate=96_000), "mp3"), LIMITS).sample_rate == 44_100


def test_too_loud_samples_are_clipped_when_written() -> None:
    loud = AudioPart(np.array([-3.0, 3.0, 0.5], np.float32), RATE)
    assert np.frombuffer(write_audio(loud, "pcm"), "<i2").tolist() == [-32768, 32767, 16384]


@pytest.mark.parametrize("format", [*AUDIO, "pcm"])
def test_no_samples_can_be_written(format: str) -> None:
    data = write_audio(AudioPart(np.zeros(0, np.float32), RATE), format)
    assert data == b"" if format == "pcm" else len(read_audio(data, LIMITS).samples) == 1


def test_channels_are_averaged() -> None:
    left, right = np.full(100, 0.5), np.full(100, -0.25)
    np.testing.assert_allclose(read_audio(wav(np.stack([left, right], 1)), LIMITS).samples, 0.125, atol=1e-4)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"])
def test_wav_encodings(subtype: str) -> None:
    read = read_audio(wav(tone().samples, subtype=subtype), LIMITS).samples[: len(tone().samples)]
    np.testing.assert_allclose(read[20:], tone().samples[20:], rtol=0, atol=0.05)  # ADPCM starts slowly


@pytest.mark.parametrize(("format", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_reading_in_blocks_equals_reading_whole(format: str, subtype: str) -> None:
    data = wav(np.random.default_rng(2).normal(0, 0.1, 10 * RATE), subtype=subtype, format=format)
    whole, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_allclose(read_audio(data, LIMITS).samples, whole.clip(-1, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_streamed_wav_with_a_placeholder_size_is_read(size: int) -> None:
    data = with_data_size(write_audio(tone(), "wav"), size)
    streamed = data[:4] + b"\xff\xff\xff\xff" + data[8:]
    np.testing.assert_allclose(read_audio(streamed, LIMITS).samples, tone().samples, rtol=0, atol=2e-5)


def test_a_streamed_wav_is_still_bounded() -> None:
    data = with_data_size(write_audio(tone(2.0), "wav"), 0xFFFF_FFFF)
    assert refusal(data, SMALL).code == "audio_too_long"


def test_a_flac_of_open_length_is_read_and_bounded() -> None:
    open_ended = with_flac_frames(write_audio(tone(), "flac"), 0)
    assert len(read_audio(open_ended, LIMITS).samples) == len(tone().samples)
    longer = with_flac_frames(write_audio(tone(2.0), "flac"), 0)
    assert refusal(longer, SMALL).code == "audio_too_long"


def test_a_flac_whose_header_understates_its_length_is_bounded() -> None:
    data = with_flac_frames(write_audio(tone(2.0), "flac"), 100)
    assert len(read_audio(data, SMALL).samples) == 100


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_data_size(write_audio(tone(), "wav"), 3 * 3600 * RATE * 2), id="wav"),
        pytest.param(with_flac_frames(write_audio(tone(), "flac"), 3 * 3600 * RATE), id="flac"),
    ],
)
def test_three_hours_are_refused_by_the_header(data: bytes) -> None:
    error = refusal(data)
    assert error.code == "audio_too_long"
    assert "120 seconds" in error.message


@pytest.mark.parametrize("format", AUDIO)
def test_audio_just_over_the_limit_is_refused(format: str) -> None:
    assert len(read_audio(write_audio(tone(1.0), format), SMALL).samples) == RATE
    assert refusal(write_audio(tone(1.01), format), SMALL).code == "audio_too_long"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused(bad: float) -> None:
    samples = tone().samples.copy()
    samples[1234] = bad
    error = refusal(wav(samples, subtype="FLOAT"))
    assert error.code == "invalid_audio"
    assert "NaN" in error.message


def test_huge_float_samples_are_clipped() -> None:
    read = read_audio(wav(np.full((10, 2), 3e38, np.float32), subtype="FLOAT"), LIMITS)
    assert read.samples.tolist() == [1.0] * 10


@pytest.mark.parametrize(("rate", "channels"), [(1_000, 1), (768_000, 1), (RATE, 9)])
def test_odd_rates_and_many_channels_are_refused(rate: int, channels: int) -> None:
    error = refusal(wav(np.zeros((100, channels)), rate))
    assert error.code == "invalid_audio"
    assert "allowed" in error.message


def test_a_wav_without_samples_is_empty() -> None:
    assert refusal(wav(np.zeros(0))).code == "empty_media"


@pytest.mark.parametrize("format", AUDIO)
@pytest.mark.parametrize("kept", [0.1, 0.6, 0.95])
def test_truncated_audio_is_refused(format: str, kept: float) -> None:
    data = write_audio(AudioPart(np.random.default_rng(3).random(RATE, np.float32) / 2 - 0.25, RATE), format)
    error = refusal(data[: int(len(data) * kept)])
    assert error.code == "invalid_audio"
    assert "cut off" in error.message


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 48_000])
def test_resample_keeps_the_sound(rate: int) -> None:
    resampled = resample(tone(), rate)
    assert resampled.sample_rate == rate
    assert resampled.samples.dtype == np.float32
    inner = slice(rate // 20, -rate // 20)
    np.testing.assert_allclose(resampled.samples[inner], tone(rate=rate).samples[inner], rtol=0, atol=1e-3)


def test_resample_to_the_same_rate_changes_nothing() -> None:
    assert resample(sent := tone(), RATE) is sent
    assert len(resample(AudioPart(np.zeros(0, np.float32), RATE), 8_000).samples) == 0
