"""An engine as the routes see it: requests in, events out. Here it is bridge.py, behind Ray ray_engine.py."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unmask_engine.request import Generation, GenerationRequest, ImagePart, Progress
from unmask_server.engine_protocol import Description


@dataclass(frozen=True)
class Admitted:
    """The request is in the engine: whatever could be wrong with it is not."""

    queue_ms: float


@dataclass(frozen=True)
class Queued:
    """All places are taken; so many requests go first."""

    position: int


@dataclass(frozen=True)
class Spoken:
    """The next samples of the answer's speech."""

    samples: NDArray[np.float32]
    sample_rate: int


@dataclass(frozen=True)
class Preview:
    """The picture as it looked after a step."""

    step: int
    image: ImagePart


@dataclass(frozen=True)
class Finished:
    """The answer; the last event. Its speech is whole, what was spoken before included."""

    generation: Generation
    queue_ms: float


Event = Queued | Admitted | Progress | Spoken | Preview | Finished


@dataclass(frozen=True)
class Wants:
    """What a caller follows while the answer is made, besides the answer."""

    progress: bool = False
    speech: bool = False
    preview_every: int = 0  # steps; 0 draws no previews
    num_previews: int = 0  # spread evenly over the steps that are planned

    def is_preview_due(self, step: int, steps: int) -> bool:
        """After `step` of `steps`; the picture itself comes after the last one."""
        parts = self.num_previews + 1
        is_share_done = step < steps and step * parts // steps > (step - 1) * parts // steps
        return is_share_done or (self.preview_every > 0 and step % self.preview_every == 0)


class Served(Protocol):
    """What is loaded."""

    @property
    def name(self) -> str:
        """The bundle's."""

    @property
    def bundle(self) -> Description: ...


class EngineClient(Protocol):
    """Belongs to the event loop, but for `stop`, which blocks."""

    @property
    def is_alive(self) -> bool:
        """False once it has failed for good."""

    @property
    def num_waiting(self) -> int: ...

    @property
    def num_running(self) -> int: ...

    @property
    def tokens_in_flight(self) -> int: ...

    @property
    def engine(self) -> Served:
        """Raises ServerError while it is not ready."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    async def generate(self, request: GenerationRequest, interactive: bool = False) -> Finished:
        """Waits for a turn and the answer. Cancelling the wait frees the request's place or its rows."""

    def stream(self, request: GenerationRequest, wants: Wants, interactive: bool = False) -> AsyncGenerator[Event]:
        """The request's events, Finished last; raises what went wrong. Closing it frees the place or the rows."""
