"""OmniModel: backbone, speech encoder and head under the names of the published state dict, for training and serving.

**The shift.** The hidden state at position i predicts position i + 1; position 0 is predicted by its own.
`forward_packed` does not shift: take rows with `predicting_row` and give them to `logits`, so that the head runs for
masked positions only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unmask_engine.models.backbone import Backbone, BackboneConfig, Wanted
from unmask_engine.models.speech_encoder import SpeechEncoder, SpeechEncoderConfig


def predicting_row(position: int) -> int:
    """The position, within its sequence, of the hidden state that predicts `position`."""
    return max(position - 1, 0)


class AudioProjection(nn.Module):
    """Encoder rows to backbone embeddings: LayerNorm, Linear, exact GELU, Linear (no biases)."""

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.pre_proj_layernorm = nn.LayerNorm(size)
        self.mlp = nn.Sequential(
            nn.Linear(size, hidden_size, bias=False), nn.GELU(), nn.Linear(hidden_size, hidden_size, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.pre_proj_layernorm(x))
        return out


class AudioModel(nn.Module):
    """Only a level of the state-dict names: `model.audio_model.model.*`."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.model = SpeechEncoder(config)


class OmniBody(Backbone):
    """The backbone with the speech encoder and projector that the state dict keeps beside its layers."""

    def __init__(self, backbone: BackboneConfig, speech: SpeechEncoderConfig) -> None:
        super().__init__(backbone)
        self.audio_model = AudioModel(speech)
        self.audio_projection = AudioProjection(speech.size, backbone.hidden_size)


class OmniModel(nn.Module):
    def __init__(self, backbone: BackboneConfig, speech: SpeechEncoderConfig) -> None:
        super().__init__()
        self.model = OmniBody(backbone, speech)
        self.lm_head = nn.Linear(backbone.hidden_size, backbone.vocab_size, bias=False)

    @property
    def speech_encoder(self) -> SpeechEncoder:
        return self.model.audio_model.model

    def embed(self, ids: Tensor) -> Tensor:
        """(T,) token ids -> (T, hidden)."""
        out: Tensor = self.model.embed_tokens(ids)
        return out

    def encode_speech(self, feats: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, 560) front-end features -> (B, T + 4, hidden) embeddings, four query rows first.

        Features are rounded to bfloat16 whatever the model's dtype, as the reference does. `lengths` (B,) counts true
        frames; rows past `lengths + 4` of an item are meaningless.
        """
        encoded = self.speech_encoder(feats.to(torch.bfloat16), lengths)
        out: Tensor = self.model.audio_projection(encoded)
        return out

    def forward_packed(self, embeds: Tensor, lengths: Sequence[int], wanted: Wanted | None = None) -> Tensor:
        """(T, hidden) embeddings of sequences packed end to end -> (T, hidden) after the final norm, not shifted.

        With `wanted` only those rows are computed to the end: (R, hidden).
        """
        out: Tensor = self.model(embeds, lengths, wanted)
        return out

    def logits(self, hidden_rows: Tensor) -> Tensor:
        """(R, hidden) chosen rows of `forward_packed` -> (R, vocab)."""
        out: Tensor = self.lm_head(hidden_rows)
        return out
