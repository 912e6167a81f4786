"""Trains the HiFT vocoder at small size on true mels of the speaking voice, without a discriminator.

Loss: multi-resolution STFT (log magnitude and spectral convergence, arXiv 1910.11480) plus log-mel L1; the f0
predictor learns the tracked pitch beside it, and the true pitch drives the source in training.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_engine.codecs.vocoder import Vocoder, VocoderConfig
from unmask_training.corpus import Corpus
from unmask_training.devices import CPU, mixed
from unmask_training.loop import Schedule, Training
from unmask_training.pitch import track_f0
from unmask_training.train_speech_codec import speaking_mel

CONFIG = VocoderConfig(
    channels=(160, 80, 40), upsample_rates=(4, 4), upsample_kernels=(8, 8), source_kernels=(7, 11),
    n_fft=64, hop_length=16, f0_channels=96, f0_layers=4,
)  # fmt: skip
FRAMES, HOP = 48, 256
CONTEXT = 4  # frames of true audio around a segment, so that its mels are the whole recording's
_FFTS = (256, 512, 1024, 2048)


def spectral_loss(made: Tensor, true: Tensor) -> Tensor:
    """Mean over resolutions; the floor of 1e-3 keeps silence from dominating."""
    total = made.new_zeros(())
    for n in _FFTS:
        window = torch.hann_window(n, device=made.device)
        a, b = (
            torch.stft(x, n, n // 4, window=window, return_complex=True).abs().clamp(min=1e-7) for x in (made, true)
        )
        total = total + F.l1_loss((a + 1e-3).log(), (b + 1e-3).log()) + 0.5 * (b - a).norm() / b.norm().clamp(min=1e-3)
    return total / len(_FFTS)


def vocoder_loss(
    model: Vocoder, wide: Tensor, f0: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Of segments with their context (B, samples) and their true pitch (B, FRAMES), both on the model's device."""
    mel = speaking_mel(wide)[:, :, CONTEXT : CONTEXT + FRAMES]
    true = wide[:, CONTEXT * HOP : (CONTEXT + FRAMES) * HOP]
    with mixed(wide.device):
        guess = model.predict_f0(mel)
    source = model.source(f0, generator)
    made = model.vocode(mel, source)[:, : true.shape[-1]]
    pitch = (guess.float() - f0).abs().mean() / 100
    mels = F.l1_loss(speaking_mel(made), speaking_mel(true))
    loss = spectral_loss(made, true) + mels + pitch
    return loss, {"mel_l1": float(mels.detach()), "pitch": float(pitch.detach())}


def train(
    out: Path, minutes: float, corpus: Corpus, seed: int = 0, batch: int = 12, device: torch.device = CPU
) -> Vocoder:
    """Train on random segments of `FRAMES` mel frames. Resumes from `out`."""
    torch.manual_seed(seed)
    model = Vocoder(CONFIG).to(device)
    training = Training(model, Schedule(minutes, 1.2e-3, betas=(0.8, 0.99), weight_decay=0.0, ema_decay=0.995), out)
    generator = torch.Generator().manual_seed(training.fresh_seed(seed))
    f0s = [track_f0(r) for r in corpus.recordings()]

    def segment() -> tuple[Tensor, Tensor]:
        span = (FRAMES + 2 * CONTEXT) * HOP
        i = int(torch.randint(len(corpus), (1,), generator=generator))
        samples, f0 = corpus.recording(i), f0s[i]
        if len(samples) < span + HOP:
            samples = np.pad(samples, (0, span + HOP - len(samples)))
            f0 = np.pad(f0, (0, len(samples) // HOP - len(f0)))
        start = int(torch.randint(len(samples) // HOP - FRAMES - 2 * CONTEXT + 1, (1,), generator=generator))
        cut = samples[start * HOP : start * HOP + span]
        return torch.from_numpy(cut), torch.from_numpy(f0[start + CONTEXT : start + CONTEXT + FRAMES])

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        pairs = [segment() for _ in range(batch)]
        wide, f0 = torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
        return vocoder_loss(model, wide.to(device), f0.to(device), generator)

    training.run(loss_of)
    training.use_ema()
    return model.eval()
