"""An engine in a process of its own, as Ray Serve starts it: once a GPU."""

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

from unmask_engine.preset import Preset
from unmask_engine.request import GenerationRequest, RequestError
from unmask_server.bridge import EngineThread
from unmask_server.engine_client import Event, Wants
from unmask_server.engine_protocol import GenerationEngine
from unmask_server.errors import NO_RETRY, ServerError
from unmask_server.logs import configure_logs
from unmask_server.metrics import Metrics
from unmask_server.settings import Settings
from unmask_server.status import unmask_version

log = logging.getLogger("unmask")

LOOK_AGAIN_S = 0.05


@dataclass(frozen=True)
class Failed:
    """The last event of a request that failed: errors travel as values, as Ray would wrap what is raised."""

    error: RequestError | ServerError


@dataclass(frozen=True)
class Presets:
    presets: Sequence[Preset]


@dataclass(frozen=True)
class Loaded:
    """What is served; sent to the ingress once."""

    name: str
    bundle: Presets


class EngineReplica:
    """Takes as many requests at a time as it decodes together; those that wait, wait in the ingress."""

    def __init__(self, settings: Settings, load: Callable[[Settings], GenerationEngine]) -> None:
        configure_logs(settings.log_level, settings.log_format)
        # How long a request may take counts from its arrival, and that is in the ingress.
        own = replace(settings, request_timeout=0.0)
        self._thread = EngineThread(lambda: load(own), own, Metrics(unmask_version()), on_crash=lambda: None)
        self._thread.start()
        while not self._thread.is_ready:  # Ray sends no requests before this is over
            self.check_health()
            time.sleep(LOOK_AGAIN_S)

    def describe(self) -> Loaded:
        engine = self._thread.engine
        return Loaded(engine.name, Presets(tuple(engine.bundle.presets)))

    async def stream(
        self, request: GenerationRequest, wants: Wants, interactive: bool
    ) -> AsyncGenerator[Event | Failed]:
        """The events of a request, then Finished or Failed. Cancelled with the request it is part of."""
        try:
            async with contextlib.aclosing(self._thread.stream(request, wants, interactive)) as events:
                async for event in events:
                    yield event
        except (RequestError, ServerError) as error:
            yield Failed(error)
        except Exception:
            log.exception("a request failed")
            message = "The server failed on this request; the log of its engine has the reason."
            yield Failed(ServerError(500, message, "internal_error", NO_RETRY))

    def check_health(self) -> None:
        """Ray puts another one in the place of a replica for which this raises."""
        if not self._thread.is_alive:
            raise RuntimeError("the engine has failed; the log says why")

    def __del__(self) -> None:
        self._thread.stop()
