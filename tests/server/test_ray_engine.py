"""The engines of a cluster seen from the ingress: what is tried again, what is refused, what ends with an error."""

import asyncio
import warnings
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from unmask_engine.request import (
    Generation,
    GenerationRequest,
    Progress,
    RequestError,
    TextPart,
    Timings,
    Tokens,
    Usage,
)
from unmask_server.drain import Drain
from unmask_server.engine_client import Admitted, Event, Finished, Queued, Wants
from unmask_server.errors import ServerError
from unmask_server.metrics import Metrics
from unmask_server.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")

from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from unmask_server.ray_app import _settings
from unmask_server.ray_engine import RayEngine
from unmask_server.ray_replica import Failed, Loaded, Presets

REQUEST = GenerationRequest((TextPart("hello"),), ("text",))
NOTHING = Tokens((), (), ())
PROGRESS = Progress(1, 2, 1, 2, NOTHING, NOTHING, "hel", (), ())
ANSWER = Generation(
    "fake", (1,), (0.0,), "hello", None, None, False, Usage({"text": 1}, {"text": 1}, 2, 2), Timings(0.0, 0.0, 0.0)
)
FINISHED = Finished(ANSWER, 0.0)
DIED = ActorDiedError()
HANGS = "hangs"


@dataclass
class Call:
    """An async iterator over what a replica says: events, exceptions that are raised, or nothing any more."""

    script: Sequence[Any]
    cancelled: bool = False
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self._events = self._run()

    async def _run(self) -> AsyncGenerator[Any]:
        for item in self.script:
            if isinstance(item, BaseException):
                self.error = item
                raise item
            if item is HANGS:
                await asyncio.Event().wait()
            yield item

    async def __anext__(self) -> Any:
        return await anext(self._events)

    def cancel(self) -> None:
        if self.error is not None:  # as Ray does
            raise self.error
        self.cancelled = True


@dataclass
class Handle:
    """As Ray's: each call goes to the next replica."""

    scripts: list[Sequence[Any]]
    calls: list[Call] = field(default_factory=list)

    def options(self, stream: bool) -> "Handle":
        assert stream
        return self

    @property
    def stream(self) -> "Handle":
        return self

    def remote(self, request: GenerationRequest, wants: Wants, interactive: bool) -> Call:
        self.calls.append(Call(self.scripts[len(self.calls)]))
        return self.calls[-1]


def engine(*scripts: Sequence[Any], **settings: Any) -> tuple[RayEngine, Handle]:
    handle = Handle(list(scripts))
    made = RayEngine(handle, Settings(**settings), Metrics("0"), Drain(), "unmask")
    made._loaded = Loaded("fake", Presets(()))
    return made, handle


def told(made: RayEngine) -> list[Event]:
    async def run() -> list[Event]:
        return [event async for event in made.stream(REQUEST, Wants(progress=True))]

    return asyncio.run(run())


@pytest.mark.parametrize(
    "loss",
    [
        DIED,
        Failed(ServerError(503, "The engine has crashed.", "not_ready")),
        Failed(ServerError(500, "", "engine_failed")),
    ],
)
def test_a_request_whose_engine_is_lost_is_sent_to_another_one(loss: Any) -> None:
    made, handle = engine([Queued(1), Admitted(1.0), loss], [Admitted(2.0), PROGRESS, FINISHED])
    assert told(made) == [Queued(1), Admitted(1.0), PROGRESS, FINISHED]
    assert len(handle.calls) == 2
    assert (made.num_waiting, made.num_running) == (0, 0)


def test_it_is_sent_so_once() -> None:
    made, handle = engine([Admitted(1.0), DIED], [DIED], [FINISHED])
    with pytest.raises(ServerError) as caught:
        told(made)
    assert (caught.value.status, caught.value.code) == (503, "engine_lost")
    assert len(handle.calls) == 2


def test_what_has_begun_to_be_answered_is_not_sent_again() -> None:
    made, handle = engine([Admitted(1.0), PROGRESS, DIED], [FINISHED])
    with pytest.raises(ServerError, match="engine was lost"):
        told(made)
    assert len(handle.calls) == 1


def test_an_end_without_an_answer_is_a_loss() -> None:
    made, handle = engine([Admitted(1.0)], [Admitted(1.0), FINISHED])
    assert told(made)[-1] == FINISHED
    assert len(handle.calls) == 2


def test_a_full_queue_is_a_503_in_place_of_the_first_event() -> None:
    made, _ = engine([BackPressureError(num_queued_requests=3, max_queued_requests=3)], max_queue=3)
    with pytest.raises(ServerError, match="3 requests are waiting") as caught:
        told(made)
    assert (caught.value.status, caught.value.code, caught.value.headers["retry-after"]) == (503, "overloaded", "1")


def test_the_callers_mistake_stays_one() -> None:
    made, handle = engine([Failed(RequestError("no", param="task", code="task_unknown"))])
    with pytest.raises(RequestError) as caught:
        told(made)
    assert (caught.value.param, caught.value.code) == ("task", "task_unknown")
    assert len(handle.calls) == 1


def test_a_slow_answer_is_given_up_and_its_work_cancelled() -> None:
    made, handle = engine([Admitted(0.0), HANGS], request_timeout=0.3)
    with pytest.raises(ServerError) as caught:
        told(made)
    assert caught.value.code == "request_timeout"
    assert handle.calls[0].cancelled


def test_whoever_leaves_frees_the_rows() -> None:
    made, handle = engine([Admitted(0.0), HANGS])

    async def run() -> None:
        events = made.stream(REQUEST, Wants())
        assert await anext(events) == Admitted(0.0)
        assert (made.num_waiting, made.num_running) == (0, 1)
        await events.aclose()

    asyncio.run(run())
    assert handle.calls[0].cancelled
    assert (made.num_waiting, made.num_running) == (0, 0)


def test_before_the_first_load_there_is_no_engine() -> None:
    made = RayEngine(Handle([]), Settings(), Metrics("0"), Drain(), "unmask")
    with pytest.raises(ServerError) as caught:
        told(made)
    assert (caught.value.status, caught.value.code) == (503, "not_ready")


def test_a_config_file_names_the_settings_as_the_command_line_does() -> None:
    made = _settings({"model": "tiny", "max-engines": 4, "shutdown-timeout": 5, "api-key": ["k"], "ray": True})
    assert (made.model, made.max_engines, made.shutdown_timeout, made.api_keys) == ("tiny", 4, 5.0, ("k",))
    for wrong in ({"max_engines": 4}, {"max-engines": "4"}, {"api-key": "k"}):
        with pytest.raises(Exception, match=r"max_engines|max-engines|api-key"):
            _settings(wrong)


def test_the_config_file_that_ships_is_one() -> None:
    import yaml
    from ray.serve.schema import ServeDeploySchema

    file = Path(__file__).parent.parent.parent / "docker" / "serve.yaml"
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))).applications
    assert application.import_path == "unmask_server.ray_app:build"
    assert _settings(application.args).max_engines == 8
