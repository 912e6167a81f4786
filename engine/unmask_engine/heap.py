"""Which memory goes back to the system: what large media took, and not what the next step takes again."""

import ctypes
from functools import cache
from typing import Any, Final

M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h
M_MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 128 * 2**20
LARGEST_KEPT_BYTES: Final = 32 * 2**20  # of one block; glibc takes no more


def give_back() -> None:
    """Takes some milliseconds. Does nothing where the C library has no `malloc_trim`."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


def keep() -> None:
    """glibc would give a step's tensors back after it and get them anew: 2,000 page faults, 8 ms, for each picture."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
