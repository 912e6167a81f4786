"""Trains the speech encoder at small size with CTC on the world's tokens; it is frozen afterwards, as in the paper.

Beside the words it learns their order: a head that does not ship asks each row how many words have been heard up to it.
What reads the rows later has to put the k-th word of the sound at the k-th place of a text, and a small backbone that
must count among the blanks by itself loses words (docs/log.md).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from unmask_engine.models.speech_encoder import NUM_QUERY_ROWS, SpeechEncoder, SpeechEncoderConfig
from unmask_engine.models.speech_frontend import SpeechFrontend
from unmask_training.augment_features import varied
from unmask_training.corpus import Corpus
from unmask_training.devices import CPU, device_of, mixed
from unmask_training.loop import Schedule, Training
from unmask_training.naming import IGNORED
from unmask_training.spread import spread
from unmask_training.vocabulary import TEXT_TOKENS
from unmask_training.voices import add_room

CONFIG = SpeechEncoderConfig(
    input_size=560, size=192, num_heads=4, ffn_size=768, num_layers=5, num_tp_layers=2, ctc_vocab=TEXT_TOKENS + 1
)
BLANK = 0  # text id i is CTC class i + 1
MAX_WORDS = 32  # that are counted
COUNT_WEIGHT = 0.3


class Listener(nn.Module):
    """The speech encoder with the head that counts, which does not ship."""

    def __init__(self, encoder: SpeechEncoder, size: int = CONFIG.size) -> None:
        super().__init__()
        self.encoder = encoder
        self.counter = nn.Linear(size, MAX_WORDS)


def features(corpus: Corpus, frontend: SpeechFrontend, seed: int, room: bool = True) -> list[NDArray[np.float16]]:
    """Stacked filterbank features of each recording, (rows, 560), heard in a room of its own."""

    def heard(i: int) -> NDArray[np.float16]:
        wave = corpus.recording(i)
        wave = add_room(wave, np.random.default_rng((seed, i))) if room else wave
        return frontend(wave).numpy().astype(np.float16)

    return spread(heard, range(len(corpus)))


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


def ears_loss(model: Listener, x: Tensor, lengths: Tensor, wanted: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """CTC of normalised features (B, L, 560) with their lengths (B,) for the classes of each text, and counting."""
    device = device_of(model)
    with mixed(device):
        out = model.encoder(x.to(device), lengths)[:, NUM_QUERY_ROWS:]
        logits = model.encoder.ctc_logits(out)
        counted = model.counter(out)
    log_probs = F.log_softmax(logits.float(), -1).transpose(0, 1)
    sizes = torch.tensor([len(t) for t in wanted], device=device)
    classes = torch.cat(wanted).to(device)
    words = F.ctc_loss(log_probs, classes, lengths, sizes, BLANK, "mean", zero_infinity=True)
    labels = heard_so_far(logits.detach().argmax(-1).cpu(), lengths, wanted).to(device)
    number = F.cross_entropy(counted.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    number = number.sum() / (labels != IGNORED).sum().clamp(min=1)
    return words + COUNT_WEIGHT * number, {"words": float(words.detach()), "count": float(number.detach())}


def first_rows(best: Tensor) -> Tensor:
    """(..., R) classes of a best path -> (..., R) bool: where a word is emitted, repeats and blanks left out."""
    before = F.pad(best, (1, 0), value=BLANK)[..., :-1]
    return (best != BLANK) & (best != before)


def heard_so_far(best: Tensor, lengths: Tensor, wanted: list[Tensor]) -> Tensor:
    """(B, R) number of words up to each row of the best paths (B, R) that say what is `wanted`; others are IGNORED."""
    emitted = first_rows(best)
    labels = emitted.cumsum(-1).clamp(max=MAX_WORDS - 1)
    for row, (path, new, length, text) in enumerate(zip(best, emitted, lengths.tolist(), wanted, strict=True)):
        labels[row, length:] = IGNORED
        if not torch.equal(path[:length][new[:length]], text):
            labels[row] = IGNORED
    return labels


def train(
    model: SpeechEncoder, out: Path, minutes: float, feats: list[NDArray[np.float16]], texts: list[str],
    tokenizer: Tokenizer, normalise: tuple[Tensor, Tensor], seed: int = 0, batch: int = 32, device: torch.device = CPU,
    learning_rate: float = 8e-4, matrix_rate: float = 2e-3,
) -> None:  # fmt: skip
    """Train `model` in place. `feats` are raw features; `normalise` is their CMVN. Resumes from `out`.

    The loss is taken over the rows of the sound: a word must be told where it is heard, not on a query row.
    """
    torch.manual_seed(seed)
    listener = Listener(model).to(device)
    training = Training(listener, Schedule(minutes, learning_rate, matrix_rate, warmup_steps=200, ema_decay=0.998), out)
    generator = torch.Generator().manual_seed(training.fresh_seed(seed))
    targets = [torch.tensor(tokenizer.encode(t).ids) + 1 for t in texts]
    order = np.argsort([len(f) for f in feats], kind="stable")  # neighbours have like lengths
    shift, scale = normalise

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        start = int(torch.randint(len(order) - batch, (1,), generator=generator))
        chosen = order[start : start + batch]
        heard = [varied(torch.from_numpy(feats[i]).float(), generator) for i in chosen]
        x, lengths = padded([(rows + shift) * scale for rows in heard])
        return ears_loss(listener, _mask_bands(x, generator), lengths, [targets[i] for i in chosen])

    training.run(loss_of)
    training.use_ema()
    model.eval()


@torch.no_grad()
def greedy_text(model: SpeechEncoder, feats: Tensor, tokenizer: Tokenizer) -> str:
    """What the encoder alone hears in normalised features (rows, 560): best path, repeats and blanks removed."""
    best = torch.unique_consecutive(model.ctc_logits(model(feats[None])[:, NUM_QUERY_ROWS:])[0].argmax(-1))
    return str(tokenizer.decode([int(i) - 1 for i in best if i != BLANK]))


@torch.no_grad()
def best_path(model: SpeechEncoder, encoded: Tensor) -> Tensor:
    """(..., R, size) rows of recordings -> (..., R) CTC classes; BLANK on the query rows, which hear no word."""
    best: Tensor = model.ctc_logits(encoded.float()).argmax(-1)
    best[..., :NUM_QUERY_ROWS] = BLANK
    return best


def emitted(best: Tensor) -> list[tuple[int, int]]:
    """(row, text token) of a best path (R,), repeats and blanks removed."""
    where = first_rows(best).nonzero()[:, 0]
    return list(zip(where.tolist(), (best[where] - 1).tolist(), strict=True))
