"""What an engine has done and has in hand, as plain numbers for whoever watches it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    steps: int = 0  # since it was loaded
    tokens: int = 0  # rows of all its forward passes
    tokens_in_flight: int = 0  # rows of one forward pass of everything that runs
