"""What large media took of the memory goes back to the system; glibc would keep it for whoever comes next."""

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Takes some milliseconds. Does nothing where the C library has no `malloc_trim`."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
