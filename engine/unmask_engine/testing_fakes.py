"""Small fakes for tests: models with known logits, a byte tokenizer, codecs that can be checked by eye."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask_engine.loaded import LoadedBundle, Model
from unmask_engine.models.backbone import Wanted
from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.preset import Preset
from unmask_engine.vocabulary import Vocabulary

NUM_AUDIO_CODES: Final = 32
NUM_IMAGE_CODES: Final = 64
_ROLES: Final = (
    "pad",
    "im_start",
    "im_end",
    "mask",
    "begin_of_image",
    "end_of_image",
    "context_of_image",
    "begin_of_audio",
    "end_of_audio",
    "context_of_audio",
)
_NAMES: Final = {"pad": "<|endoftext|>"} | {role: f"<|{role}|>" for role in _ROLES if role != "pad"}
_SLOTS: Final = ("<|audio|>", "<|image|>")


class ByteTokenizer:
    """Ids 0 to 255 are bytes; special tokens, slots, speech codes and image codes follow."""

    def __init__(self) -> None:
        self._names = [
            *_NAMES.values(),
            *_SLOTS,
            *(f"<|audio_{i}|>" for i in range(NUM_AUDIO_CODES)),
            *(f"<|image_{i}|>" for i in range(NUM_IMAGE_CODES)),
        ]
        self._ids = {name: 256 + i for i, name in enumerate(self._names)}

    @property
    def size(self) -> int:
        return 256 + len(self._names)

    def encode_plain(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_template(self, template: str, slots: Mapping[str, str]) -> list[int]:
        ids: list[int] = []
        while template:
            name = next((name for name in (*self._ids, *slots) if template.startswith(name)), None)
            if name is None:
                name = template[0]
                ids += self.encode_plain(name)
            else:
                ids += self.encode_plain(slots[name]) if name in slots else [self._ids[name]]
            template = template[len(name) :]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def id_of(self, token: str) -> int:
        if token not in self._ids:
            raise ValueError(f"the vocabulary has no token {token!r}")
        return self._ids[token]

    @property
    def vocabulary(self) -> Vocabulary:
        audio, image = self._ids["<|audio_0|>"], self._ids["<|image_0|>"]
        return Vocabulary(
            size=self.size,
            special={role: self._ids[name] for role, name in _NAMES.items()} | {"newline": ord("\n")},
            audio=range(audio, audio + NUM_AUDIO_CODES),
            image=range(image, image + NUM_IMAGE_CODES),
        )


class KnownLogits:
    """Predicts by place alone: the d-th position from the end of any sequence by the d-th row from the table's end."""

    def __init__(self, table: Tensor) -> None:
        self._table = table  # (N, V)
        self.num_forwards = 0

    def embed(self, ids: Tensor) -> Tensor:
        return torch.zeros(len(ids), 1)

    def forward_packed(self, embeds: Tensor, lengths: Sequence[int], wanted: Wanted) -> Tensor:
        """The hidden state at t is the distance of t + 1, which it predicts, from the sequence's end."""
        self.num_forwards += sum(count > 0 for count in wanted.counts)
        return torch.cat([torch.arange(length - 2, -2, -1) for length in lengths]).unsqueeze(1)[wanted.rows]

    def logits(self, hidden: Tensor) -> Tensor:
        return self._table[len(self._table) - 1 - hidden[:, 0]]

    def encode_speech(self, feats: Tensor) -> Tensor:
        return torch.zeros(1, feats.shape[1] + 4, 1)


def script(answer: Sequence[int], vocabulary: int, gain: float = 10.0) -> KnownLogits:
    """A model that answers with exactly these ids, the canvas's last len(answer) positions, left ones more surely."""
    table = torch.zeros(len(answer), vocabulary)
    table[torch.arange(len(answer)), torch.tensor(answer)] = gain + torch.linspace(1, 0, len(answer))
    return KnownLogits(table)


class MixingModel:
    """Random weights, one mean over the sequence as its only mixing: logits depend on everything in the sequence."""

    def __init__(self, vocabulary: int, hidden: int = 16, seed: int = 0, gain: float = 3.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._embedding = torch.randn(vocabulary, hidden, generator=generator)
        self._head = gain * torch.randn(hidden, vocabulary, generator=generator) / hidden**0.5
        self._places = torch.randn(4096, hidden, generator=generator)

    def embed(self, ids: Tensor) -> Tensor:
        return self._embedding[ids]

    def forward_packed(self, embeds: Tensor, lengths: Sequence[int], wanted: Wanted) -> Tensor:
        parts = [
            torch.tanh(part + self._places[: len(part)] + 4 * part.mean(dim=0))
            for part in torch.split(embeds, list(lengths))
        ]
        return torch.cat(parts)[wanted.rows]

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = hidden @ self._head
        return logits

    def encode_speech(self, feats: Tensor) -> Tensor:
        hidden = self._embedding.shape[1]
        rows = torch.cat([feats.new_zeros(1, 4, feats.shape[2]), feats], dim=1)
        return rows[..., :1].expand(-1, -1, hidden).clone()


class FakeImageCodec:
    """A code is the mean brightness of a 16 x 16 patch; a decoded patch is flat."""

    def encode(self, images: Tensor) -> Tensor:
        patches = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 16)[:, 0]
        return ((patches + 1) / 2 * (NUM_IMAGE_CODES - 1)).round().long()

    def decode(self, ids: Tensor) -> Tensor:
        levels = ids.float() / (NUM_IMAGE_CODES - 1) * 2 - 1
        return levels.repeat_interleave(16, 1).repeat_interleave(16, 2).unsqueeze(1).expand(-1, 3, -1, -1)


class FakeSpeechCodec:
    """Ten samples a code, their level the code's."""

    sample_rate = 125

    def decode(self, ids: Tensor, seed: int) -> Tensor:
        return (ids.float() / NUM_AUDIO_CODES).repeat_interleave(10)


class FakeSpeechTokenizer:
    """A code of 80 ms at 16 kHz is the level of its samples: the inverse of FakeSpeechCodec."""

    def encode(self, samples: Tensor) -> Tensor:
        levels = torch.stack([part.mean() for part in torch.split(samples, 1280)])
        return (levels * NUM_AUDIO_CODES).round().long().clamp(0, NUM_AUDIO_CODES - 1)


def fake_frontend(samples: NDArray[np.float32]) -> Tensor:
    """One row of two features for 1000 samples."""
    num_rows = len(samples) // 1000
    return torch.from_numpy(samples[: num_rows * 1000].reshape(num_rows, 2, 500).mean(axis=2))


def fake_bundle(model: Model | None = None, presets: tuple[Preset, ...] = OMNI_PRESETS) -> LoadedBundle:
    """Omni-Diffusion's presets over the byte vocabulary, with a model of random weights unless one is given."""
    tokenizer = ByteTokenizer()
    return LoadedBundle(
        name="fake",
        model=model if model is not None else MixingModel(tokenizer.size),
        tokenizer=tokenizer,
        vocabulary=tokenizer.vocabulary,
        presets=presets,
        device=torch.device("cpu"),
        image_codec=FakeImageCodec(),
        speech_frontend=fake_frontend,
        speech_codec=FakeSpeechCodec(),
        speech_tokenizer=FakeSpeechTokenizer(),
        image_input_size=64,
        image_grid=16,
    )
