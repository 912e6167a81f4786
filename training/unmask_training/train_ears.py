"""Trains the speech encoder at small size with CTC on the world's tokens; it is frozen afterwards, as in the paper."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from unmask_engine.models.speech_encoder import SpeechEncoder, SpeechEncoderConfig
from unmask_engine.models.speech_frontend import SpeechFrontend
from unmask_training.corpus import Corpus
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
    """SpecAugment (arXiv 1904.08779): one band of stacked mel bins and one span of rows are set to zero."""
    batch = batch.clone()
    for x in batch:
        low = int(torch.randint(80, (1,), generator=generator))
        width = int(torch.randint(12, (1,), generator=generator))
        x.view(len(x), 7, 80)[:, :, low : low + width] = 0
        start = int(torch.randint(len(x), (1,), generator=generator))
        x[start : start + int(torch.randint(3, (1,), generator=generator))] = 0
    return batch


def train(
    out: Path, minutes: float, feats: list[NDArray[np.float16]], texts: list[str], tokenizer: Tokenizer,
    normalise: tuple[Tensor, Tensor], seed: int = 0, batch: int = 32,
) -> SpeechEncoder:  # fmt: skip
    """`feats` are raw features; `normalise` is their CMVN. Resumes from `out`."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = SpeechEncoder(CONFIG)
    training = Training(model, Schedule(minutes, 1.5e-3, warmup_steps=300, ema_decay=0.998), out)
    targets = [torch.tensor(tokenizer.encode(t).ids) + 1 for t in texts]
    order = np.argsort([len(f) for f in feats], kind="stable")  # neighbours have like lengths
    shift, scale = normalise

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        start = int(torch.randint(len(order) - batch, (1,), generator=generator))
        chosen = order[start : start + batch]
        x, lengths = padded([(torch.from_numpy(feats[i]).float() + shift) * scale for i in chosen])
        with torch.autocast("cpu", torch.bfloat16):
            out_ = model(_mask_bands(x, generator), lengths)
            logits = model.ctc_logits(out_)
        log_probs = F.log_softmax(logits.float(), -1).transpose(0, 1)
        wanted = [targets[i] for i in chosen]
        sizes = torch.tensor([len(t) for t in wanted])
        loss = F.ctc_loss(log_probs, torch.cat(wanted), lengths + 4, sizes, BLANK, "mean", zero_infinity=True)
        return loss, {}

    training.run(loss_of)
    training.use_ema()
    return model.eval()


@torch.no_grad()
def greedy_text(model: SpeechEncoder, feats: Tensor, tokenizer: Tokenizer) -> str:
    """What the encoder alone hears in normalised features (rows, 560): best path, repeats and blanks removed."""
    best = torch.unique_consecutive(model.ctc_logits(model(feats[None]))[0].argmax(-1))
    return str(tokenizer.decode([int(i) - 1 for i in best if i != BLANK]))
