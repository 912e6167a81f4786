"""What the ears hear, row by row, how they count it, and how their rows begin as numbered text."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import NUM_QUERY_ROWS, SpeechEncoderConfig
from unmask_training import align_speech
from unmask_training.naming import IGNORED
from unmask_training.train_ears import (
    BLANK,
    MAX_WORDS,
    Listener,
    best_path,
    ears_loss,
    emitted,
    first_rows,
    heard_so_far,
)

CLASSES = 9


class Told(nn.Module):
    """An encoder that hears what its features say: the first columns are the logits of the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(30.0))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return torch.cat([torch.zeros(len(x), NUM_QUERY_ROWS, x.shape[2]), x], 1) * self.scale

    def ctc_logits(self, encoded: Tensor) -> Tensor:
        return encoded[..., :CLASSES]


def hot(path: list[int], size: int = 560) -> Tensor:
    return torch.eye(size)[torch.tensor(path)]


def test_a_word_is_told_where_it_begins() -> None:
    path = torch.tensor([[0, 3, 3, 0, 3, 5], [2, 2, 2, 0, 0, 0]])
    assert first_rows(path).tolist() == [
        [False, True, False, False, True, True],
        [True, False, False, False, False, False],
    ]
    assert torch.equal(first_rows(path[0]), first_rows(path)[0])


def test_rows_are_numbered_where_the_path_says_the_text() -> None:
    best = torch.tensor([[0, 3, 3, 0, 5, 0], [2, 2, 0, 2, 7, 7], [1, 0, 0, 0, 0, 0]])
    wanted = [torch.tensor([3, 5]), torch.tensor([2, 2]), torch.tensor([4])]
    labels = heard_so_far(best, torch.tensor([6, 4, 3]), wanted)
    assert labels.tolist() == [[0, 1, 1, 1, 2, 2], [1, 1, 1, 2, IGNORED, IGNORED], [IGNORED] * 6]
    many = torch.tensor([[1, 2] * MAX_WORDS])
    (numbers,) = heard_so_far(many, torch.tensor([2 * MAX_WORDS]), [many[0]])
    assert numbers.max() == MAX_WORDS - 1
    assert numbers.tolist() == [min(i, MAX_WORDS - 1) for i in range(1, 2 * MAX_WORDS + 1)]


def test_query_rows_tell_no_word() -> None:
    model: Any = SimpleNamespace(ctc_logits=lambda x: x)
    rows = hot([4] * NUM_QUERY_ROWS + [0, 4, 4, 0, 4, 6], CLASSES)
    assert best_path(model, rows).tolist() == [BLANK] * NUM_QUERY_ROWS + [0, 4, 4, 0, 4, 6]
    assert emitted(best_path(model, rows)) == [
        (NUM_QUERY_ROWS + 1, 3),
        (NUM_QUERY_ROWS + 4, 3),
        (NUM_QUERY_ROWS + 5, 5),
    ]  # class i + 1: token i


def test_the_ears_learn_to_count_what_they_hear_rightly() -> None:
    torch.manual_seed(0)
    listener = Listener(Told(), 560)  # type: ignore[arg-type]
    path = [0, 3, 0, 5, 5, 0]
    told = hot(path)
    told[torch.arange(6), 20 + torch.arange(6)] = 0.2  # something to tell the rows apart by
    x, lengths = told[None], torch.tensor([6])
    misheard, numbers = ears_loss(listener, x, lengths, [torch.tensor([3, 4])])
    assert numbers["count"] == 0.0
    misheard.backward()
    assert not listener.counter.weight.grad.any()  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(listener.counter.parameters(), lr=1e-2)
    counts = []
    for _ in range(30):
        loss, numbers = ears_loss(listener, x, lengths, [torch.tensor([3, 5])])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counts.append(numbers["count"])
    assert numbers["words"] < 0.1
    assert counts[-1] < 0.2 * counts[0]


def test_speech_rows_begin_as_numbered_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's target is its token's embedding and its number's vector: the number's part is the same for all tokens."""
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=32, num_heads=2, ffn_size=32, num_layers=2, num_tp_layers=1, ctc_vocab=CLASSES)
    omni = OmniModel(BackboneConfig(40, 32, 64, 2, 2, 1), speech)
    paths = [[0, 3, 3, 0, 5, 0], [5, 0, 0, 3, 0, 0]]  # token 2 comes first or second, and so does token 4

    def row(class_: int, number: int) -> Tensor:
        return torch.eye(32)[class_] + (torch.eye(32)[CLASSES + number] if class_ else 0)

    counts = [[0, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 2]]
    rows = [torch.stack([row(c, n) for c, n in zip(*pair, strict=True)]) for pair in zip(paths, counts, strict=True)]
    by_rows = {tuple(r.flatten().tolist()): torch.tensor(p) for r, p in zip(rows, paths, strict=True)}
    monkeypatch.setattr(align_speech, "best_path", lambda model, x: by_rows[tuple(x.flatten().tolist())])
    error = align_speech.fit(omni, [r.numpy().astype(np.float16) for r in rows], steps=300, batch=4)
    assert error < 0.1
    projector, embeddings = omni.model.audio_projection, omni.model.embed_tokens.weight.detach()
    with torch.no_grad():
        first, second = ({c: projector(row(c, n)) for c in (3, 5)} for n in (1, 2))
        silence = projector(row(0, 0))
    numbers = [{c: found[c] - embeddings[c - 1] for c in (3, 5)} for found in (first, second)]
    scale = float(embeddings.std())
    for number in numbers:
        assert (number[3] - number[5]).norm() < 0.3 * number[3].norm()
        assert float(number[3].std()) == pytest.approx(0.5 * scale, rel=0.5)
    assert (numbers[0][3] - numbers[1][3]).norm() > 0.5 * numbers[0][3].norm()
    assert all((silence - other).norm() > 0.5 * silence.norm() for other in (*first.values(), *second.values()))
