"""The Triton sampler and reveal against the reference on a CUDA device: a table, then one JSON line.

    python benchmarks/bench_kernels.py

"device ms" is what a call takes on the device, as part of a CUDA graph; "call ms" and "reference ms" are medians of
whole calls, checks and launches on the host included, which an engine hides behind the step that runs. "of copy" is the
rate at which the device reads the logits once, as a share of the rate at which it copies a large tensor. Every result
is compared with the reference's first.
Also writes benchmarks/results/kernels_<device>.json.

`--tiny --device cpu` runs the same code at toy shapes in Triton's interpreter, to test it (TRITON_INTERPRET=1): those
numbers say nothing and are not written.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from devices import chosen_device, device_name, device_seconds, num_uncached, result_file, seconds
from rich.console import Console
from rich.table import Table

from unmask_kernels.confidence import ALGORITHMS
from unmask_kernels.reveal import BY_RANK, RevealParams, reveal
from unmask_kernels.rows import ANY, RowParams
from unmask_kernels.sample import sample

IMAGE_IDS = (168_072, 176_264)
PER_REQUEST = 260  # rows


@dataclass(frozen=True)
class Case:
    name: str
    num_rows: int
    guidance: float = 0.0
    temperature: float = 0.0
    is_filtered: bool = True
    allowed: tuple[int, int] | None = None  # None allows every id


@dataclass(frozen=True)
class Scale:
    vocabulary: int
    samples: tuple[Case, ...]
    reveals: tuple[tuple[int, int], ...]  # requests, rows of each
    copied: int  # bytes that the bandwidth is measured with


PUBLISHED = Scale(
    vocabulary=176_264,
    samples=(
        Case("one row", 1),
        Case("speech, step 0", 50),
        Case("image, step 0", 260),
        Case("image, step 0, sampled", 260, temperature=1.0),
        Case("image, step 0, guidance", 260, guidance=2.0),
        Case("image, step 0, image ids only", 260, allowed=IMAGE_IDS),
        Case("8 images, step 0", 2080),
        Case("no filter", 260, is_filtered=False),
        Case("no filter, sampled", 260, temperature=1.0, is_filtered=False),
    ),
    reveals=((1, 260), (32, 260), (8, 2048)),
    copied=1 << 30,
)
TINY = Scale(
    vocabulary=300,
    samples=(
        Case("guidance", 2, guidance=2.0, allowed=(20, 250)),
        Case("no filter, sampled", 1, temperature=1.0, is_filtered=False),
    ),
    reveals=((2, 10),),
    copied=1 << 12,
)


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        return 1e3 * seconds(call, device, repeats=1)
    from triton.testing import do_bench  # asks for a driver

    return float(do_bench(call, return_mode="median"))


def bytes_copied_per_second(device: torch.device, size: int) -> float:
    """Read and written bytes both count."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / (milliseconds(lambda: target.copy_(source), device) * 1e-3)


def row_params(case: Case, vocabulary: int) -> RowParams:
    """The penalties of the image presets."""
    rows = torch.arange(case.num_rows)
    zeros, ones = torch.zeros_like(rows), torch.ones(case.num_rows)
    g = torch.Generator().manual_seed(1)
    return RowParams(
        algorithm=torch.full_like(rows, ALGORITHMS.index("entropy-penalty")),
        temperature=ones * case.temperature,
        top_p=ones * (0.9 if case.is_filtered else 1.0),
        top_k=torch.full_like(rows, 50 if case.is_filtered else 0),
        repetition_penalty=ones * 1.2,
        position_strength=1 + (rows % PER_REQUEST).float() / PER_REQUEST,
        guidance=ones * case.guidance,
        seed=zeros,
        step=zeros,
        position=rows % PER_REQUEST,
        allowed=torch.tensor([[case.allowed or (0, vocabulary)]]).expand(case.num_rows, 1, 2),
        never=torch.full_like(rows, ANY),
        request=rows // PER_REQUEST,
        seen=torch.rand(-(-case.num_rows // PER_REQUEST), vocabulary, generator=g) < 0.001,
    )


def time_sample(case: Case, vocabulary: int, device: torch.device, copy_rate: float) -> dict[str, Any]:
    g = torch.Generator(device=device).manual_seed(0)

    def logits() -> torch.Tensor:
        shape = (case.num_rows, vocabulary)
        return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 3, generator=g)

    logits_c, logits_u = logits(), logits() if case.guidance > 0 else None
    params = row_params(case, vocabulary).to(device)
    tokens, confidence = sample(logits_c, logits_u, params, impl="triton")
    expected_tokens, expected = sample(logits_c, logits_u, params, impl="reference")
    pairs = [(logits_c, logits_u)]
    for _ in range(num_uncached(logits_c.nbytes * (1 if logits_u is None else 2)) - 1 if device.type == "cuda" else 0):
        pairs.append((logits_c.clone(), None if logits_u is None else logits_u.clone()))
    calls = [partial(sample, c, u, params, impl="triton") for c, u in pairs]
    device_s = device_seconds(calls, device)
    first, stop = case.allowed or (0, vocabulary)
    read = case.num_rows * (stop - first) * logits_c.element_size() * (1 if logits_u is None else 2)
    return {
        "name": f"sample: {case.name}",
        "rows": case.num_rows,
        "device_ms": 1e3 * device_s,
        "triton_ms": milliseconds(calls[0], device),
        "reference_ms": milliseconds(lambda: sample(logits_c, logits_u, params, impl="reference"), device),
        "share_of_copy_rate": read / device_s / copy_rate,
        "tokens_differing": int((tokens != expected_tokens).sum()),
        "confidence_error": float((confidence - expected).abs().max()),
    }


def time_reveal(num_requests: int, size: int, device: torch.device) -> dict[str, Any]:
    num_rows = num_requests * size
    g = torch.Generator().manual_seed(0)
    params = RevealParams(
        request=torch.arange(num_requests).repeat_interleave(size),
        counts=torch.full((num_requests,), size // 10),
        temperature=torch.zeros(num_rows),
        uniform=torch.full((num_rows,), 0.5),
        probability=torch.full((num_rows,), BY_RANK),
    )
    there = replace(params, **{name: value.to(device) for name, value in vars(params).items()})
    confidence = -torch.rand(num_rows, generator=g).to(device)
    found, expected = (reveal(confidence, there, impl=impl) for impl in ("triton", "reference"))
    return {
        "name": f"reveal: {num_requests} x {size}",
        "rows": num_rows,
        "device_ms": 1e3 * device_seconds([lambda: reveal(confidence, there, impl="triton")], device),
        "triton_ms": milliseconds(lambda: reveal(confidence, there, impl="triton"), device),
        "reference_ms": milliseconds(lambda: reveal(confidence, there, impl="reference"), device),
        "rows_differing": int((found != expected).sum()),
    }


def main() -> int:
    chosen = chosen_device(__doc__ or "")
    if chosen is None:
        return 2
    device, is_tiny = chosen
    scale = TINY if is_tiny else PUBLISHED
    copy_rate = bytes_copied_per_second(device, scale.copied)
    results = [time_sample(case, scale.vocabulary, device, copy_rate) for case in scale.samples]
    results += [time_reveal(num_requests, size, device) for num_requests, size in scale.reveals]

    table = Table("what", "device ms", "call ms", "reference ms", "times faster", "of copy", "differing")
    for result in results:
        share = result.get("share_of_copy_rate")
        table.add_row(
            result["name"],
            f"{result['device_ms']:.4f}",
            f"{result['triton_ms']:.3f}",
            f"{result['reference_ms']:.3f}",
            f"{result['reference_ms'] / result['triton_ms']:.1f}",
            "" if share is None else f"{share:.0%}",
            str(result.get("tokens_differing", result.get("rows_differing"))),
        )
    Console().print(table)
    name = device_name(device)
    report = {"bench": "kernels", "device": name, "is_tiny": is_tiny, "copy_gb_per_s": copy_rate / 1e9}
    report["results"] = results
    if not is_tiny:
        result_file("kernels", name).write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
