"""The published 7B shapes with random weights on a CUDA device: tables, then one JSON line.

    python benchmarks/bench_7b.py

1. Seconds of a denoising step against the floor (floor.py) at the rates that this device reaches, half of the canvas
   masked. Whole steps as the engine takes them, launched while the one before still runs.
2. The sampler against one read of the logits it is given, at the rate of a large copy: what the device does,
   without the launches, which hide behind the step before.
3. Each task from its embedded prompt to its last token against the loop of the published reference (naive_loop.py),
   one request at a time. Codecs and speech encoder are left out: they would be the same for both. Of the reference's
   steps, at most 32 are taken, spread evenly over the request; its seconds are those times all steps over these.
4. How many tokens of requests that share their steps differ from those of the same requests alone; the goal is none.

Also writes benchmarks/results/7b_<device>.json, after each number. `--tiny --device cpu` runs the same code at toy
shapes, to test it: those numbers say nothing and are not written.
"""

import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from devices import (
    Rates,
    chosen_device,
    device_name,
    device_seconds,
    measured_rates,
    num_uncached,
    result_file,
    seconds,
    synchronise,
)
from floor import floor_s
from naive_loop import NaiveSettings, naive_step
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unmask_engine.batch import Batch, Commit
from unmask_engine.bundle import load_bundle
from unmask_engine.components import config_from_json
from unmask_engine.decode import decode_step
from unmask_engine.loop import decode
from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.request import Decoding
from unmask_engine.scheduler import Policy
from unmask_engine.settings import resolve_settings
from unmask_engine.state import DecodingState, Plan, canvas_of, unconstrained
from unmask_kernels.sample import sample
from unmask_kernels.schedule import commit_counts

TIMED_STEPS = 5
MOST_NAIVE_STEPS = 32  # taken by the reference's loop, of a request
UNCONDITIONAL = 23  # tokens of a prompt without the caller's content
GOAL = 0.7  # of the copy's rate, for the sampler


@dataclass(frozen=True)
class Shape:
    """A request of a task: `length` tokens in all, of which `canvas` are the answer."""

    task: str
    length: int
    canvas: int
    steps: int | None = None  # None takes the preset's


@dataclass(frozen=True)
class Scale:
    config: BackboneConfig
    mask: int
    dtype: torch.dtype
    steps: tuple[Shape, ...]
    batches: tuple[int, ...]
    tasks: tuple[Shape, ...]
    sampler_rows: tuple[int, ...]
    product: int  # rows and columns of the matrices that the peak is measured with
    copied: int  # bytes that the bandwidth is measured with


def published() -> Scale:
    """The lengths of performance.md's tables."""
    fields = load_bundle("omni-diffusion").component("backbone").config["backbone"]
    return Scale(
        config=config_from_json(BackboneConfig, fields),
        mask=151_666,
        dtype=torch.bfloat16,
        steps=(Shape("tts", 128, 50), Shape("t2i", 320, 260), Shape("t2i", 600, 260), Shape("svqa", 1400, 128)),
        batches=(1, 8),
        tasks=(
            Shape("tts", 85, 50),
            Shape("asr", 230, 50),
            Shape("t2i", 320, 260),
            Shape("vqa", 1110, 64),
            Shape("s2i", 400, 260),
        ),
        sampler_rows=(50, 260, 2080),
        product=8192,
        copied=1 << 30,
    )


def tiny() -> Scale:
    return Scale(
        config=BackboneConfig(997, 32, 48, 2, 4, 2),
        mask=990,
        dtype=torch.float32,
        steps=(Shape("t2i", 40, 24),),
        batches=(1, 2),
        tasks=(Shape("t2i", 110, 104, steps=3), Shape("s2i", 40, 12, steps=3), Shape("tts", 20, 12)),
        sampler_rows=(4,),
        product=64,
        copied=1 << 16,
    )


def random_model(scale: Scale, device: torch.device) -> OmniModel:
    """Filled where it is used. The best token of a row has a probability between a few and 99 percent."""
    speech = SpeechEncoderConfig(size=16, num_heads=2, ffn_size=16, num_layers=2, num_tp_layers=1, ctc_vocab=4)
    with torch.device("meta"):
        model = OmniModel(scale.config, speech).to(scale.dtype)
    model = model.to_empty(device=device).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.normal_(std=1 if "embed" in name else weight.shape[1] ** -0.5)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
    model.lm_head.weight.mul_(5)
    if device.type == "cuda":
        model.model.join_products()
    return model


def request(model: OmniModel, scale: Scale, shape: Shape, share_masked: float, seed: int) -> Plan:
    """A request of the task's preset over the whole vocabulary, some of its canvas given."""
    g = torch.Generator().manual_seed(seed)
    device = model.lm_head.weight.device

    def prompt(length: int) -> Tensor:
        return model.embed(torch.randint(scale.mask, (length,), generator=g).to(device))

    preset = next(preset for preset in OMNI_PRESETS if preset.task == shape.task)
    settings = resolve_settings(preset, Decoding(steps=shape.steps), shape.canvas)
    given = torch.randperm(shape.canvas, generator=g)[: round((1 - share_masked) * shape.canvas)].tolist()
    canvas = canvas_of(shape.canvas, scale.mask, {place: 1 + place for place in given})
    return Plan(
        settings=settings,
        prompt=prompt(shape.length - shape.canvas),
        unconditional=prompt(UNCONDITIONAL) if settings.guidance > 0 else None,
        canvas=canvas,
        allowed=unconstrained(canvas, ((0, scale.config.vocab_size),)),
        mask=scale.mask,
        end=None,
    )


def time_step(model: OmniModel, scale: Scale, shape: Shape, batch_size: int, rates: Rates) -> dict[str, Any]:
    # A step a masked position, so that their number stays about the same while steps are timed.
    plans = [request(model, scale, shape, 0.5, seed) for seed in range(batch_size)]
    plans = [replace(plan, settings=replace(plan.settings, steps=shape.canvas)) for plan in plans]
    states = [DecodingState(plan) for plan in plans]
    batch = Batch(states, model)
    num_open: list[int] = []  # rows of each step

    def take_steps() -> None:
        under_way: deque[Commit] = deque()
        for _ in range(TIMED_STEPS):
            num_open.append(sum(state.next_step().num_open for state in states))
            under_way.append(decode_step(batch))
            if len(under_way) > 1:
                under_way.popleft().finish()
        under_way.popleft().finish()

    step_s = seconds(take_steps, batch.device, repeats=1) / TIMED_STEPS
    rows = statistics.mean(num_open[-TIMED_STEPS:])
    least_s = floor_s(scale.config, [shape.length] * batch_size, rows, rates, scale.dtype.itemsize)
    return {
        "length": shape.length,
        "batch": batch_size,
        "masked_rows": rows,
        "step_ms": 1e3 * step_s,
        "floor_ms": 1e3 * least_s,
        "share_of_floor": least_s / step_s,
    }


@torch.inference_mode()
def time_sampler(model: OmniModel, scale: Scale, num_rows: int, rates: Rates) -> dict[str, Any]:
    """Rows of as many pictures as it takes, at their first step."""
    picture = next(shape for shape in scale.tasks if shape.task == "t2i")
    per_request = min(num_rows, picture.canvas)
    shape = replace(picture, canvas=per_request, length=per_request + 8)
    states = [DecodingState(request(model, scale, shape, 1.0, seed)) for seed in range(num_rows // per_request)]
    batch = Batch(states, model)
    rows = batch.schedule()
    logits = batch.run(rows)[0]
    params = batch.row_params(rows, logits.shape[1])
    impl = "triton" if logits.is_cuda else "torch"
    num_copies = num_uncached(logits.nbytes) - 1 if logits.is_cuda else 0
    copies = [logits, *(logits.clone() for _ in range(num_copies))]
    device_s = device_seconds([partial(sample, copy, None, params, impl=impl) for copy in copies], batch.device)
    return {
        "rows": len(logits),
        "read_mb": logits.nbytes / 1e6,
        "sampler_ms": 1e3 * device_s,
        "share_of_copy_rate": logits.nbytes / device_s / rates.bytes,
    }


def time_task(model: OmniModel, scale: Scale, shape: Shape, rates: Rates) -> dict[str, Any]:
    plan = request(model, scale, shape, 1.0, seed=0)
    chosen, device = plan.settings, plan.prompt.device
    naive = NaiveSettings(
        chosen.top_p, chosen.top_k, chosen.repetition_penalty, chosen.position_penalty, chosen.guidance
    )
    # The reference fills the sequence without content up to the length of the other (model.md).
    against = plan.unconditional
    if against is not None:
        against = torch.cat([against, against.new_zeros(max(0, len(plan.prompt) - len(against)), against.shape[1])])
    decode([DecodingState(replace(plan, settings=replace(chosen, steps=3)))], model)  # warms up
    canvases = [plan.canvas]  # before each step
    synchronise(device)
    began = time.perf_counter()
    decode([DecodingState(plan)], model, lambda _, state: canvases.append(state.ids.clone()))
    unmask_s = time.perf_counter() - began
    counts = commit_counts(len(plan.canvas), chosen.steps)

    def naive_step_s(number: int) -> float:
        ids = canvases[number].to(device)
        synchronise(device)
        began = time.perf_counter()
        naive_step(model, plan.prompt, ids, scale.mask, counts[number], number == 0, naive, against)
        synchronise(device)
        return time.perf_counter() - began

    naive_step_s(0)  # warms up
    taken = range(0, plan.steps, -(-plan.steps // MOST_NAIVE_STEPS))
    naive_s = plan.steps * statistics.mean(naive_step_s(number) for number in taken)
    lengths = [shape.length] if against is None else [shape.length, UNCONDITIONAL + shape.canvas]
    rows = shape.canvas / 2 * len(lengths)
    least_s = plan.steps * floor_s(scale.config, lengths, rows, rates, scale.dtype.itemsize)
    return {
        "task": shape.task,
        "steps": plan.steps,
        "unmask_s": unmask_s,
        "naive_s": naive_s,
        "floor_s": least_s,
        "speedup": naive_s / unmask_s,
    }


def differing_tokens(model: OmniModel, scale: Scale) -> dict[str, int]:
    shape, together = scale.steps[0], max(scale.batches)
    plans = [request(model, scale, shape, 1.0, seed) for seed in range(together)]
    alone = [DecodingState(plan) for plan in plans]
    for state in alone:
        decode([state], model)
    shared = [DecodingState(plan) for plan in plans]
    everything = together * shape.length
    decode(shared, model, policy=Policy(token_budget=everything, knee=everything))
    pairs = zip(alone, shared, strict=True)
    return {"differing": sum(int((a.ids != b.ids).sum()) for a, b in pairs), "compared": together * shape.canvas}


def show(title: str, results: list[dict[str, Any]]) -> None:
    table = Table(*results[0], title=title)
    for result in results:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in result.values()))
    Console().print(table)


def main() -> int:
    chosen = chosen_device(__doc__ or "")
    if chosen is None:
        return 2
    device, is_tiny = chosen
    scale = tiny() if is_tiny else published()
    rates = measured_rates(device, scale.dtype, scale.product, scale.copied)
    model = random_model(scale, device)
    name = device_name(device)
    report: dict[str, Any] = {"bench": "7b", "device": name, "is_tiny": is_tiny, "rates": asdict(rates)}

    def measure(part: str, title: str, calls: Iterable[Callable[[], dict[str, Any]]]) -> None:
        results = report[part] = []
        for call in calls:
            results.append(call())
            if not is_tiny:
                result_file("7b", name).write_text(json.dumps(report) + "\n")
        show(title, results)

    sizes = [(shape, size) for size in scale.batches for shape in scale.steps]
    measure("steps", "a step", [partial(time_step, model, scale, shape, size, rates) for shape, size in sizes])
    title = f"the sampler (goal: {GOAL:.0%} of the copy's rate)"
    measure("sampler", title, [partial(time_sampler, model, scale, rows, rates) for rows in scale.sampler_rows])
    measure("tokens", "tokens of requests together and alone", [partial(differing_tokens, model, scale)])
    (report["tokens"],) = report["tokens"]
    measure("tasks", "a request, alone", [partial(time_task, model, scale, shape, rates) for shape in scale.tasks])
    line = json.dumps(report)
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
