"""One thread a process: on few and busy cores torch's threads wait for one another far longer than they work."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
