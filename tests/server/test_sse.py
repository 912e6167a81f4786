"""Framing, keep-alive and failure of streams, and what waits for a slow reader."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from unmask_engine.request import RequestError
from unmask_server import sse
from unmask_server.mailbox import MAX_UNREAD, Mailbox


def body_of(
    events: AsyncGenerator[bytes], leave_after: int | None = None, sent: list[bytes] | None = None
) -> list[bytes]:
    """What a response made of the events sends, also into `sent` while it does; to who leaves after so many pieces."""
    sent = [] if sent is None else sent

    async def receive() -> Message:
        while leave_after is None or len(sent) < leave_after:
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.extend([message["body"]] if message.get("body") else [])

    asyncio.run(sse.sse_response(events)({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send))
    return sent


def test_an_event_is_one_ascii_line() -> None:
    assert sse.event({"type": "x", "text": "a\nb\u2028é"}) == b'data: {"type":"x","text":"a\\nb\\u2028\\u00e9"}\n\n'
    assert sse.event({}, "ping") == b"event: ping\ndata: {}\n\n"
    with pytest.raises(ValueError, match="JSON"):
        sse.event({"confidence": float("nan")})


def test_silence_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.02)

    sent: list[bytes] = []

    async def events() -> AsyncGenerator[bytes]:
        yield b"first"
        while len(sent) < 3:
            await asyncio.sleep(0.01)
        yield b"last"

    first, *silence, last = body_of(events(), sent=sent)
    assert (first, last) == (b"first", b"last")
    assert len(silence) >= 2
    assert set(silence) == {b": keep-alive\n\n"}


def test_a_mistake_found_on_the_way_keeps_its_param() -> None:
    async def events() -> AsyncGenerator[bytes]:
        yield b"first"
        raise RequestError("no", param="input", code="bad")

    first, error, done = body_of(events())
    assert b'"type":"invalid_request_error","param":"input","code":"bad"' in error
    assert (first, done) == (b"first", b"data: [DONE]\n\n")


def test_who_leaves_closes_the_events() -> None:
    closed: list[bool] = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"first"
            await asyncio.sleep(3600)
        finally:
            closed.append(True)

    async def chained() -> AsyncGenerator[bytes]:
        async for item in await sse.begun(events()):
            yield item

    assert body_of(chained(), leave_after=1) == [b"first"]
    assert closed == [True]


def test_a_full_mailbox_merges_and_keeps_the_order() -> None:
    async def run() -> None:
        mailbox = Mailbox[list[int]](lambda old, new: old + new if len(old) < 3 else None)
        for i in range(MAX_UNREAD + 5):
            mailbox.put([i])
        read = [await mailbox.get() for _ in range(len(mailbox))]
        assert sorted(i for item in read for i in item) == list(range(MAX_UNREAD + 5))
        assert len(read) == MAX_UNREAD
        mailbox.put([7])
        assert await mailbox.get() == [7]

    asyncio.run(run())
