"""The pitch of a clean recording by normalised autocorrelation: the target that the vocoder's f0 predictor learns."""

import numpy as np
from numpy.typing import NDArray


def track_f0(
    samples: NDArray[np.float32], sample_rate: int = 22_050, hop: int = 256, low: float = 60.0, high: float = 240.0
) -> NDArray[np.float32]:
    """One f0 in Hz a frame of `hop` samples (len(samples) // hop frames), 0 where unvoiced."""
    window = 1024
    frames = len(samples) // hop
    padded = np.pad(samples, (window // 2, window))
    index = np.arange(frames)[:, None] * hop + hop // 2 + np.arange(window)
    x = padded[index] * np.hanning(window).astype(np.float32)
    spectrum = np.fft.rfft(x, 2 * window)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, :window]
    hann = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(window), 2 * window)) ** 2)[:window]
    energy = correlation[:, :1]
    normal = correlation / np.maximum(energy, 1e-9) / np.maximum(hann / hann[0], 1e-3)
    shortest, longest = int(sample_rate / high), int(sample_rate / low)
    span = normal[:, shortest:longest]
    # The first peak near the maximum, so that double periods do not win.
    best = span.max(1, keepdims=True)
    lag = shortest + np.argmax(span > 0.93 * best, axis=1)
    rising = (lag[:, None] + np.arange(12)).clip(max=longest - 1)
    lag = rising[np.arange(frames), np.argmax(np.take_along_axis(normal, rising, 1), axis=1)]
    voiced = (best[:, 0] > 0.5) & (energy[:, 0] > 1e-3)
    return np.where(voiced, sample_rate / lag, 0).astype(np.float32)
