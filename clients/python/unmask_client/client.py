"""The client that waits for its answers."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar, Unpack

import httpx

from unmask_client import generation
from unmask_client.connection import CONNECT_TIMEOUT_S, GENERATE, Connection
from unmask_client.errors import UnmaskError, connection_error, error_of_answer
from unmask_client.events import Event, EventReader
from unmask_client.generation import Call, Decoding, E, Edit, Generation, Input, Message, Output, Span, read_generation
from unmask_client.media import Audio, AudioLike, Image, ImageLike
from unmask_client.realtime import RealtimeSession, open_session, session_settings
from unmask_client.retry import wait_before_retry

T = TypeVar("T")


class Client:
    """Thread-safe; keeps its connections open until it is closed. Every method raises UnmaskError."""

    def __init__(
        self,
        base_url: str = Connection.base_url,
        *,
        api_key: str | None = None,
        timeout: float = Connection.timeout,
        max_retries: int = Connection.max_retries,
    ) -> None:
        self._connection = Connection(base_url, api_key, timeout, max_retries)
        self._http = httpx.Client(
            base_url=base_url,
            headers=self._connection.headers,
            timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT_S),
        )

    def generate(
        self,
        input: Input | None = None,
        *,
        messages: Sequence[Message] | None = None,
        output: Sequence[Output] | None = None,
        task: str | None = None,
        instructions: str | None = None,
        model: str | None = None,
        extras: Sequence[str] | None = None,
        edits: Sequence[Edit] = (),
        **decoding: Unpack[Decoding],
    ) -> Generation:
        """Anything to anything. `output` lists text, audio, image; `extras` is the API's `return`.

        `edits` are a picture, words and speech that belong together, one of each at most, each with something missing.
        """
        return self._run(
            generation.generate(
                input,
                messages=messages,
                output=output,
                task=task,
                instructions=instructions,
                model=model,
                extras=extras,
                edits=edits,
                decoding=decoding,
            )
        )

    def stream(
        self,
        input: Input | None = None,
        *,
        messages: Sequence[Message] | None = None,
        output: Sequence[Output] | None = None,
        task: str | None = None,
        instructions: str | None = None,
        model: str | None = None,
        extras: Sequence[str] | None = None,
        edits: Sequence[Edit] = (),
        preview: Mapping[str, Any] | None = None,
        **decoding: Unpack[Decoding],
    ) -> Generator[Event]:
        """The same, as it comes: events of unmask_client.events. Leaving the loop cancels the request."""
        call = generation.generate(
            input,
            messages=messages,
            output=output,
            task=task,
            instructions=instructions,
            model=model,
            extras=extras,
            edits=edits,
            preview=preview,
            decoding=decoding,
        )
        with self._answering({**call.body, "stream": True}) as response:
            reader = EventReader(response.headers.get("x-request-id"))
            for line in response.iter_lines():
                if (event := reader.read(line)) is not None:
                    yield event
            reader.end()

    def transcribe(self, audio: AudioLike, **decoding: Unpack[Decoding]) -> str:
        return self._run(generation.transcribe(audio, decoding))

    def speak(self, text: str, *, format: str = "wav", voice: str = "default", **decoding: Unpack[Decoding]) -> Audio:
        return self._run(generation.speak(text, format, voice, decoding))

    def draw(self, prompt: str | Audio, *, format: str = "png", **decoding: Unpack[Decoding]) -> Image:
        """From a description, written or spoken."""
        return self._run(generation.draw(prompt, format, decoding))

    def ask(self, question: str | Audio, *, image: ImageLike | None = None, **decoding: Unpack[Decoding]) -> str:
        """The answer to a question, written or spoken, with a picture or without."""
        return self._run(generation.ask(question, image, decoding))

    def chat(self, messages: Sequence[Message], **decoding: Unpack[Decoding]) -> str:
        """The answer to a dialogue of {"role", "content"}."""
        return self._run(generation.chat(messages, decoding))

    def edit(
        self,
        target: E,
        input: Input,
        *,
        mask: ImageLike | None = None,
        spans: Sequence[Span] = (),
        transcript: str | None = None,
        **decoding: Unpack[Decoding],
    ) -> E:
        """`target` with a part of it made anew: what `mask` uncovers of a picture, `spans` of a recording, the holes
        [MASK:n] of a text. All else comes back unchanged. `input` is what to make the whole from, as for `generate`;
        `transcript` is what the recording says now, for spans of its words."""
        return self._run(generation.edit(target, input, mask, spans, transcript, decoding))

    @contextmanager
    def realtime(
        self,
        *,
        instructions: str = "",
        output: Literal["audio", "text"] = "audio",
        turn_detection: bool = False,
        model: str | None = None,
    ) -> Iterator[RealtimeSession]:
        """A spoken dialogue. Without `turn_detection` the caller says when it is the model's turn."""
        with open_session(self._connection, model) as session:
            session.send("session.update", session=session_settings(instructions, output, turn_detection))
            yield session

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        with self._answering(call.body) as response:
            response.read()
            return call.result(read_generation(response.json()))

    @contextmanager
    def _answering(self, body: Mapping[str, Any]) -> Iterator[httpx.Response]:
        response = self._opened(body)
        try:
            yield response
        except httpx.TransportError as error:
            raise connection_error(error) from error
        finally:
            response.close()

    def _opened(self, body: Mapping[str, Any]) -> httpx.Response:
        """A response with a good status, its body not read yet."""
        attempt = 0
        while True:
            problem: UnmaskError
            try:
                response = self._http.send(self._http.build_request("POST", GENERATE, json=body), stream=True)
                if response.is_success:
                    return response
                problem = error_of_answer(response.status_code, response.headers, response.read())
                wait = wait_before_retry(attempt, response.status_code, response.headers)
                response.close()
            except httpx.TimeoutException as error:
                raise connection_error(error) from error
            except httpx.TransportError as error:
                problem = connection_error(error)
                wait = wait_before_retry(attempt)
            if wait is None or attempt >= self._connection.max_retries:
                raise problem
            time.sleep(wait)
            attempt += 1
