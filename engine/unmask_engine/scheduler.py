"""Which requests share the next step. A pure function of what is left to do and how long each has waited.

A request's remaining work is known, so the shortest goes first: mean latency is lowest that way, and what is nearly
done does not stand behind what has just begun. Company makes a step longer for everyone once there are enough tokens
to keep the machine busy, so a short request takes along only what is cheap or about as short as itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    token_budget: int = 2048  # rows of one forward pass; a request that is larger runs alone
    knee: int = 160  # rows up to which a step takes hardly longer for having more
    company: float = 2.0  # a request shares a long step with others of at most so many times its remaining work
    ageing: float = 0.5  # seconds of remaining work that a second of waiting outweighs
    head_start_s: float = 10.0  # of interactive requests before the others


@dataclass(frozen=True)
class Load:
    """What the scheduler knows of a request."""

    tokens: int  # rows of its forward pass
    steps: int  # left
    waited_s: float  # since it arrived
    interactive: bool = False

    @property
    def work(self) -> int:
        return self.tokens * self.steps


def choose(loads: Sequence[Load], seconds_per_token: float, policy: Policy) -> list[int]:
    """Indices of the requests that run together, most urgent first; at least one if there are any."""

    def urgency(i: int) -> tuple[float, int]:
        load = loads[i]
        head_start = policy.head_start_s if load.interactive else 0.0
        return load.work * seconds_per_token - policy.ageing * load.waited_s - head_start, i

    order = sorted(range(len(loads)), key=urgency)
    chosen = order[:1]
    total = sum(loads[i].tokens for i in chosen)
    for i in order[1:]:
        load, first = loads[i], loads[chosen[0]]
        would_be = total + load.tokens
        is_like_the_first = load.work <= policy.company * first.work and load.interactive >= first.interactive
        if would_be <= policy.token_budget and (would_be <= policy.knee or is_like_the_first):
            chosen.append(i)
            total = would_be
    return chosen
