"""What fused kernels could save in the body of a denoising step: a table, then one JSON line.

    python benchmarks/bench_body.py [--device cpu]

Times a step, and alone what of the body is no matrix product and no attention: RMSNorm with the residual, rotary
positions, SiLU times gate, and the embedding of the canvas. A fused kernel moves its tensors once at best, at the rate
of a large copy: the share of the step above that is what it could save. Then a layer by torch.compile against the same
layer as it is, and whether their results are the same bits.

On a CUDA device the shapes are the published ones with random weights, on a CPU the built-in model's, half of the
canvas masked. Also writes benchmarks/results/body_<device>.json. `--tiny --device cpu` runs the same code at toy
shapes and compiles nothing, to test it: those numbers say nothing and are not written.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from bench_7b import Scale, Shape, published, random_model, request, tiny
from devices import device_name, measured_rates, result_file, seconds
from rich.console import Console
from rich.table import Table

from unmask_engine.batch import Batch, Commit
from unmask_engine.decode import decode_step
from unmask_engine.loaded import LoadedBundle
from unmask_engine.models.backbone import pack
from unmask_engine.models.omni import OmniModel
from unmask_engine.state import DecodingState
from unmask_kernels.rowwise import Implementation, gate, rotate

TIMED_STEPS = 5


@dataclass(frozen=True)
class Operation:
    """What a pass does `calls` times, and the bytes that one call must move."""

    name: str
    calls: int
    call: Callable[[], object]
    bytes: int


def built_in() -> tuple[OmniModel, Scale]:
    """The model as it is served, and a picture's shape."""
    bundle = LoadedBundle.load("unmask-mini")
    model = cast(OmniModel, bundle.model)
    scale = replace(
        tiny(),
        config=model.model.config,
        mask=bundle.vocabulary.mask,
        steps=(Shape("t2i", 96, 64), Shape("t2i", 320, 260)),
        product=1024,
        copied=1 << 28,
    )
    return model, scale


def step_s(model: OmniModel, scale: Scale, shape: Shape, batch_size: int) -> float:
    """Whole steps as the engine takes them, launched while the one before still runs."""
    plans = [request(model, scale, shape, 0.5, seed) for seed in range(batch_size)]
    # A step a masked position, so that their number stays about the same.
    states = [DecodingState(replace(p, settings=replace(p.settings, steps=shape.canvas))) for p in plans]
    batch = Batch(states, model)

    def take_steps() -> None:
        under_way: deque[Commit] = deque()
        for _ in range(TIMED_STEPS):
            under_way.append(decode_step(batch))
            if len(under_way) > 1:
                under_way.popleft().finish()
        under_way.popleft().finish()

    return seconds(take_steps, batch.device, repeats=1) / TIMED_STEPS


def operations(model: OmniModel, shape: Shape, batch_size: int) -> list[Operation]:
    """Of a pass over so many requests of the shape."""
    config, layer = model.model.config, model.model.layers[0]
    table = model.model.embed_tokens.weight
    device, inside = table.device, layer.mlp.gate_proj.weight.dtype
    num_rows, size, depth = batch_size * shape.length, config.hidden_size, config.num_layers

    def drawn(*sizes: int, dtype: torch.dtype = inside) -> torch.Tensor:
        return torch.randn(sizes, device=device, dtype=dtype)

    residual, added = drawn(num_rows, size, dtype=table.dtype), drawn(num_rows, size)
    q, k = (drawn(num_rows, heads, config.head_dim) for heads in (config.num_heads, config.num_kv_heads))
    packing = pack((shape.length,) * batch_size, config.head_dim, config.rope_theta, device)
    gated, up = (drawn(num_rows, config.intermediate_size) for _ in range(2))
    ids = torch.randint(config.vocab_size, (batch_size * shape.canvas,), device=device)
    slots = torch.arange(len(ids), device=device)
    norm = layer.input_layernorm
    impl: Implementation = "triton" if device.type == "cuda" else "reference"
    canvas_bytes = len(ids) * size * table.element_size()
    return [
        Operation("RMSNorm + residual", 2 * depth, lambda: norm(residual, added), 3 * residual.nbytes + added.nbytes),
        Operation(
            "rotary positions",
            depth,
            lambda: rotate(q, k, packing.cos, packing.sin, impl=impl),
            2 * (q.nbytes + k.nbytes),
        ),
        Operation("SiLU x gate", depth, lambda: gate(gated, up, impl=impl), 3 * gated.nbytes),
        # The prompt's embeddings stay where they are: a kernel would write the canvas's alone.
        Operation("embedding", 1, lambda: residual.index_copy(0, slots, model.embed(ids)), 2 * canvas_bytes),
    ]


def measure(model: OmniModel, scale: Scale, shape: Shape, batch_size: int, copy_rate: float) -> list[dict[str, Any]]:
    whole_s = step_s(model, scale, shape, batch_size)
    results = []
    for operation in operations(model, shape, batch_size):
        taken_s = operation.calls * seconds(operation.call, model.lm_head.weight.device)
        least_s = operation.calls * operation.bytes / copy_rate
        results.append(
            {
                "operation": operation.name,
                "length": shape.length,
                "batch": batch_size,
                "step_ms": 1e3 * whole_s,
                "ms": 1e3 * taken_s,
                "share_of_step": taken_s / whole_s,
                "could_save": max(0.0, taken_s - least_s) / whole_s,
            }
        )
    return results


def compiled_layer(model: OmniModel, shape: Shape) -> dict[str, Any]:
    """One layer over one request."""
    config, layer = model.model.config, model.model.layers[0]
    table = model.model.embed_tokens.weight
    packing = pack((shape.length,), config.head_dim, config.rope_theta, table.device)
    x = torch.randn(shape.length, config.hidden_size, device=table.device, dtype=table.dtype)
    eager_s = seconds(lambda: layer(x, packing), table.device)
    result: dict[str, Any] = {"length": shape.length, "eager_ms": 1e3 * eager_s}
    try:
        compiled = torch.compile(layer)
        is_same = torch.equal(compiled(x, packing), layer(x, packing))
        compiled_s = seconds(lambda: compiled(x, packing), table.device)
    except Exception as error:  # no compiler, or one that refuses: it is a measurement, too
        return result | {"compiled": f"fails: {type(error).__name__}"}
    return result | {"compiled_ms": 1e3 * compiled_s, "speedup": eager_s / compiled_s, "same_bits": is_same}


def show(title: str, results: list[dict[str, Any]]) -> None:
    table = Table(*results[0], title=title)
    for result in results:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in result.values()))
    Console().print(table)


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, to test the benchmark itself")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if chosen.tiny or device.type == "cuda":
        scale = tiny() if chosen.tiny else published()
        model = random_model(scale, device)
    else:
        model, scale = built_in()
    rates = measured_rates(device, scale.dtype, scale.product, scale.copied)
    cases = [(shape, size) for shape in scale.steps for size in scale.batches]
    results = [result for case in cases for result in measure(model, scale, *case, rates.bytes)]
    show("what is no product and no attention", results)
    layers = [] if chosen.tiny else [compiled_layer(model, shape) for shape in scale.steps]
    for result in layers:
        show("a layer by torch.compile", [result])
    name = device_name(device)
    line = json.dumps({"bench": "body", "device": name, "is_tiny": chosen.tiny, "parts": results, "layers": layers})
    if not chosen.tiny:
        result_file("body", name).write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
