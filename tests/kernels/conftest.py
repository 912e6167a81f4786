"""Where Triton kernels run: interpreted on a machine without CUDA (set before they are imported), else compiled."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if (request.param == "cuda") != torch.cuda.is_available():
        pytest.skip("kernels are interpreted without a CUDA device (make test) and compiled with one (make test-gpu)")
    return torch.device(request.param)
