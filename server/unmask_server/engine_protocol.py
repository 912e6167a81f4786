"""What the server asks of an engine; `unmask_engine.engine.Engine` is one, and tests bring their own."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from unmask_engine.preset import Preset
from unmask_engine.request import AudioPart, Generation, GenerationRequest, ImagePart, Progress
from unmask_engine.work import Work


class Description(Protocol):
    @property
    def presets(self) -> Sequence[Preset]: ...


class Running(Protocol):
    """A request in the engine."""

    @property
    def error(self) -> Exception | None:
        """Why it could not be decoded."""


class GenerationEngine(Protocol):
    """What the server asks of an engine. All but `answer` is called on the engine thread only."""

    @property
    def name(self) -> str: ...

    @property
    def bundle(self) -> Description: ...

    @property
    def work(self) -> Work: ...

    def prepare(self, request: GenerationRequest, waited_ms: float = 0.0) -> Any:
        """Raises RequestError for a request that cannot be decoded."""

    def submit(
        self, prepared: Any, on_progress: Callable[[Progress], None] | None = None, interactive: bool = False
    ) -> Any:
        """What `prepare` returned takes part from the next step on; -> Running."""

    def cancel(self, running: Any) -> None:
        """Takes a Running out."""

    def probe(self) -> None:
        """Raises what a lost device raises; does nothing where only a request failed."""

    def step(self) -> Sequence[Any]:
        """Decodes one step; the Running that are finished by it or have failed."""

    def speak(self, running: Any, codes: Sequence[int]) -> AudioPart:
        """The sound that becomes known by these first codes of a Running's speech; on the media thread."""

    def draw(self, codes: Sequence[int]) -> ImagePart:
        """The picture of image codes; on the media thread."""

    def answer(self, running: Any) -> Generation:
        """The media of a Running that has left; on the media thread."""
