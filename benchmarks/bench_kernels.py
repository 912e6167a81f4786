"""The Triton sampler and reveal against the reference on a CUDA device: a table, then one JSON line.

    python benchmarks/bench_kernels.py

Times are medians of whole calls, checks on the host included. "of copy" is the rate at which the logits were read once,
as a share of the rate at which this device copies a large tensor. Every result is compared with the reference's first.
Also writes benchmarks/results/kernels_<device>.json.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from triton.testing import do_bench

from unmask_kernels.confidence import ALGORITHMS
from unmask_kernels.reveal import BY_RANK, RevealParams, reveal
from unmask_kernels.rows import ANY, RowParams
from unmask_kernels.sample import sample

VOCABULARY = 176_264
IMAGE_IDS = (168_072, 176_264)
COPY_BYTES = 1 << 30


@dataclass(frozen=True)
class Case:
    name: str
    num_rows: int
    guidance: float = 0.0
    temperature: float = 0.0
    is_filtered: bool = True
    allowed: tuple[int, int] = (0, VOCABULARY)


CASES = (
    Case("one row", 1),
    Case("speech, step 0", 50),
    Case("image, step 0", 260),
    Case("image, step 0, sampled", 260, temperature=1.0),
    Case("image, step 0, guidance", 260, guidance=2.0),
    Case("image, step 0, image ids only", 260, allowed=IMAGE_IDS),
    Case("8 images, step 0", 2080),
    Case("no filter", 260, is_filtered=False),
    Case("no filter, sampled", 260, temperature=1.0, is_filtered=False),
)
REVEALS = ((1, 260), (32, 260), (8, 2048))  # requests, rows of each


def milliseconds(call: Callable[[], object]) -> float:
    return float(do_bench(call, return_mode="median"))


def bytes_copied_per_second(device: torch.device) -> float:
    """Read and written bytes both count."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (milliseconds(lambda: target.copy_(source)) * 1e-3)


def row_params(case: Case) -> RowParams:
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
        position_strength=1 + (rows % 260).float() / 260,
        guidance=ones * case.guidance,
        seed=zeros,
        step=zeros,
        position=rows % 260,
        allowed=torch.tensor([[case.allowed]]).expand(case.num_rows, 1, 2),
        never=torch.full_like(rows, ANY),
        request=rows // 260,
        seen=torch.rand(-(-case.num_rows // 260), VOCABULARY, generator=g) < 0.001,
    )


def time_sample(case: Case, device: torch.device, copy_rate: float) -> dict[str, Any]:
    g = torch.Generator(device=device).manual_seed(0)

    def logits() -> torch.Tensor:
        shape = (case.num_rows, VOCABULARY)
        return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 3, generator=g)

    logits_c, logits_u = logits(), logits() if case.guidance > 0 else None
    params = row_params(case).to(device)
    tokens, confidence = sample(logits_c, logits_u, params, impl="triton")
    expected_tokens, expected = sample(logits_c, logits_u, params, impl="reference")
    triton_ms = milliseconds(lambda: sample(logits_c, logits_u, params, impl="triton"))
    width = case.allowed[1] - case.allowed[0]
    read = case.num_rows * width * logits_c.element_size() * (1 if logits_u is None else 2)
    return {
        "name": f"sample: {case.name}",
        "rows": case.num_rows,
        "triton_ms": triton_ms,
        "reference_ms": milliseconds(lambda: sample(logits_c, logits_u, params, impl="reference")),
        "share_of_copy_rate": read / (triton_ms * 1e-3) / copy_rate,
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
        "triton_ms": milliseconds(lambda: reveal(confidence, there, impl="triton")),
        "reference_ms": milliseconds(lambda: reveal(confidence, there, impl="reference")),
        "rows_differing": int((found != expected).sum()),
    }


def main() -> None:
    if not torch.cuda.is_available():
        print("bench_kernels.py needs a CUDA device, and this machine has none.", file=sys.stderr)
        raise SystemExit(2)
    device = torch.device("cuda")
    copy_rate = bytes_copied_per_second(device)
    results = [time_sample(case, device, copy_rate) for case in CASES]
    results += [time_reveal(num_requests, size, device) for num_requests, size in REVEALS]

    table = Table("what", "Triton ms", "reference ms", "times faster", "of copy", "differing")
    for result in results:
        share = result.get("share_of_copy_rate")
        table.add_row(
            result["name"],
            f"{result['triton_ms']:.3f}",
            f"{result['reference_ms']:.3f}",
            f"{result['reference_ms'] / result['triton_ms']:.1f}",
            "" if share is None else f"{share:.0%}",
            str(result.get("tokens_differing", result.get("rows_differing"))),
        )
    Console().print(table)
    name = torch.cuda.get_device_name(device)
    report = {"bench": "kernels", "device": name, "copy_gb_per_s": copy_rate / 1e9, "results": results}
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    (Path(__file__).parent / "results" / f"kernels_{slug}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
