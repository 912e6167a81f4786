"""How many binaries each Triton kernel of the sampler and of reveal needs, for steps of 1 to 33 rows; needs no GPU.

A line a kernel. The arguments are an engine's: slices of one tensor, as `Batch` sends them.
"""

from collections import defaultdict
from typing import Any
from unittest.mock import patch

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from unmask_kernels import triton_sample, triton_whole
from unmask_kernels.reveal import RevealParams
from unmask_kernels.rows import RowParams
from unmask_kernels.triton_reveal import reveal_triton
from unmask_kernels.triton_support import RowArguments

VOCABULARY = 4096
BACKEND = make_backend(GPUTarget("cuda", 90, 32))
binaries: dict[str, set[str]] = defaultdict(set)


def note_binary(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    """Stands in for the launch of a kernel."""
    bind = create_function_from_signature(kernel.signature, kernel.params, BACKEND)
    _, specialization, options = bind(*args, **kwargs)
    binaries[kernel.__name__].add(str((specialization, options)))


def take_step(num_rows: int) -> None:
    integers = torch.zeros(5, num_rows, dtype=torch.int64)
    reals = torch.ones(7, num_rows)
    algorithm, top_k, seed, step, never = integers
    temperature, top_p, repetition_penalty, position_strength, guidance, uniform, probability = reals
    params = RowParams(
        algorithm=algorithm,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        position_strength=position_strength,
        guidance=guidance,
        seed=seed,
        step=step,
        position=integers[0],
        allowed=torch.zeros(num_rows, 1, 2, dtype=torch.int64),
        never=never,
        request=integers[1],
        seen=torch.zeros(1, VOCABULARY, dtype=torch.bool),
    )
    arguments = RowArguments.of(torch.zeros(num_rows, VOCABULARY, dtype=torch.bfloat16), None, params)
    tokens, confidence, is_settled = triton_sample._sample_settled(arguments, params)
    triton_whole.sample_whole(arguments, params, is_settled, tokens, confidence)
    reveal_triton(confidence, RevealParams(integers[1], integers[4, :1], temperature, uniform, probability))


if __name__ == "__main__":
    with patch.object(JITFunction, "run", note_binary), patch("unmask_kernels.triton_reveal.require_device"):
        for num_rows in range(1, 34):
            take_step(num_rows)
    for name, needed in binaries.items():
        print(name, len(needed))
