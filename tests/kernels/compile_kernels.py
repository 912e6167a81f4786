"""Compiles every Triton kernel for an H100, with the arguments its launcher gives it; needs no GPU. A line a kernel.

python compile_kernels.py [float32 | float16 | bfloat16]    # the logits' and the layers'
"""

import sys
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from unmask_kernels import triton_sample, triton_whole
from unmask_kernels.reveal import RevealParams
from unmask_kernels.rows import RowParams
from unmask_kernels.triton_reveal import reveal_triton
from unmask_kernels.triton_rowwise import add_norm_triton, gate_triton, rotate_triton
from unmask_kernels.triton_support import RowArguments

TARGET = GPUTarget("cuda", 90, 32)
VOCABULARY = 176_264
TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def compile_instead(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    """Stands in for the launch of a kernel."""
    options = {name: kwargs.pop(name) for name in ("num_warps", "enable_fp_fusion") if name in kwargs}
    given = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
    is_constant = {parameter.name: parameter.is_constexpr for parameter in kernel.params}
    constants = {name: value for name, value in given.items() if is_constant[name]}
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if is_constant[name]:
            signature[name] = "constexpr"
        elif isinstance(given[name], torch.Tensor):
            signature[name] = TYPES[given[name].dtype]
            if not kernel.params[i].do_not_specialize_on_alignment:
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(given[name], float) else "i32"
    compiled = triton.compile(ASTSource(kernel, signature, constants, attributes), target=TARGET, options=options)
    assert compiled.asm["cubin"]
    print(f"{kernel.__module__}.{kernel.__name__} {compiled.metadata.shared} bytes of shared memory")


def main(logits_dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(2, dtype=torch.int64), torch.ones(2)
    params = RowParams(
        algorithm=zeros,
        temperature=ones,
        top_p=ones,
        top_k=zeros,
        repetition_penalty=ones,
        position_strength=ones,
        guidance=ones,
        seed=zeros,
        step=zeros,
        position=zeros,
        allowed=torch.zeros(2, 2, 2, dtype=torch.int64),
        never=zeros,
        request=zeros,
        seen=torch.zeros(1, VOCABULARY, dtype=torch.bool),
    )
    logits = torch.zeros(2, VOCABULARY, dtype=logits_dtype)
    arguments = RowArguments.of(logits, logits, params)
    with (
        patch.object(JITFunction, "run", compile_instead),
        patch("unmask_kernels.triton_reveal.require_device"),
        patch("unmask_kernels.triton_rowwise.require_device"),
    ):
        tokens, confidence, is_settled = triton_sample._sample_settled(arguments, params)
        triton_whole.sample_whole(arguments, params, is_settled, tokens, confidence)
        reveal_triton(ones, RevealParams(zeros, zeros, ones, ones, ones))
        x, table = torch.zeros(2, 3584, dtype=logits_dtype), torch.zeros(2, 1, 128)
        add_norm_triton(x, x, x[0], 1e-6, zeros)
        rotate_triton(x.view(2, 28, 128), torch.zeros(2, 4, 128, dtype=logits_dtype), table, table, zeros)
        gate_triton(x, x)


if __name__ == "__main__":
    main(getattr(torch, sys.argv[1]))
