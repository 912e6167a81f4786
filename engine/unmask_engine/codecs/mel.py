"""Log-mel spectrograms as the speech decoder has them, and the Slaney filters that the speech tokenizer shares."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Slaney's mel scale: linear below 1 kHz (200/3 Hz a mel), logarithmic above (27 mels for a factor of 6.4).
_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


@dataclass(frozen=True)
class MelConfig:
    """Sizes of `log_mel`; the defaults are the mels that the published speech decoder makes."""

    sample_rate: int = 22050
    n_fft: int = 1024
    win_length: int = 1024
    hop_length: int = 256
    num_mels: int = 80
    f_min: float = 0.0
    f_max: float = 8000.0


def log_mel(samples: Tensor, config: MelConfig | None = None) -> Tensor:
    """Natural-log mels of samples at `config.sample_rate`: (B, T) or (T,) -> (B, num_mels, T // hop_length).

    sqrt(power + 1e-9), floor 1e-5, reflection pad of (n_fft - hop) / 2 without centring, so that T samples give
    exactly T // hop frames (speech-decoder.md section 1). T must exceed the pad. Differentiable.
    """
    config = config or MelConfig()
    samples = samples[None] if samples.ndim == 1 else samples
    pad = (config.n_fft - config.hop_length) // 2
    padded = F.pad(samples[:, None], (pad, pad), mode="reflect")[:, 0]
    window = torch.hann_window(config.win_length, device=samples.device, dtype=samples.dtype)
    spectrum = torch.stft(
        padded, config.n_fft, config.hop_length, config.win_length, window, center=False, return_complex=True
    )
    magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)  # B, n_fft / 2 + 1, frames
    filters = slaney_filters(config.sample_rate, config.n_fft, config.num_mels, config.f_min, config.f_max)
    return torch.log((filters.to(magnitude) @ magnitude).clamp(min=1e-5))


@lru_cache(maxsize=16)
def slaney_filters(sample_rate: int, n_fft: int, num_mels: int, f_min: float, f_max: float) -> Tensor:
    """Triangular mel filters of unit area (Slaney's Auditory Toolbox), float32 (num_mels, n_fft // 2 + 1).

    The tensor is cached and shared: do not write to it.
    """
    edges = _mel_to_hz(np.linspace(_hz_to_mel(f_min), _hz_to_mel(f_max), num_mels + 2))
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (right - left)
    return torch.from_numpy(triangles.astype(np.float32))


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_MEL
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))
