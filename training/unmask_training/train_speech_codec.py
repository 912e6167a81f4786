"""Trains the speech tokenizer and the flow decoder together, at small size, in the one speaking voice.

Waveform -> log-mel -> encoder -> vector quantiser (EMA codebook, k-means start, restarts of dead codes) -> token
encoder -> mu -> flow matching (the loss of arXiv 2210.02747 with the cosine times and 20 % dropped conditions of the
decoder's own sampler). Afterwards the decoder's embedding table is the codebook seen through one linear map, so
that both halves are exactly the classes of the published model.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_engine.codecs.mel import log_mel
from unmask_engine.codecs.speech_flow import FlowConfig, SpeechFlow
from unmask_engine.codecs.speech_tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from unmask_training.corpus import Corpus
from unmask_training.devices import CPU, mixed
from unmask_training.loop import Schedule, Training
from unmask_training.vocabulary import AUDIO_CODES

TOKENIZER = SpeechTokenizerConfig(
    num_mels=80, d_model=192, num_heads=4, ffn_size=576, num_layers=4, codebook_size=AUDIO_CODES
)
FLOW = FlowConfig(
    vocab_size=AUDIO_CODES, d_model=192, encoder_heads=4, encoder_ffn=576, encoder_layers=3, channels=128,
    blocks_per_stage=1, num_mid_stages=4, estimator_heads=4, estimator_head_dim=32,
)  # fmt: skip
MEL_MEAN, MEL_SCALE = -5.0, 2.5  # log-mels of the small model are (log_mel - mean) / scale, everywhere
CROP_TOKENS = 32
SAMPLES_PER_TOKEN = {22_050: 1764, 16_000: 1280}


def speaking_mel(samples: Tensor) -> Tensor:
    """Normalised log-mels (B, 80, frames) of 22.05 kHz samples (B, T)."""
    return (log_mel(samples) - MEL_MEAN) / MEL_SCALE


class Codec(nn.Module):
    """The trained pair, with the quantiser's running statistics as buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = SpeechTokenizer(TOKENIZER)
        self.flow = SpeechFlow(FLOW)
        width = TOKENIZER.d_model
        self.into_flow = nn.Linear(width, FLOW.d_model, bias=False)
        self.codebook: Tensor
        self.count: Tensor
        self.total: Tensor
        self.register_buffer("codebook", torch.zeros(AUDIO_CODES, width))
        self.register_buffer("count", torch.ones(AUDIO_CODES))
        self.register_buffer("total", torch.zeros(AUDIO_CODES, width))

    def vectors(self, samples16: Tensor) -> Tensor:
        """Encoder output before quantisation, (B, tokens, width)."""
        mel, _ = self.tokenizer.features(samples16)
        return self.tokenizer.encode_pooled(mel).float()


@dataclass
class Quantiser:
    """Vector quantisation by exponential moving averages (arXiv 1711.00937, appendix A)."""

    codec: Codec
    warm_steps: int = 150
    decay: float = 0.98

    def __call__(self, step: int, z: Tensor, reservoir: list[Tensor]) -> tuple[Tensor, Tensor, float]:
        """(quantised with straight-through gradient, commitment loss, share of codes alive)."""
        flat = z.reshape(-1, z.shape[-1])
        if step < self.warm_steps:
            reservoir.append(flat.detach())
            del reservoir[:-20]
            if step < self.warm_steps - 1:
                return z, z.new_zeros(()), 0.0
            self._kmeans(torch.cat(reservoir))
        ids = torch.cdist(flat.detach(), self.codec.codebook).argmin(-1)
        quantised = self.codec.codebook[ids].view_as(z)
        self._update(flat.detach(), ids)
        commitment = F.mse_loss(z, quantised)
        alive = float((self.codec.count > 0.03).float().mean())
        return z + (quantised - z).detach(), commitment, alive

    @torch.no_grad()
    def _kmeans(self, points: Tensor) -> None:
        centres = points[torch.randperm(len(points))[:AUDIO_CODES].to(points.device)].clone()
        for _ in range(8):
            ids = torch.cdist(points, centres).argmin(-1)
            count = torch.bincount(ids, minlength=AUDIO_CODES).float()
            sums = torch.zeros_like(centres).index_add_(0, ids, points)
            centres = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], centres)
        self.codec.codebook.copy_(centres)
        self.codec.total.copy_(centres)
        self.codec.count.fill_(1)

    @torch.no_grad()
    def _update(self, points: Tensor, ids: Tensor) -> None:
        codec = self.codec
        count = torch.bincount(ids, minlength=AUDIO_CODES).float()
        sums = torch.zeros_like(codec.total).index_add_(0, ids, points)
        codec.count.lerp_(count, 1 - self.decay)
        codec.total.lerp_(sums, 1 - self.decay)
        dead = codec.count < 0.03
        if dead.any():
            fresh = points[torch.randint(len(points), (int(dead.sum()),)).to(points.device)]
            codec.total[dead], codec.count[dead] = fresh * 0.3, 0.3
        codec.codebook.copy_(codec.total / codec.count[:, None])


def flow_loss(flow: SpeechFlow, mu: Tensor, mel: Tensor, sigma_min: float = 1e-6) -> Tensor:
    """Conditional flow matching: predict x1 - (1 - sigma) z at x_t = (1 - (1 - sigma) t) z + t x1."""
    z = torch.randn_like(mel)
    t = 1 - torch.cos(torch.rand(len(mel), device=mel.device) * torch.pi / 2)
    tt = t[:, None, None]
    x = (1 - (1 - sigma_min) * tt) * z + tt * mel
    keep = (torch.rand(len(mel), 1, 1, device=mel.device) > 0.2).to(mel.dtype)
    spk = flow.speaker() * keep[:, 0]
    with mixed(mel.device):
        v = flow.estimate(x, mu * keep, t, spk, torch.zeros_like(mel))
    return F.mse_loss(v.float(), mel - (1 - sigma_min) * z)


def crops(corpus: Corpus, wide: Corpus, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Aligned crops at 22.05 and 16 kHz; short recordings start at a random offset into silence."""
    found = []
    for _ in range(batch):
        i = int(torch.randint(len(corpus), (1,), generator=generator))
        pair = []
        where = float(torch.rand(1, generator=generator))
        for c in (corpus, wide):
            want = CROP_TOKENS * SAMPLES_PER_TOKEN[c.sample_rate]
            samples = c.recording(i)
            room = len(samples) - want
            start = round(abs(room) * where)
            cut = samples[start : start + want] if room >= 0 else np.pad(samples, (start, -room - start))
            pair.append(torch.from_numpy(cut))
        found.append(pair)
    return torch.stack([p[0] for p in found]), torch.stack([p[1] for p in found])


def codec_loss(
    model: Codec, quantise: Quantiser, step: int, speech: Tensor, narrow: Tensor, reservoir: list[Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """Of aligned samples at 22.05 and 16 kHz (B, T), both on the model's device: the loss, and numbers to log."""
    mel = speaking_mel(speech)
    with mixed(mel.device):
        z = model.vectors(narrow)
    code, commitment, alive = quantise(step, z, reservoir)
    with mixed(mel.device):
        mu = model.flow.mu_from_embeddings(model.into_flow(code), mel.shape[-1])
    mu = mu.float()
    error = mu - mel
    regression = error.abs().mean() + 0.5 * error.square().mean() + 0.5 * error.diff(dim=-1).abs().mean()
    matching = flow_loss(model.flow, mu, mel)
    loss = regression + matching + 0.25 * commitment
    return loss, {"mu_l1": float(error.detach().abs().mean()), "flow": float(matching.detach()), "alive": alive}


def train(
    out: Path, minutes: float, corpus: Corpus, wide: Corpus, seed: int = 0, batch: int = 14,
    device: torch.device = CPU,
) -> Codec:  # fmt: skip
    """`corpus` holds the voice at 22.05 kHz and `wide` the same recordings at 16 kHz. Resumes from `out`."""
    torch.manual_seed(seed)
    model = Codec().to(device)
    training = Training(model, Schedule(minutes, 1e-3, warmup_steps=150, betas=(0.9, 0.98)), out)
    generator = torch.Generator().manual_seed(training.fresh_seed(seed))
    quantise = Quantiser(model)
    reservoir: list[Tensor] = []

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        speech, narrow = crops(corpus, wide, batch, generator)
        return codec_loss(model, quantise, step, speech.to(device), narrow.to(device), reservoir)

    training.run(loss_of)
    return finish(model).eval()


@torch.no_grad()
def finish(model: Codec) -> Codec:
    """Give both halves their final tables: the codebook, and the same codebook as the decoder's embedding."""
    model.tokenizer.codebook.weight.copy_(model.codebook)
    model.flow.input_embedding.weight.copy_(model.into_flow(model.codebook))
    return model
