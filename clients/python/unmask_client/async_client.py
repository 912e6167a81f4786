"""The client for asyncio; the same as Client, awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, Self, TypeVar, Unpack

import httpx

from unmask_client import generation
from unmask_client.connection import CONNECT_TIMEOUT_S, GENERATE, Connection
from unmask_client.errors import UnmaskError, connection_error, error_of_answer
from unmask_client.events import Event, EventReader
from unmask_client.generation import Call, Decoding, E, Edit, Generation, Input, Message, Output, Span, read_generation
from unmask_client.media import Audio, AudioLike, Image, ImageLike
from unmask_client.realtime import AsyncRealtimeSession, open_async_session, session_settings
from unmask_client.retry import wait_before_retry

T = TypeVar("T")


class AsyncClient:
    """Keeps its connections open until it is closed. Every method raises UnmaskError."""

    def __init__(
        self,
        base_url: str = Connection.base_url,
        *,
        api_key: str | None = None,
        timeout: float = Connection.timeout,
        max_retries: int = Connection.max_retries,
    ) -> None:
        self._connection = Connection(base_url, api_key, timeout, max_retries)
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=self._connection.headers,
            timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT_S),
        )

    async def generate(
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
        return await self._run(
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

    async def stream(
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
    ) -> AsyncGenerator[Event]:
        """To cancel the request at once when the loop is left early, wrap this in contextlib.aclosing."""
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
        async with self._answering({**call.body, "stream": True}) as response:
            reader = EventReader(response.headers.get("x-request-id"))
            async for line in response.aiter_lines():
                if (event := reader.read(line)) is not None:
                    yield event
            reader.end()

    async def transcribe(self, audio: AudioLike, **decoding: Unpack[Decoding]) -> str:
        return await self._run(generation.transcribe(audio, decoding))

    async def speak(
        self, text: str, *, format: str = "wav", voice: str = "default", **decoding: Unpack[Decoding]
    ) -> Audio:
        return await self._run(generation.speak(text, format, voice, decoding))

    async def draw(self, prompt: str | Audio, *, format: str = "png", **decoding: Unpack[Decoding]) -> Image:
        return await self._run(generation.draw(prompt, format, decoding))

    async def ask(self, question: str | Audio, *, image: ImageLike | None = None, **decoding: Unpack[Decoding]) -> str:
        return await self._run(generation.ask(question, image, decoding))

    async def chat(self, messages: Sequence[Message], **decoding: Unpack[Decoding]) -> str:
        return await self._run(generation.chat(messages, decoding))

    async def edit(
        self,
        target: E,
        input: Input,
        *,
        mask: ImageLike | None = None,
        spans: Sequence[Span] = (),
        transcript: str | None = None,
        **decoding: Unpack[Decoding],
    ) -> E:
        return await self._run(generation.edit(target, input, mask, spans, transcript, decoding))

    @asynccontextmanager
    async def realtime(
        self,
        *,
        instructions: str = "",
        output: Literal["audio", "text"] = "audio",
        turn_detection: bool = False,
        model: str | None = None,
    ) -> AsyncIterator[AsyncRealtimeSession]:
        async with open_async_session(self._connection, model) as session:
            await session.send("session.update", session=session_settings(instructions, output, turn_detection))
            yield session

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, call: Call[T]) -> T:
        async with self._answering(call.body) as response:
            await response.aread()
            return call.result(read_generation(response.json()))

    @asynccontextmanager
    async def _answering(self, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        response = await self._opened(body)
        try:
            yield response
        except httpx.TransportError as error:
            raise connection_error(error) from error
        finally:
            await response.aclose()

    async def _opened(self, body: Mapping[str, Any]) -> httpx.Response:
        """A response with a good status, its body not read yet."""
        attempt = 0
        while True:
            problem: UnmaskError
            try:
                response = await self._http.send(self._http.build_request("POST", GENERATE, json=body), stream=True)
                if response.is_success:
                    return response
                problem = error_of_answer(response.status_code, response.headers, await response.aread())
                wait = wait_before_retry(attempt, response.status_code, response.headers)
                await response.aclose()
            except httpx.TimeoutException as error:
                raise connection_error(error) from error
            except httpx.TransportError as error:
                problem = connection_error(error)
                wait = wait_before_retry(attempt)
            if wait is None or attempt >= self._connection.max_retries:
                raise problem
            await asyncio.sleep(wait)
            attempt += 1
