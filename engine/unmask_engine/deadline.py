"""A deadline chooses the number of steps: fewer steps are the model's own way of being faster."""

import math
from dataclasses import replace

from unmask_engine.state import Plan


def shortened(plan: Plan, seconds: float, step_s: float) -> Plan:
    """The plan with as many of its steps as take at most `seconds` at `step_s` each; one at least.

    The canvas is complete in any case: each step commits more. Each block takes a step, so where there are more blocks
    than steps they become larger.
    """
    settings, num_steps = plan.settings, plan.settings.steps
    if seconds < num_steps * step_s:
        num_steps = int(seconds / step_s) if seconds > step_s else 1
    short = replace(plan, settings=replace(settings, steps=num_steps))
    if settings.block_size is None or short.steps <= num_steps:
        return short
    block_size = max(settings.block_size, math.ceil(len(plan.canvas) / num_steps))
    return replace(plan, settings=replace(settings, steps=num_steps, block_size=block_size))
