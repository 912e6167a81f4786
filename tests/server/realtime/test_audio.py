"""Formats of the wire."""

import base64

import numpy as np
import pytest
import soxr

from unmask_engine.request import RequestError
from unmask_server.realtime.audio import FORMATS, SpeechOut

MU_LAW, A_LAW = FORMATS["audio/pcmu"], FORMATS["audio/pcma"]
SPEECH = np.random.default_rng(0).uniform(-1, 1, 22_050).astype(np.float32)


def samples_of(format, *codes: int) -> list[int]:
    return format.decode(base64.b64encode(bytes(codes)).decode(), "audio").tolist()


def codes_of(format, *samples: int) -> list[int]:
    return list(base64.b64decode(format.encode(np.array(samples, np.int16))))


def test_g711_is_what_the_standard_says() -> None:
    # ITU-T G.191, tables of the laws at 16 bits: the ends, the smallest steps, and the border of a segment.
    assert samples_of(MU_LAW, 0x00, 0x80, 0x7F, 0xFF, 0x8F, 0x0F) == [-32124, 32124, 0, 0, 16764, -16764]
    assert samples_of(A_LAW, 0x2A, 0xAA, 0x55, 0xD5, 0xD4) == [-32256, 32256, -8, 8, 24]
    assert codes_of(MU_LAW, 0, 32767, -32768, 16764) == [0xFF, 0x80, 0x00, 0x8F]
    assert codes_of(A_LAW, 0, -1, 32767, -32768) == [0xD5, 0x55, 0xAA, 0x2A]


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
def test_what_is_decoded_is_encoded_the_same(format) -> None:
    data = bytes(code for code in range(256) if code != 0x7F)  # mu-law has two zeros
    data += data[: len(data) % 2]
    assert base64.b64decode(format.encode(format.decode(base64.b64encode(data).decode(), "audio"))) == data


@pytest.mark.parametrize("given", ["!", "AAA", 3, None, "AAAA"])
def test_what_is_no_audio_is_refused(given) -> None:
    with pytest.raises(RequestError):
        FORMATS["audio/pcm"].decode(given, "audio")


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
def test_chunks_put_together_are_the_whole(format) -> None:
    speech = SpeechOut(format, 22_050)
    pieces = [piece for chunk in np.array_split(SPEECH, [1, 400, 9_000]) for piece in speech.feed(chunk)]
    pieces += speech.flush()
    decoded = [format.decode(piece.audio, "audio") for piece in pieces]
    whole = soxr.resample(SPEECH, 22_050, format.rate) * 32767
    expected = format.decode(format.encode(np.rint(whole).clip(-32768, 32767).astype(np.int16)), "audio")
    np.testing.assert_allclose(np.concatenate(decoded), expected, atol=1 if format.levels is None else 1024)
    assert max(map(len, decoded)) <= format.rate // 5
    assert list(map(len, decoded)) == [piece.num_samples for piece in pieces]
    assert sum(map(len, decoded)) == format.rate
