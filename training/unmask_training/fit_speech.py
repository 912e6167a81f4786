"""Fits the two halves of speech out to each other: mu, which is smoother than any true mel, and the vocoder.

The tokens stay what they are. Codes -> mu -> vocoder is trained as one network on the speaking voice, so that the
vocoder learns what smooth mels mean and mu learns to say what the vocoder needs. The estimator of the flow, a third of
the speech decoder, can then be left out of the bundle (docs/log.md).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from unmask_engine.codecs.speech_flow import SpeechFlow
from unmask_engine.codecs.vocoder import Vocoder
from unmask_training.corpus import Corpus
from unmask_training.loop import Schedule, Training
from unmask_training.pitch import track_f0
from unmask_training.train_speech_codec import SAMPLES_PER_TOKEN, Codec, speaking_mel
from unmask_training.train_vocoder import FRAMES, HOP, spectral_loss

_TOKENS = 30  # at most, of one utterance's window: what serving decodes at a time


class SpeechOut(nn.Module):
    """Codes to samples, trainable."""

    def __init__(self, flow: SpeechFlow, vocoder: Vocoder) -> None:
        super().__init__()
        self.flow, self.vocoder = flow, vocoder


@torch.no_grad()
def tokenise(codec: Codec, wide: Corpus) -> list[Tensor]:
    """The codes of each recording at 16 kHz."""
    return [codec.tokenizer.encode(torch.from_numpy(r)) for r in wide.recordings()]


def train(
    out: Path, minutes: float, codec: Codec, vocoder: Vocoder, corpus: Corpus, wide: Corpus, seed: int = 0,
    batch: int = 10,
) -> SpeechOut:  # fmt: skip
    """`corpus` holds the voice at 22.05 kHz and `wide` the same recordings at 16 kHz. Resumes from `out`."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = SpeechOut(codec.flow, vocoder)
    for name, parameter in model.flow.named_parameters():
        parameter.requires_grad_(not name.startswith(("decoder.", "spk_embed_affine_layer.", "input_embedding.")))
    training = Training(model, Schedule(minutes, 6e-4, betas=(0.8, 0.99), weight_decay=0.0, ema_decay=0.995), out)
    codes = tokenise(codec, wide)
    f0s = [track_f0(r) for r in corpus.recordings()]

    def windows() -> tuple[Tensor, list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """Equally long windows of tokens (B, L), and the samples and pitch that belong to them."""
        chosen = torch.randint(len(codes), (batch,), generator=generator).tolist()
        length = min(_TOKENS, *(len(codes[i]) for i in chosen))
        ids, samples, pitches = [], [], []
        for i in chosen:
            start = int(torch.randint(len(codes[i]) - length + 1, (1,), generator=generator))
            first = start * SAMPLES_PER_TOKEN[corpus.sample_rate]
            count = model.flow.num_frames(length)
            ids.append(codes[i][start : start + length])
            samples.append(_padded(corpus.recording(i)[first:], count * HOP))
            pitches.append(_padded(f0s[i][round(first / HOP) :], count))
        return torch.stack(ids), samples, pitches

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        ids, samples, pitches = windows()
        with torch.autocast("cpu", torch.bfloat16):
            mu = model.flow.encode_tokens(ids)
        whole = torch.from_numpy(np.stack(samples))
        true_mel = speaking_mel(whole)[..., : mu.shape[-1]]
        start = int(torch.randint(max(1, mu.shape[-1] - FRAMES), (1,), generator=generator))
        mel = mu.float()[..., start : start + FRAMES]
        stop = start + mel.shape[-1]
        true = whole[:, start * HOP : stop * HOP]
        f0 = torch.from_numpy(np.stack(pitches))[:, start:stop]
        with torch.autocast("cpu", torch.bfloat16):
            guess = model.vocoder.predict_f0(mel)
        made = model.vocoder.vocode(mel, model.vocoder.source(f0, generator))[:, : true.shape[-1]]
        pitch = (guess.float() - f0).abs().mean() / 100
        mels = F.l1_loss(speaking_mel(made), speaking_mel(true))
        smooth = F.l1_loss(mu.float(), true_mel)
        loss = spectral_loss(made, true) + 2 * mels + pitch + 0.3 * smooth
        return loss, {"mel_l1": float(mels.detach()), "mu_l1": float(smooth.detach()), "pitch": float(pitch.detach())}

    training.run(loss_of)
    training.use_ema()
    return model.eval()


def _padded(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    return np.pad(values[:count], (0, max(0, count - len(values)))).astype(np.float32)
