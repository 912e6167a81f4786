"""Trains the speech encoder at small size with CTC on the world's tokens; it is frozen afterwards, as in the paper."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from unmask_engine.models.speech_encoder import NUM_QUERY_ROWS, SpeechEncoder, SpeechEncoderConfig
from unmask_engine.models.speech_frontend import SpeechFrontend
from unmask_training.augment_features import varied
from unmask_training.corpus import Corpus
from unmask_training.devices import CPU, device_of, mixed
from unmask_training.loop import Schedule, Training
from unmask_training.vocabulary import TEXT_TOKENS
from unmask_training.voices import add_room

CONFIG = SpeechEncoderConfig(
    input_size=560, size=192, num_heads=4, ffn_size=768, num_layers=5, num_tp_layers=2, ctc_vocab=TEXT_TOKENS + 1
)
BLANK = 0  # text id i is CTC class i + 1


def features(corpus: Corpus, frontend: SpeechFrontend, seed: int, room: bool = True) -> list[NDArray[np.float16]]:
    """Stacked filterbank features of each recording, (rows, 560), heard in a room of its own."""
    rng = np.random.default_rng(seed)
    return [frontend(add_room(r, rng) if room else r).numpy().astype(np.float16) for r in corpus.recordings()]


def cmvn(feats: list[NDArray[np.float16]]) -> tuple[Tensor, Tensor]:
    """(shift, scale) of mean and variance normalisation, each (560,)."""
    rows = np.concatenate(feats[:2000]).astype(np.float32)
    return torch.from_numpy(-rows.mean(0)), torch.from_numpy(1 / rows.std(0))


def write_cmvn(path: Path, shift: Tensor, scale: Tensor) -> None:
    """In the text form of the published `am.mvn`."""

    def line(values: Tensor) -> str:
        return " ".join(f"{v:.7g}" for v in values.tolist())

    n = len(shift)
    path.write_text(
        f"<Nnet>\n<Splice> {n} {n}\n[ 0 ]\n<AddShift> {n} {n}\n<LearnRateCoef> 0 [ {line(shift)} ]\n"
        f"<Rescale> {n} {n}\n<LearnRateCoef> 0 [ {line(scale)} ]\n</Nnet>\n"
    )


def padded(feats: list[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(f) for f in feats])
    return torch.nn.utils.rnn.pad_sequence(feats, batch_first=True), lengths


def _mask_bands(batch: Tensor, generator: torch.Generator) -> Tensor:
    """SpecAugment (arXiv 1904.08779): two bands of mel bins and two spans of rows are set to zero."""
    batch = batch.clone()
    for x in batch:
        for _ in range(2):
            low = int(torch.randint(80, (1,), generator=generator))
            x.view(len(x), 7, 80)[:, :, low : low + int(torch.randint(12, (1,), generator=generator))] = 0
            start = int(torch.randint(len(x), (1,), generator=generator))
            x[start : start + int(torch.randint(3, (1,), generator=generator))] = 0
    return batch


def ears_loss(model: SpeechEncoder, x: Tensor, lengths: Tensor, wanted: list[Tensor]) -> Tensor:
    """CTC of normalised features (B, L, 560) with their lengths (B,) for the classes of each text."""
    device = device_of(model)
    with mixed(device):
        out = model(x.to(device), lengths)
        logits = model.ctc_logits(out[:, NUM_QUERY_ROWS:])
    log_probs = F.log_softmax(logits.float(), -1).transpose(0, 1)
    sizes = torch.tensor([len(t) for t in wanted], device=device)
    classes = torch.cat(wanted).to(device)
    return F.ctc_loss(log_probs, classes, lengths, sizes, BLANK, "mean", zero_infinity=True)


def train(
    model: SpeechEncoder, out: Path, minutes: float, feats: list[NDArray[np.float16]], texts: list[str],
    tokenizer: Tokenizer, normalise: tuple[Tensor, Tensor], seed: int = 0, batch: int = 32, device: torch.device = CPU,
) -> None:  # fmt: skip
    """Train `model` in place. `feats` are raw features; `normalise` is their CMVN. Resumes from `out`.

    The loss is taken over the rows of the sound: a word must be told where it is heard, not on a query row.
    """
    torch.manual_seed(seed)
    model.to(device)
    training = Training(model, Schedule(minutes, 8e-4, 2e-3, warmup_steps=200, ema_decay=0.998), out)
    generator = torch.Generator().manual_seed(training.fresh_seed(seed))
    targets = [torch.tensor(tokenizer.encode(t).ids) + 1 for t in texts]
    order = np.argsort([len(f) for f in feats], kind="stable")  # neighbours have like lengths
    shift, scale = normalise

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        start = int(torch.randint(len(order) - batch, (1,), generator=generator))
        chosen = order[start : start + batch]
        heard = [varied(torch.from_numpy(feats[i]).float(), generator) for i in chosen]
        x, lengths = padded([(rows + shift) * scale for rows in heard])
        return ears_loss(model, _mask_bands(x, generator), lengths, [targets[i] for i in chosen]), {}

    training.run(loss_of)
    training.use_ema()
    model.eval()


@torch.no_grad()
def greedy_text(model: SpeechEncoder, feats: Tensor, tokenizer: Tokenizer) -> str:
    """What the encoder alone hears in normalised features (rows, 560): best path, repeats and blanks removed."""
    best = torch.unique_consecutive(model.ctc_logits(model(feats[None])[:, NUM_QUERY_ROWS:])[0].argmax(-1))
    return str(tokenizer.decode([int(i) - 1 for i in best if i != BLANK]))


@torch.no_grad()
def emitted(model: SpeechEncoder, rows: list[NDArray[np.float16]]) -> Iterator[list[tuple[int, int]]]:
    """(row, text token) of each recording's best path, repeats and blanks removed. `rows` (T, size) are encoded."""
    for encoded in rows:
        best = model.ctc_logits(torch.from_numpy(encoded).float()[None])[0].argmax(-1).tolist()
        best[:NUM_QUERY_ROWS] = [BLANK] * NUM_QUERY_ROWS
        yield [(i, c - 1) for i, c in enumerate(best) if c != BLANK and c != best[i - 1]]
