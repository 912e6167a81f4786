"""Thousands of small requests against the decoding rule written down once more, in the words of decoding.md.

The rule here is plain Python in double precision, a row at a time, and shares no code with the engine. Each step of the
engine is checked from the canvas on which it began. What double and single precision may see otherwise, a sum within
TOLERANCE of a bound, is left undecided; ties that are exact are not.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask_engine.loop import decode
from unmask_engine.models.backbone import Wanted
from unmask_engine.request import Algorithm
from unmask_engine.settings import Settings
from unmask_engine.state import DecodingState, Plan, canvas_of, unconstrained

TOLERANCE = 2e-5
VOCABULARY = 40
MASK = VOCABULARY - 1
CHECKSUMS = 5
ROWS = 160  # of the longest sequence
BATCH, NUM_BATCHES = 16, 6
ALGORITHMS: tuple[Algorithm, ...] = ("entropy", "entropy-penalty", "maskgit_plus", "topk_margin", "origin")


class Tables:
    """Logits by sequence, row and what stands on the canvas; embeddings say which of the two sequences it is."""

    def __init__(self, rng: np.random.Generator, kind: str, *, with_mask: bool) -> None:
        shape = (3, CHECKSUMS, ROWS, VOCABULARY)
        tables: dict[str, Callable[[], NDArray[Any]]] = {
            "rough": lambda: rng.normal(0, 3, shape),
            "flat": lambda: rng.normal(0, 0.3, shape),
            "sure": lambda: 12.0 * (rng.random(shape) < 0.06),
            "few values": lambda: rng.integers(-2, 3, shape),
            "equal": lambda: np.full(shape, 1.5),
            "infinities": lambda: np.where(rng.random(shape) < 0.7, -np.inf, rng.normal(0, 3, shape)),
        }
        self.kind = kind
        self.values = tables[kind]().astype(np.float32)
        self.values[..., 1] = np.where(np.isinf(self.values[..., 1]), 0, self.values[..., 1])  # something is possible
        if not with_mask:
            self.values[..., MASK] = -50
        self._logits = torch.from_numpy(self.values)

    def embed(self, ids: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(ids)), ids.float()], dim=1)

    def forward_packed(self, embeds: Tensor, lengths: Sequence[int], wanted: Wanted) -> Tensor:
        rows = [
            torch.stack([part[:1, 0].expand(n), part[:, 1].sum().expand(n) % CHECKSUMS, torch.arange(n)], dim=1)
            for n, part in zip(lengths, torch.split(embeds, list(lengths)), strict=True)
        ]
        return torch.cat(rows)[wanted.rows]

    def logits(self, hidden: Tensor) -> Tensor:
        sequence, checksum, row = hidden.long().T
        return self._logits[sequence, checksum, row]


@dataclass
class Case:
    tables: Tables
    settings: Settings
    pins: dict[int, int]
    length: int
    prompt: int  # rows
    unconditional: int  # rows
    steps: list[tuple[list[int], list[float]]] = field(default_factory=list)  # ids and confidence after each

    def state(self) -> DecodingState:
        canvas = canvas_of(self.length, MASK, self.pins)
        given = torch.tensor([[1.0, 0.0]]).repeat(self.prompt, 1)
        empty = torch.tensor([[2.0, 0.0]]).repeat(self.unconditional, 1) if self.settings.guidance else None
        return DecodingState(
            Plan(self.settings, given, empty, canvas, unconstrained(canvas, ((0, VOCABULARY),)), MASK, end=None)
        )


def random_case(rng: random.Random, tables: Tables) -> Case:
    is_long = rng.random() < 0.05
    length = rng.randint(101, 130) if is_long else rng.choice([1, 1, 2, 3, 5, 8, 13, 24])
    pinned = rng.choice([0, 0, 0.1, 0.5, 1])
    prompt = rng.randint(1, 9)
    compat = rng.random() < 0.3 and float(tables.values[..., MASK].max()) == -50  # there it may commit MASK
    algorithm = rng.choice(
        [name for name in ALGORITHMS if name != "origin" or not compat]
    )  # which ignores blocks there
    return Case(
        tables,
        Settings(
            steps=min(length, rng.choice([1, 3, 9] if is_long else [1, 2, 3, length, length + 50])),
            algorithm=algorithm,
            block_size=rng.choice([None, 50] if is_long else [None, None, 1, 3, 8, 500]),
            top_p=rng.choice([1.0, 0.9, 0.9, 0.4, 0.0]),
            top_k=rng.choice([0, 50, 5, 2, 1]),
            repetition_penalty=rng.choice([1.0, 1.2, 3.0]) if algorithm == "entropy-penalty" else 1.0,
            position_penalty=rng.choice([1.0, 2.0, 5.0]),
            guidance=0.0 if tables.kind == "infinities" else rng.choice([0.0, 0.0, 0.5, 2.0]),
            reference_compat=compat,
        ),
        {at: rng.randrange(MASK) for at in range(length) if rng.random() < pinned},
        length,
        prompt,
        rng.randint(1, prompt),
    )


# The rule. Numbers in brackets are those of decoding.md, One step.


@dataclass(frozen=True)
class Scored:
    token: int
    confidence: float
    candidates: tuple[float, ...]  # as the confidence is summed over them: rows with the same ones tie exactly


def scored(case: Case, ids: Sequence[int], position: int, step: int) -> Scored | None:
    """[1-7] A masked position's token and confidence; None where single precision may see it otherwise."""
    logits = guided(case, ids, position)
    found = chosen(case, logits, ids, position, step)
    if found is not None and found.token == MASK and not case.settings.reference_compat:  # it is never committed
        logits[MASK] = -math.inf
        found = chosen(case, logits, ids, position, step)
    return found


def guided(case: Case, ids: Sequence[int], position: int) -> list[float]:
    """[1] Logits are shifted right by one: a position is predicted by the row before it."""
    values, cfg = case.tables.values[:, sum(ids) % CHECKSUMS], case.settings.guidance
    conditional = [float(z) for z in values[1, case.prompt + position - 1]]
    if not cfg:
        return conditional
    empty = case.prompt if case.settings.reference_compat else case.unconditional
    unconditional = [float(z) for z in values[2, empty + position - 1]]
    return [u + (cfg + 1) * (c - u) for c, u in zip(conditional, unconditional, strict=True)]


def chosen(case: Case, logits: list[float], ids: Sequence[int], position: int, step: int) -> Scored | None:
    settings = case.settings
    order = sorted(range(VOCABULARY), key=lambda token: (-logits[token], token))
    kept = nucleus(logits, order, settings.top_p)
    if kept is None:
        return None
    if 0 < settings.top_k <= len(kept):  # [4] what ties with the last one stays
        kept = [token for token in kept if logits[token] >= logits[kept[settings.top_k - 1]]]
    if settings.top_p == 1 and not 0 < settings.top_k < VOCABULARY:
        kept.sort()
    values = [logits[token] for token in kept]
    if settings.algorithm == "entropy-penalty" and step > 0:  # [5]
        values = [
            penalised(z, settings.repetition_penalty) if token in ids and token not in (0, MASK) else z
            for token, z in zip(kept, values, strict=True)
        ]
    masked = [at for at, token in enumerate(ids) if token == MASK]
    if len(masked) > 100:  # [6]
        beyond = max(0, masked.index(position) - 100) / (len(masked) - 100)
        values = [penalised(z, 1 + beyond * (settings.position_penalty - 1)) for z in values]
    best = max(values)
    if any(0 < best - z < TOLERANCE for z in values):
        return None
    weights = [math.exp(z - best) for z in values]  # [7]
    probs = [weight / sum(weights) for weight in weights]
    likely = sorted([*probs, 0.0], reverse=True)
    confidence = sum(p * math.log(p + 1e-10) for p in probs)
    if settings.algorithm in ("maskgit_plus", "topk_margin"):
        confidence = likely[0] - (likely[1] if settings.algorithm == "topk_margin" else 0)
    token = min(token for token, z in zip(kept, values, strict=True) if z == best)
    alone = sum(p > 0 for p in probs) == 1
    return Scored(token, confidence, (0.0,) if alone else tuple(z for z in values if z > -math.inf))


def nucleus(logits: list[float], order: list[int], top_p: float) -> list[int] | None:
    """[3] Best first: every token goes after the cumulated probability first exceeds p; the best one stays."""
    weights = [math.exp(logits[token] - logits[order[0]]) for token in order]
    mass, kept = 0.0, list[int]()
    for token, weight in zip(order, weights, strict=True):
        if kept and 0 < top_p < 1 and abs(mass - top_p) < TOLERANCE:
            return None
        if kept and top_p < 1 and mass > top_p:
            break
        kept.append(token)
        mass += weight / sum(weights)
    return kept


def penalised(z: float, strength: float) -> float:
    return z * strength if z < 0 else z / strength


def cut(case: Case) -> list[tuple[range, int]]:
    """The positions of each block and its steps."""
    size = min(case.settings.block_size or case.length, case.length)
    blocks = [range(start, min(start + size, case.length)) for start in range(0, case.length, size)]
    return [(block, max(1, int(len(block) / case.length * case.settings.steps))) for block in blocks]


def due(masked: int, step: int, steps: int) -> int:
    """How many a step commits."""
    if step == steps - 1:
        return masked
    times = torch.linspace(1, 1e-3, steps + 1).numpy()
    share = np.float32(1) - times[step + 1] / times[step]
    return min(masked, max(1, int(np.float32(masked) * share)))


def check(case: Case) -> tuple[int, int]:
    """Every step of a decoded case; how many rows were decided, of how many."""
    ids = [case.pins.get(at, MASK) for at in range(case.length)]
    known = rows = 0
    done = iter(enumerate(case.steps))
    for block, steps in cut(case):
        for step in range(steps):
            open_ = [at for at in block if ids[at] == MASK]
            if not open_:
                break
            number, (after, confidence) = next(done)
            scores = {at: scored(case, ids, at, number) for at in open_}
            committed = [at for at in range(case.length) if ids[at] != after[at]]
            assert set(committed) <= set(open_)
            if case.settings.algorithm != "origin":
                assert len(committed) == due(len(open_), step, steps)
                check_order(scores, committed)
            for at in committed:
                if (found := scores[at]) is not None:
                    assert after[at] == found.token
                    assert confidence[at] == pytest.approx(
                        found.confidence if case.settings.algorithm != "origin" else 0, abs=1e-4
                    )
            rows += len(open_)
            known += sum(found is not None for found in scores.values())
            ids = list(after)
    assert next(done, None) is None
    assert MASK not in ids
    assert all(ids[at] == token for at, token in case.pins.items())
    return known, rows


def check_order(scores: dict[int, Scored | None], committed: list[int]) -> None:
    """[8] The most confident ones, the leftmost of those that tie."""
    for inside in committed:
        for outside in scores.keys() - set(committed):
            first, second = scores[inside], scores[outside]
            if first is not None and second is not None:
                assert first.confidence > second.confidence - 1e-4
                if first.candidates == second.candidates:
                    assert inside < outside


@pytest.mark.parametrize("kind", ["rough", "flat", "sure", "few values", "equal", "infinities"])
def test_every_step_is_that_of_the_rule(kind: str) -> None:
    rng = random.Random(kind)
    known = rows = 0
    for with_mask in (True, False):
        tables = Tables(np.random.default_rng(len(kind)), kind, with_mask=with_mask)
        for _ in range(NUM_BATCHES):
            cases = [random_case(rng, tables) for _ in range(BATCH)]

            def note(index: int, state: DecodingState, cases: list[Case] = cases) -> None:
                cases[index].steps.append((state.ids.tolist(), state.confidence.tolist()))

            decode([case.state() for case in cases], tables, note)
            for case in cases:
                found = check(case)
                known, rows = known + found[0], rows + found[1]
    assert known > 0.7 * rows
