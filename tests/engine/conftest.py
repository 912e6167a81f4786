"""One thread a process: on few and busy cores torch's threads wait for one another far longer than they work.

Triton's kernels are interpreted on a machine without CUDA; that must be said before they are imported.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
