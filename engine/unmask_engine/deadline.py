"""A deadline chooses the number of steps: fewer steps are the model's own way of being faster."""

from dataclasses import replace

from unmask_engine.state import Plan


def shortened(plan: Plan, seconds: float, step_s: float) -> Plan:
    """The plan with as many of its steps as take at most `seconds` at `step_s` each; one at least.

    The canvas is complete in any case: each step commits more.
    """
    steps = max(1, min(plan.settings.steps, int(seconds / step_s)))
    return replace(plan, settings=replace(plan.settings, steps=steps))
