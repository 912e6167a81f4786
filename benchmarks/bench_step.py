"""Seconds of one denoising step, split by part, against the loop of the published reference: a table, then JSON.

    .venv/bin/python benchmarks/bench_step.py

Random weights: hidden 256, 8 layers, the published vocabulary of 176,264 ids, prompt 64 and canvas 256, on a CPU. The
canvas is decoded by the product's own step; around three points of the decode, some steps are timed and taken by
`naive_loop` too, from the same canvas. Medians over the steps of a point; the ratios are of their sums over the points.
Also writes benchmarks/results/step_cpu.json.
"""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import naive_loop
import torch
from devices import result_file
from naive_loop import NaiveSettings, naive_step
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unmask_engine import decode
from unmask_engine.batch import Batch
from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_engine.settings import Settings
from unmask_engine.state import DecodingState, Plan, canvas_of, unconstrained

VOCABULARY, MASK = 176264, 151666
HIDDEN, LAYERS, PROMPT, CANVAS, STEPS = 256, 8, 64, 256, 64
SETTINGS = Settings(
    steps=STEPS, algorithm="entropy-penalty", top_p=0.9, top_k=50, repetition_penalty=1.2, position_penalty=2.0
)
POINTS = {"0 %": 1, "50 %": 31, "90 %": 57}  # the step before the first timed one; the very first one warms up
TIMED_STEPS = 3
PARTS = ("body", "head", "sampler")
TARGETS = {"sampler_speedup": 20.0, "step_speedup": 8.0, "sampler_share": 0.25}

T = TypeVar("T")
Split = dict[str, float]  # seconds by part; "step" is the whole


class Stopwatch:
    """Collects the seconds spent in the functions that it wraps."""

    def __init__(self) -> None:
        self._seconds: Split = defaultdict(float)

    def wrap(self, owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._measure(part):
                return function(*args, **kwargs)

        setattr(owner, name, timed)

    def split(self, step: Callable[[], T]) -> tuple[T, Split]:
        self._seconds.clear()
        with self._measure("step"):
            result = step()
        rest = self._seconds["step"] - sum(self._seconds[part] for part in PARTS)
        return result, {**self._seconds, "rest": rest}

    @contextmanager
    def _measure(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - began


def random_model() -> OmniModel:
    """Logits with a standard deviation of about 5: a row's best token has a probability between 1 % and 99 %."""
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=16, num_heads=2, ffn_size=16, num_layers=2, num_tp_layers=1, ctc_vocab=4)
    model = OmniModel(BackboneConfig(VOCABULARY, HIDDEN, 4 * HIDDEN, LAYERS, 4, 4), speech)
    for layer in model.model.layers:
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            part.weight.data.normal_(std=2 / HIDDEN**0.5)
    model.lm_head.weight.data.normal_(std=5 / HIDDEN**0.5)
    return model.eval().requires_grad_(False)


def product_loop(model: OmniModel, prompt: Tensor) -> tuple[DecodingState, Callable[[], None]]:
    """A request, and the function that takes its next step by the engine's own code."""
    canvas = canvas_of(CANVAS, MASK)
    plan = Plan(
        settings=SETTINGS,
        prompt=prompt,
        unconditional=None,
        canvas=canvas,
        allowed=unconstrained(canvas, ((0, VOCABULARY),)),
        mask=MASK,
        end=None,
    )
    state = DecodingState(plan)
    batch = Batch([state], model)
    return state, lambda: decode.decode_step(batch).finish()


def measure() -> tuple[dict[str, tuple[Split, Split]], int]:
    """By point, the median splits of our step and of the naive one; and how many committed positions differ."""
    model = random_model()
    prompt = model.embed(torch.randint(MASK, (PROMPT,)))
    stopwatch = Stopwatch()
    stopwatch.wrap(model, "forward_packed", "body")
    stopwatch.wrap(model, "logits", "head")
    stopwatch.wrap(decode, "sample", "sampler")
    stopwatch.wrap(naive_loop, "sample_tokens", "sampler")
    naive = NaiveSettings(SETTINGS.top_p, SETTINGS.top_k, SETTINGS.repetition_penalty, SETTINGS.position_penalty)
    state, take_step = product_loop(model, prompt)
    splits: dict[str, tuple[Split, Split]] = {}
    num_differing = 0
    for point, first in POINTS.items():
        while state.step < first:
            take_step()
        ours, theirs = [], []
        for _ in range(TIMED_STEPS):
            before, number = state.ids.clone(), state.step
            ours.append(stopwatch.split(take_step)[1])
            count = int((state.ids != before).sum())
            step = partial(naive_step, model, prompt, before, MASK, count, number == 0, naive)
            after, split = stopwatch.split(step)
            theirs.append(split)
            num_differing += int((after != state.ids).sum())
        splits[point] = (median(ours), median(theirs))
    return splits, num_differing


def median(splits: list[Split]) -> Split:
    return {part: statistics.median(split[part] for split in splits) for part in splits[0]}


def main() -> None:
    splits, num_differing = measure()
    table = Table("committed", "loop", *PARTS, "rest", "step", caption="milliseconds")
    for point, pair in splits.items():
        for loop, split in zip(("unmask", "naive"), pair, strict=True):
            table.add_row(point, loop, *(f"{1000 * split[part]:.1f}" for part in (*PARTS, "rest", "step")))
    Console().print(table)

    def total(loop: int, part: str) -> float:
        return sum(pair[loop][part] for pair in splits.values())

    numbers = {
        "sampler_speedup": total(1, "sampler") / total(0, "sampler"),
        "step_speedup": total(1, "step") / total(0, "step"),
        "sampler_share": total(0, "sampler") / total(0, "step"),
    }
    met = (
        numbers["sampler_speedup"] >= TARGETS["sampler_speedup"]
        and numbers["step_speedup"] >= TARGETS["step_speedup"]
        and numbers["sampler_share"] <= TARGETS["sampler_share"]
    )
    rounded = {name: round(value, 3) for name, value in numbers.items()}
    line = json.dumps({"bench": "step", "targets_met": met, "differing_tokens": num_differing, **rounded})
    result_file("step", "cpu").write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
