"""Files that are there whole or not at all: the recipe takes a file for the sign that its part is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write: at the end it becomes `path`. What a killed process leaves has another name."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    partial.replace(path)


def save_weights(weights: Any, path: Path) -> None:
    with whole(path) as partial:
        torch.save(weights, partial)


def save_arrays(path: Path, **arrays: Any) -> None:
    with whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)
