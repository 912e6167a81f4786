"""The speech front end: samples to stacked, normalised filterbank rows, one per 60 ms.

Source: reference/model.md "Audio input path". Kaldi filterbank of 80 mel bands every 10 ms, seven frames stacked every
six (560 values a row), then mean and variance normalisation. The reference dithers with unseeded noise; the default
here is none, so that the same recording always gives the same rows (the difference is at most 0.03 on a log scale).
"""

import re
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAMPLE_RATE = 16000
MIN_SAMPLES = 400  # one 25 ms window
NUM_MEL = 80
STACKED = 7  # m: frames per row
STRIDE = 6  # n: frames from row to row
FEATURE_SIZE = NUM_MEL * STACKED

Cmvn = tuple[Tensor, Tensor]  # (shift, scale), each (560,) float32


def num_rows(num_samples: int) -> int:
    """Rows that so many 16 kHz samples give; known before anything is computed. 0 below `MIN_SAMPLES`."""
    num_frames = max(0, 1 + (num_samples - MIN_SAMPLES) // 160)
    return -(-num_frames // STRIDE)


def fbank(samples: NDArray[np.float32] | Tensor, dither: float = 0.0) -> Tensor:
    """(T,) samples in [-1, 1] at 16 kHz -> (1 + (T - 400) // 160, 80) log mel energies.

    Raises `ValueError` for anything shorter than one window.
    """
    wave = np.asarray(samples, dtype=np.float32)
    if wave.ndim != 1:
        raise ValueError(f"audio must be mono samples of shape (T,), got shape {wave.shape}")
    if len(wave) < MIN_SAMPLES:
        raise ValueError(
            f"audio of {len(wave)} samples is too short: at least {MIN_SAMPLES} samples (25 ms at 16 kHz) are needed"
        )
    bank = knf.OnlineFbank(_options(dither))
    bank.accept_waveform(SAMPLE_RATE, wave * 32768)
    bank.input_finished()
    return torch.from_numpy(np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)]))  # (frames, 80)


def _options(dither: float) -> knf.FbankOptions:
    """25 ms Hamming windows every 10 ms, pre-emphasis 0.97, 20-8000 Hz; energy_floor 0 is not the library's default."""
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.frame_length_ms = 25
    options.frame_opts.frame_shift_ms = 10
    options.frame_opts.dither = dither
    options.frame_opts.preemph_coeff = 0.97
    options.frame_opts.remove_dc_offset = True
    options.frame_opts.window_type = "hamming"
    options.frame_opts.round_to_power_of_two = True
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = NUM_MEL
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = 0  # up to half the sample rate
    options.use_energy = False
    options.energy_floor = 0
    options.use_log_fbank = True
    options.use_power = True
    return options


def stack_frames(frames: Tensor, stacked: int = STACKED, stride: int = STRIDE) -> Tensor:
    """(F, D) -> (ceil(F / stride), stacked * D): row r holds the frames around frame r * stride, ends repeated."""
    num_frames = len(frames)
    starts = torch.arange(0, num_frames, stride)[:, None] - (stacked - 1) // 2
    indices = (starts + torch.arange(stacked)).clamp(0, num_frames - 1)  # (rows, stacked)
    return frames[indices].flatten(1)


def read_cmvn(path: Path) -> Cmvn:
    """Shift and scale from Kaldi's text form, `am.mvn`: the bracketed values after `<AddShift>` and `<Rescale>`."""
    text = path.read_text(encoding="utf-8")
    shift, scale = (_component(text, name, path) for name in ("AddShift", "Rescale"))
    if shift.shape != scale.shape:
        raise ValueError(f"{path}: <AddShift> has {len(shift)} values but <Rescale> has {len(scale)}")
    return shift, scale


def _component(text: str, name: str, path: Path) -> Tensor:
    found = re.search(rf"<{name}>\s+(\d+)\s+\d+\s+<LearnRateCoef>\s+\S+\s+\[([^\]]*)\]", text)
    if found is None:
        raise ValueError(f"{path}: no <{name}> component with values in brackets")
    values = torch.tensor([float(value) for value in found[2].split()], dtype=torch.float32)
    if len(values) != int(found[1]):
        raise ValueError(f"{path}: <{name}> announces {found[1]} values but has {len(values)}")
    return values


class SpeechFrontend:
    """Samples (T,) float32 in [-1, 1] at 16 kHz -> rows (R, 560) float32. R is 0 below `MIN_SAMPLES`.

    Without `cmvn` the rows stay unnormalised.
    """

    def __init__(self, cmvn: Cmvn | None, dither: float = 0.0) -> None:
        if cmvn is not None and any(part.shape != (FEATURE_SIZE,) for part in cmvn):
            raise ValueError(f"cmvn must be two vectors of {FEATURE_SIZE}, got {[tuple(part.shape) for part in cmvn]}")
        self.cmvn = cmvn
        self.dither = dither

    def __call__(self, samples: NDArray[np.float32] | Tensor) -> Tensor:
        if len(samples) < MIN_SAMPLES:
            return torch.zeros(0, FEATURE_SIZE)
        rows = stack_frames(fbank(samples, self.dither))
        if self.cmvn is None:
            return rows
        shift, scale = self.cmvn
        return (rows + shift) * scale
