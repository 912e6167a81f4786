import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask_engine.models.speech_frontend import SpeechFrontend, fbank, num_rows, read_cmvn, stack_frames

GOLDEN = Path(__file__).parents[1] / "golden"
# The goldens were made with torchaudio, which is this far from kaldi-native-fbank (dream_golden.json, `frontend`).
TORCHAUDIO_DIFFERENCE = 5e-4


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "dream_golden.npz") as arrays:
        return {k.removeprefix("frontend/"): torch.from_numpy(arrays[k]) for k in arrays.files if "frontend/" in k}


def rng(*keys: str) -> np.random.Generator:
    return np.random.default_rng([20240, *(zlib.crc32(key.encode()) for key in keys)])


@pytest.fixture(scope="module")
def wave() -> NDArray[np.float32]:
    t = np.arange(20000) / 16000
    tones = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.2 * np.sin(2 * np.pi * 1800 * t * (1 + 0.2 * t))
    return (tones + 0.02 * rng("wav").standard_normal(20000)).astype(np.float32)


def golden_cmvn() -> tuple[Tensor, Tensor]:
    shift = rng("cmvn", "shift").standard_normal(560).astype(np.float32) - np.float32(10)
    scale = (0.2 + 0.01 * rng("cmvn", "scale").standard_normal(560)).astype(np.float32)
    return torch.from_numpy(shift), torch.from_numpy(scale)


def test_fbank_equals_the_reference(wave: NDArray[np.float32], golden: dict[str, Tensor]) -> None:
    frames = fbank(wave)
    assert frames.shape == (123, 80)
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames[::6], golden["fbank80"], rtol=0, atol=TORCHAUDIO_DIFFERENCE)


def test_rows_equal_the_reference(wave: NDArray[np.float32], golden: dict[str, Tensor]) -> None:
    raw = SpeechFrontend(None)(wave)
    assert raw.shape == (21, 560)
    torch.testing.assert_close(raw[:, ::7], golden["lfr560"], rtol=0, atol=TORCHAUDIO_DIFFERENCE)
    normalised = SpeechFrontend(golden_cmvn())(torch.from_numpy(wave))
    torch.testing.assert_close(normalised[:, ::7], golden["cmvn_applied"], rtol=0, atol=0.25 * TORCHAUDIO_DIFFERENCE)


@pytest.mark.parametrize("frames", [1, 2, 5, 6, 7, 8, 12, 13, 123])
def test_stacking_repeats_the_ends(golden: dict[str, Tensor], frames: int) -> None:
    counter = torch.arange(frames, dtype=torch.float32)[:, None]
    assert torch.equal(stack_frames(counter), golden[f"lfr_counter_{frames}"])


def test_row_counts_are_those_of_the_reference() -> None:
    expected = json.loads((GOLDEN / "dream_golden.json").read_text())["frontend"]["frames_for_samples"]
    for samples, (frames, rows) in expected.items():
        features = fbank(np.zeros(int(samples), np.float32))
        assert (len(features), len(stack_frames(features)), num_rows(int(samples))) == (frames, rows, rows)


def test_the_same_recording_gives_the_same_rows(wave: NDArray[np.float32]) -> None:
    assert torch.equal(fbank(wave), fbank(wave))
    dithered = SpeechFrontend(None, dither=1.0)(wave)
    difference = (dithered - SpeechFrontend(None)(wave)).abs()
    assert 0 < difference.max() < 0.1


def test_audio_that_cannot_be_heard_is_refused() -> None:
    assert num_rows(399) == 0
    assert SpeechFrontend(None)(np.zeros(399, np.float32)).shape == (0, 560)
    with pytest.raises(ValueError, match="399 samples is too short: at least 400"):
        fbank(np.zeros(399, np.float32))
    with pytest.raises(ValueError, match="mono"):
        fbank(np.zeros((2, 800), np.float32))


def kaldi_text(shift: Tensor, scale: Tensor) -> str:
    def values(vector: Tensor) -> str:
        return " ".join(f"{value:.9g}" for value in vector.tolist())

    return (
        f"<Nnet> \n<Splice> 560 560\n[ 0 ]\n<AddShift> 560 560 \n<LearnRateCoef> 0 [ {values(shift)} ]\n"
        f"<Rescale> 560 560\n<LearnRateCoef> 0 [ {values(scale)} ]\n</Nnet>\n"
    )


def test_cmvn_is_read_from_kaldi_text(tmp_path: Path) -> None:
    path = tmp_path / "am.mvn"
    path.write_text(kaldi_text(*golden_cmvn()))
    for ours, wanted in zip(read_cmvn(path), golden_cmvn(), strict=True):
        assert torch.equal(ours, wanted)


def test_broken_cmvn_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "am.mvn"
    path.write_text(kaldi_text(*golden_cmvn()).replace("<Rescale>", "<Other>"))
    with pytest.raises(ValueError, match=r"am\.mvn: no <Rescale>"):
        read_cmvn(path)
    path.write_text(kaldi_text(golden_cmvn()[0][:9], golden_cmvn()[1]))
    with pytest.raises(ValueError, match="announces 560 values but has 9"):
        read_cmvn(path)
    with pytest.raises(ValueError, match="two vectors of 560"):
        SpeechFrontend((torch.zeros(80), torch.ones(80)))
