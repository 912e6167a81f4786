"""The first half of the speech decoder: speech tokens -> mel spectrogram, by conditional flow matching.

Parameter names are those of GLM-4-Voice's `flow.pt` (speech-decoder.md sections 1.1 to 1.5).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_engine.codecs.flow_encoder import LengthRegulator, TokenEncoder
from unmask_engine.codecs.flow_estimator import Estimator


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of the flow; the defaults are the published ones."""

    vocab_size: int = 16384
    num_mels: int = 80
    d_model: int = 512
    encoder_heads: int = 8
    encoder_ffn: int = 2048
    encoder_layers: int = 6
    encoder_block: int = 10  # tokens that see one another
    speaker_dim: int = 192
    channels: int = 256
    blocks_per_stage: int = 4
    num_mid_stages: int = 12
    estimator_heads: int = 8
    estimator_head_dim: int = 64
    token_rate: float = 12.5
    sample_rate: int = 22050
    hop_length: int = 256
    num_steps: int = 10  # Euler steps; 0 has no estimator and takes mu itself for the mel
    temperature: float = 1.0  # standard deviation of the starting noise


class SpeechFlow(nn.Module):
    """Tokens -> mel. Batches hold utterances of equal length only (see `flow_estimator`)."""

    def __init__(self, config: FlowConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FlowConfig()
        self.input_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.num_mels)
        self.encoder = TokenEncoder(
            config.d_model, config.encoder_heads, config.encoder_ffn, config.encoder_layers, config.encoder_block
        )
        self.encoder_proj = nn.Linear(config.d_model, config.num_mels)
        self.length_regulator = LengthRegulator(config.num_mels)
        if config.num_steps:
            self.decoder = _Decoder(config)

    def num_frames(self, num_tokens: int) -> int:
        """Mel frames of so many tokens; truncated float32 arithmetic like upstream's, not n * 441 // 64."""
        seconds = np.float32(num_tokens) / np.float32(self.config.token_rate)
        return int(seconds * np.float32(self.config.sample_rate) / np.float32(self.config.hop_length))

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Token ids (L,) or (B, L) -> mu (B, num_mels, frames). Negative ids count as 0."""
        ids = ids[None] if ids.ndim == 1 else ids
        return self.mu_from_embeddings(self.input_embedding(ids.clamp(min=0)), self.num_frames(ids.shape[1]))

    def mu_from_embeddings(self, embeddings: Tensor, num_frames: int) -> Tensor:
        """What `input_embedding` gives, (B, L, d_model) -> mu (B, num_mels, num_frames). Differentiable."""
        return self.length_regulator(self.project(embeddings).transpose(1, 2), num_frames)  # type: ignore[no-any-return]

    def project(self, embeddings: Tensor) -> Tensor:
        """Encoded tokens before stretching: (B, L, d_model) -> (B, L, num_mels)."""
        out: Tensor = self.encoder_proj(self.encoder(embeddings))
        return out

    def speaker(self, vector: Tensor | None = None) -> Tensor:
        """A speaker vector (B, speaker_dim) -> (B, num_mels). None is the model's own voice, the zero vector."""
        if vector is None:
            vector = self.spk_embed_affine_layer.weight.new_zeros(1, self.config.speaker_dim)
        out: Tensor = self.spk_embed_affine_layer(F.normalize(vector, dim=-1))
        return out

    def estimate(self, x: Tensor, mu: Tensor, t: Tensor, spk: Tensor, cond: Tensor) -> Tensor:
        """The velocity at x: x, mu, cond (B, M, T), t (B,) in [0, 1], spk (B, M) -> (B, M, T). Differentiable."""
        return self.decoder.estimator(x, mu, t, spk, cond)  # type: ignore[no-any-return]

    @torch.no_grad()
    def generate_mel(
        self,
        ids: Tensor,
        generator: torch.Generator | None = None,
        num_steps: int | None = None,
        guidance: float = 0.7,
        noise: Tensor | None = None,
        prompt_ids: Tensor | None = None,
        prompt_mel: Tensor | None = None,
    ) -> Tensor:
        """Token ids (L,) or (B, L) -> log-mel (B, num_mels, frames).

        The starting point is `noise` (B, num_mels, frames of prompt and ids), or drawn from `generator` on its own
        device. `prompt_ids` (P,) or (B, P) and `prompt_mel` (B, num_mels, any number of frames) come before the
        utterance and set its voice; their frames are cut off. `num_steps` is the config's by default. `guidance` 0.7 is
        upstream's; 0 halves the work.
        """
        ids = ids[None] if ids.ndim == 1 else ids
        if prompt_ids is not None:
            prompt_ids = prompt_ids[None] if prompt_ids.ndim == 1 else prompt_ids
            ids = torch.cat([prompt_ids.expand(ids.shape[0], -1), ids], dim=1)
        mu = self.encode_tokens(ids)
        cond = torch.zeros_like(mu)
        num_prompt = 0 if prompt_mel is None else prompt_mel.shape[-1]
        num_steps = self.config.num_steps if num_steps is None else num_steps
        if num_steps == 0:
            return mu[..., num_prompt:]
        if not self.config.num_steps:
            raise ValueError("this flow was built without an estimator: it takes no steps")
        if prompt_mel is not None:
            cond[..., :num_prompt] = prompt_mel
        if noise is None:
            if generator is None:
                raise ValueError("generate_mel needs a generator or the noise itself")
            noise = self.config.temperature * torch.randn(mu.shape, generator=generator, device=generator.device)
        mel = self._integrate(noise.to(mu), mu, cond, num_steps, guidance)
        return mel[..., num_prompt:]

    def _integrate(self, x: Tensor, mu: Tensor, cond: Tensor, num_steps: int, guidance: float) -> Tensor:
        """Euler steps from noise to mel, denser near t = 0; both guidance branches in one call."""
        spk = self.speaker().expand(x.shape[0], -1)
        if guidance:
            mu, cond, spk = (torch.cat([y, torch.zeros_like(y)]) for y in (mu, cond, spk))
        times = 1 - torch.cos(torch.linspace(0, 1, num_steps + 1) * (0.5 * math.pi))
        t = times[0]
        for step in range(num_steps):
            dt = times[step + 1] - t  # t accumulates in float32, as upstream's does
            batch = torch.cat([x, x]) if guidance else x
            now = torch.full((batch.shape[0],), t.item(), dtype=torch.float32, device=x.device)
            velocity = self.estimate(batch, mu, now, spk, cond)
            if guidance:
                with_tokens, without = velocity.chunk(2)
                velocity = (1 + guidance) * with_tokens - guidance * without
            x = x + dt.item() * velocity
            t = t + dt
        return x


class _Decoder(nn.Module):
    """Holds the estimator under its published name, `decoder.estimator`."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.estimator = Estimator(
            config.num_mels,
            config.channels,
            config.blocks_per_stage,
            config.num_mid_stages,
            config.estimator_heads,
            config.estimator_head_dim,
        )
