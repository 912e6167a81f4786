"""The speech encoder: SenseVoiceSmall's SAN-M stack with four query rows in front. Features in, one row per 60 ms out.

Source: reference/model.md "Audio input path". Each block adds to self-attention an FSMN memory: a depthwise convolution
over the values. The first block changes 560 dimensions to 512 and so has no residual around its attention.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask_engine.models.dense_attention import attend_densely, learnt_densely

# Rows of the query table put before the frames: language auto, event, emotion, no inverse text normalisation.
QUERY_ROWS = (0, 1, 2, 15)
NUM_QUERY_ROWS = len(QUERY_ROWS)


@dataclass(frozen=True)
class SpeechEncoderConfig:
    input_size: int = 560
    size: int = 512
    num_heads: int = 4
    ffn_size: int = 2048
    num_layers: int = 50
    num_tp_layers: int = 20
    kernel_size: int = 11
    ctc_vocab: int = 25055
    num_queries: int = 16

    def __post_init__(self) -> None:
        if self.input_size % 2:
            raise ValueError(f"input_size {self.input_size} must be even: half sines, half cosines")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} must be odd to keep the number of rows")
        if self.num_queries <= max(QUERY_ROWS):
            raise ValueError(f"num_queries {self.num_queries} must exceed {max(QUERY_ROWS)}")


def sinusoidal_positions(num_rows: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(num_rows, size): the sines, then the cosines, of positions counted from 1, computed wholly in `dtype`.

    In bfloat16 this is far from the float32 table (error 1.4 at 260 rows), and the published bfloat16 model was trained
    with it, so the low precision of each step is part of the model (golden `audio/posenc_bf16`).
    """
    half = size // 2
    increment = torch.log(torch.tensor([10000.0], dtype=dtype, device=device)) / (half - 1)
    inverse = torch.exp(torch.arange(half, device=device).to(dtype) * -increment)  # (size/2,)
    angles = torch.arange(1, num_rows + 1, device=device).to(dtype)[:, None] * inverse  # (num_rows, size/2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).to(dtype)


class SanmAttention(nn.Module):
    """Self-attention plus FSMN memory. `valid` is (B, L) bool, False on padded rows; None means that none is padded."""

    def __init__(self, input_size: int, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.linear_q_k_v = nn.Linear(input_size, 3 * config.size)
        self.linear_out = nn.Linear(config.size, config.size)
        size, kernel = config.size, config.kernel_size
        self.fsmn_block = nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=size, bias=False)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        q, k, v = self.linear_q_k_v(x).chunk(3, dim=-1)  # (B, L, size) each
        memory = self._memory(v, valid)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, heads, L, D)
        mask = None if valid is None else valid[:, None, None]
        if learnt_densely(q, k):
            attended = attend_densely(q, k, v, mask)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.linear_out(attended.transpose(1, 2).flatten(-2)) + memory
        return out

    def _memory(self, v: Tensor, valid: Tensor | None) -> Tensor:
        if valid is not None:
            v = v * valid[..., None]
        memory: Tensor = self.fsmn_block(v.transpose(1, 2)).transpose(1, 2) + v
        return memory if valid is None else memory * valid[..., None]


class FeedForward(nn.Module):
    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.w_1 = nn.Linear(config.size, config.ffn_size)
        self.w_2 = nn.Linear(config.ffn_size, config.size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_2(F.relu(self.w_1(x)))
        return out


class SanmLayer(nn.Module):
    def __init__(self, input_size: int, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.residual = input_size == config.size
        self.self_attn = SanmAttention(input_size, config)
        self.feed_forward = FeedForward(config)
        self.norm1 = nn.LayerNorm(input_size)
        self.norm2 = nn.LayerNorm(config.size)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        attended = self.self_attn(self.norm1(x), valid)
        x = x + attended if self.residual else attended
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class SanmEncoder(nn.Module):
    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(config.size)
        self.encoders0 = nn.ModuleList([SanmLayer(config.input_size, config)])
        self.encoders = nn.ModuleList(SanmLayer(config.size, config) for _ in range(config.num_layers - 1))
        self.tp_encoders = nn.ModuleList(SanmLayer(config.size, config) for _ in range(config.num_tp_layers))
        self.after_norm = nn.LayerNorm(config.size)
        self.tp_norm = nn.LayerNorm(config.size)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        x = x * self.scale
        x = x + sinusoidal_positions(x.shape[1], x.shape[2], x.dtype, x.device)
        for layer in (*self.encoders0, *self.encoders):
            x = layer(x, valid)
        x = self.after_norm(x)
        for layer in self.tp_encoders:
            x = layer(x, valid)
        out: Tensor = self.tp_norm(x)
        return out


class CtcHead(nn.Module):
    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(config.size, config.ctc_vocab)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ctc_lo(x)
        return out


class SpeechEncoder(nn.Module):
    """Query rows + SAN-M encoder. The CTC head serves to train the encoder; answering never calls it."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SanmEncoder(config)
        self.ctc = CtcHead(config)
        self.embed = nn.Embedding(config.num_queries, config.input_size)

    def forward(self, feats: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, input_size) features -> (B, T + 4, size); the first four rows are the queries'.

        `lengths` (B,) counts the true frames of each item, queries not included. Rows past `lengths + 4` come out as
        finite noise: they influence no other row, and the caller drops them.
        """
        queries = self.embed.weight[list(QUERY_ROWS)].expand(feats.shape[0], -1, -1)  # (B, 4, input_size)
        x = torch.cat((queries, feats.to(queries.dtype)), dim=1)  # (B, T + 4, input_size)
        valid = None
        if lengths is not None:
            rows = torch.arange(x.shape[1], device=x.device)
            valid = rows < (lengths.to(x.device)[:, None] + NUM_QUERY_ROWS)  # (B, T + 4)
        out: Tensor = self.encoder(x, valid)
        return out

    def ctc_logits(self, out: Tensor) -> Tensor:
        """(B, L, size) encoder output -> (B, L, ctc_vocab)."""
        logits: Tensor = self.ctc(out)
        return logits
