import io

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from unmask_engine.audio_stream import RATE, AudioWriter
from unmask_engine.media import AudioFormat, MediaLimits, read_audio
from unmask_engine.request import AudioPart

SOUND = (np.sin(np.arange(3 * 22050) * 0.05) * 0.5).astype(np.float32)


def pieces(format: AudioFormat, sound: NDArray[np.float32], size: int) -> list[bytes]:
    with AudioWriter(format) as writer:
        written = [writer.write(AudioPart(sound[i : i + size], 22050)) for i in range(0, len(sound), size)]
        return [*written, writer.close()]


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "opus"])
def test_the_pieces_are_a_file(format: AudioFormat) -> None:
    data = b"".join(pieces(format, SOUND, 5000))
    for samples, rate in (soundfile.read(io.BytesIO(data)), vars(read_audio(data, MediaLimits())).values()):
        assert rate == RATE
        assert len(samples) / rate == pytest.approx(3, abs=0.1)
        assert np.sqrt((samples**2).mean()) == pytest.approx(0.5 / 2**0.5, rel=0.1)


@pytest.mark.parametrize("format", ["pcm", "wav", "flac", "mp3"])  # an Ogg stream has a random number in it
def test_the_size_of_the_pieces_does_not_matter(format: AudioFormat) -> None:
    assert b"".join(pieces(format, SOUND, 1111)) == b"".join(pieces(format, SOUND, len(SOUND)))


@pytest.mark.parametrize("format", ["pcm", "wav", "mp3", "opus"])
def test_bytes_come_while_it_is_written(format: AudioFormat) -> None:
    assert sum(map(len, pieces(format, SOUND, 5000)[:-1])) > 1000


def test_pcm_is_bare_samples() -> None:
    data = b"".join(pieces("pcm", SOUND, 5000))
    assert len(data) == 2 * 3 * RATE


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "opus"])
def test_silence_without_length_is_a_file_too(format: AudioFormat) -> None:
    data = b"".join(pieces(format, SOUND[:0], 1))
    assert soundfile.info(io.BytesIO(data)).samplerate == RATE
