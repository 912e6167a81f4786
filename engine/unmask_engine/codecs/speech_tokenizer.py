"""WhisperVQ, the speech tokenizer: 16 kHz samples -> 12.5 discrete tokens a second.

The first half of a Whisper encoder with causal convolutions and block-causal attention, pooled and quantised
(speech-decoder.md section 1.9). Parameter names are those of the published checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_engine.codecs.mel import slaney_filters

# State of the codebook's moving averages: in the published file, of no use at inference.
_TRAINING_STATE = ("ema_count", "ema_weight")


@dataclass(frozen=True)
class SpeechTokenizerConfig:
    """Sizes of the tokenizer; the defaults are GLM-4-Voice's. A frame is one of the stride-2 convolution (50 Hz)."""

    num_mels: int = 128
    d_model: int = 1280
    num_heads: int = 20
    ffn_size: int = 5120
    num_layers: int = 16
    codebook_size: int = 16384
    max_frames: int = 1500  # 30 s: longer audio is cut into segments
    block_frames: int = 200  # 4 s: a token is final when its block is complete
    pool: int = 4
    sample_rate: int = 16000
    n_fft: int = 400
    hop_length: int = 160
    f_max: float = 8000.0

    @property
    def samples_per_token(self) -> int:
        return self.hop_length * 2 * self.pool

    @property
    def samples_per_segment(self) -> int:
        return self.hop_length * 2 * self.max_frames


class SpeechTokenizer(nn.Module):
    """Samples -> token ids; every stage is public, since training the codec needs the vectors before quantisation."""

    def __init__(self, config: SpeechTokenizerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SpeechTokenizerConfig()
        self.conv1 = nn.Conv1d(config.num_mels, config.d_model, 3)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2)
        self.embed_positions = nn.Embedding(config.max_frames, config.d_model)
        self.layers = nn.ModuleList(_EncoderLayer(config) for _ in range(config.num_layers))
        self.codebook = nn.Embedding(config.codebook_size, config.d_model)
        # Added upstream after quantisation, so without effect on the ids; kept for the checkpoint's names.
        self.embed_positions2 = nn.Embedding(config.max_frames // config.pool, config.d_model)
        nn.init.normal_(self.embed_positions.weight, std=0.02)

    def features(self, samples: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Whisper's log-mel of samples in [-1, 1]: (T,) or (B, T) -> mel (B, num_mels, F), mask (B, F) bool.

        Zero-padded to whole tokens; `lengths` (B,) are the valid samples of each row, all of them by default.
        The floor of 8 below the maximum (log10) is taken per row.
        """
        config = self.config
        samples = samples[None] if samples.ndim == 1 else samples
        if lengths is None:
            lengths = torch.full((samples.shape[0],), samples.shape[1], device=samples.device)
        padded = F.pad(samples, (0, -samples.shape[1] % config.samples_per_token))
        window = torch.hann_window(config.n_fft, device=samples.device, dtype=samples.dtype)
        spectrum = torch.stft(padded, config.n_fft, config.hop_length, window=window, return_complex=True)[..., :-1]
        power = spectrum.real.square() + spectrum.imag.square()  # B, n_fft / 2 + 1, F
        filters = slaney_filters(config.sample_rate, config.n_fft, config.num_mels, 0.0, config.f_max)
        mel = torch.log10((filters.to(power) @ power).clamp(min=1e-10))
        mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        starts = torch.arange(mel.shape[-1], device=samples.device) * config.hop_length
        return (mel + 4.0) / 4.0, starts < lengths[:, None]

    def encode_pooled(self, mel: Tensor, mask: Tensor | None = None) -> Tensor:
        """The vectors before quantisation: mel (B, num_mels, F), mask (B, F) -> (B, ceil(F / 2 / pool), d_model).

        Differentiable. F must not exceed 2 max_frames; rows past their mask come out, and mean nothing.
        """
        config = self.config
        x = F.gelu(self.conv1(F.pad(mel, (2, 0))))  # causal: all padding on the left
        x = F.gelu(self.conv2(F.pad(x, (2, 0)))).transpose(1, 2)  # B, frames, d
        num_frames = x.shape[1]
        if num_frames > config.max_frames:
            raise ValueError(f"{num_frames} frames exceed max_frames={config.max_frames}: split the audio")
        x = x + self.embed_positions.weight[:num_frames]
        visible = _block_causal(num_frames, config.block_frames, mel.device)
        if mask is not None:
            visible = visible & mask[:, None, None, ::2]
        for layer in self.layers:
            x = layer(x, visible)
        x = F.pad(x, (0, 0, 0, -num_frames % config.pool))
        return F.avg_pool1d(x.transpose(1, 2), config.pool).transpose(1, 2)

    def quantise(self, pooled: Tensor) -> Tensor:
        """Ids of the nearest codes, the lowest of equals: (..., d_model) -> (...) int64."""
        codes = self.codebook.weight
        # ||x||^2 is left out: the same for all codes, and leaving it out costs less rounding.
        return (codes.square().sum(dim=1) - 2.0 * (pooled @ codes.T)).argmin(dim=-1)

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor:
        """Token ids of 16 kHz mono samples: (T,) -> (ids,) int64, ceil(T / samples_per_token) of them.

        Segments of 30 s are tokenised independently and joined, as upstream does.
        """
        segments = [segment for segment in torch.split(samples, self.config.samples_per_segment) if len(segment)]
        ids = [self._encode_segment(segment) for segment in segments]
        return torch.cat(ids) if ids else torch.zeros(0, dtype=torch.long, device=samples.device)

    def _encode_segment(self, samples: Tensor) -> Tensor:
        mel, mask = self.features(samples)
        valid = mask[0, :: 2 * self.config.pool]
        return self.quantise(self.encode_pooled(mel, mask)[0])[valid]


class _EncoderLayer(nn.Module):
    """Whisper's pre-norm transformer layer; exact GELU; no bias in the key projection."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config.d_model, config.num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.ffn_size)
        self.fc2 = nn.Linear(config.ffn_size, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), visible)
        hidden: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return x + hidden


class _Attention(nn.Module):
    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # B, H, L, D
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


def drop_training_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict without the codebook's training averages, ready for `load_state_dict(strict=True)`."""
    return {name: tensor for name, tensor in state.items() if name not in _TRAINING_STATE}


def _block_causal(length: int, block: int, device: torch.device) -> Tensor:
    """(L, L) bool: query i sees key j if j <= i or both lie in one block."""
    index = torch.arange(length, device=device)
    return (index <= index[:, None]) | (index // block == index[:, None] // block)
