"""Triton's kernels are interpreted on a machine without CUDA; that must be said before they are imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
