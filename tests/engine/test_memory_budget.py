"""What a device that was out of memory takes afterwards."""

import torch

from unmask_engine.loop import Job, Loop
from unmask_engine.scheduler import Policy
from unmask_engine.settings import Settings
from unmask_engine.state import DecodingState, Plan, canvas_of, unconstrained
from unmask_engine.testing_fakes import MixingModel

VOCABULARY, MASK = 61, 60


class Short(MixingModel):
    """Out of memory once, however little is asked for: something else had it."""

    is_short = True

    def forward_packed(self, *args: object) -> torch.Tensor:
        if self.is_short:
            self.is_short = False
            raise torch.OutOfMemoryError("too much")
        return super().forward_packed(*args)  # type: ignore[arg-type]


def test_the_budget_recovers_however_small_it_was() -> None:
    model = Short(VOCABULARY)

    def job(length: int) -> Job:
        canvas = canvas_of(length, MASK)
        allowed = unconstrained(canvas, ((0, VOCABULARY),))
        prompt = model.embed(torch.tensor([1]))
        return Job(DecodingState(Plan(Settings(steps=length), prompt, None, canvas, allowed, MASK, None)))

    loop = Loop(model, Policy(token_budget=64))
    first = job(4)
    loop.add(first)
    assert loop.step() == [first]
    assert isinstance(first.error, torch.OutOfMemoryError)
    assert loop.num_steps == loop.num_tokens == 0
    assert loop._fitting < 16
    for _ in range(3):
        loop.add(job(40))
        while len(loop):
            loop.step()
    assert loop._fitting == 64
