"""The Python client against a server that keeps what it is sent."""

import asyncio
import base64
import subprocess
import sys
import wave
from contextlib import aclosing

import numpy as np
import pytest
from starlette.responses import JSONResponse, Response

from unmask_client import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AsyncClient,
    Audio,
    AuthenticationError,
    BadRequestError,
    Client,
    Edit,
    Generation,
    Image,
    NotFoundError,
    RateLimitError,
    ServerError,
    Span,
    UnmaskError,
    Word,
    events,
)


def refusal(status: int, **headers: str) -> Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    error = {"message": "no", "type": "t", "param": "decoding.steps", "code": "steps_out_of_range"}
    return JSONResponse({"error": error}, status, headers=names | {"x-request-id": "req_9"})


def test_a_request_is_what_the_api_describes(stub) -> None:
    picture = Image.of(np.zeros((8, 8, 3), np.uint8))
    with Client(stub.url, api_key="secret") as client:
        answer = client.generate(["what?", picture], output=["text", "audio"], seed=3, extras=["timings"], task="vqa")
    assert stub.headers[0]["authorization"] == "Bearer secret"
    assert stub.bodies == [
        {
            "input": [
                {"type": "text", "text": "what?"},
                {"type": "image", "data": base64.b64encode(picture.data).decode()},
            ],
            "output": ["text", "audio"],
            "task": "vqa",
            "return": ["timings"],
            "decoding": {"seed": 3},
        }
    ]
    assert (answer.text, answer.audio.sample_rate, answer.status) == ("a red circle", 22050, "completed")
    with pytest.raises(UnmaskError, match="no Image"):
        _ = answer.image


def test_edits_carry_their_target_and_what_may_change(stub) -> None:
    mask = np.zeros((64, 64), bool)
    mask[:, :32] = True
    with Client(stub.url) as client:
        picture = client.draw("a red circle")
        assert isinstance(client.edit(picture, "green", mask=mask), Image)
        speech = client.speak("a red circle")
        assert isinstance(client.edit(speech, "a blue circle", spans=[Span(0.1, 0.2, "blue")]), Audio)
        assert client.edit("a [MASK:1] circle", "what?", seed=1) == "a red circle"
    _, image_edit, _, speech_edit, text_edit = stub.bodies
    sent = Image(base64.b64decode(image_edit["edit"]["mask"])).pil()
    assert (sent.getpixel((0, 0))[3], sent.getpixel((63, 0))[3]) == (0, 255)  # transparent is what may change
    assert speech_edit["edit"]["spans"] == [{"start": 0.1, "end": 0.2, "text": "blue"}]
    assert text_edit == {
        "input": [{"type": "text", "text": "what?"}],
        "output": ["text"],
        "edit": {"target": {"type": "text", "text": "a [MASK:1] circle"}},
        "decoding": {"seed": 1},
    }


def test_what_belongs_together_is_one_request(stub) -> None:
    picture = Image.of(np.zeros((8, 8, 3), np.uint8))
    edits = [Edit(picture, mask=np.ones((8, 8), bool)), Edit("a [MASK:1]"), Edit(Audio)]
    with Client(stub.url) as client:
        assert client.generate(edits=edits, output=["text", "image"]).image.format == "png"
        list(client.stream(edits=edits[1:2]))
    image, text, audio = stub.bodies[0]["edit"]
    assert image["target"]["data"] == base64.b64encode(picture.data).decode()
    assert Image(base64.b64decode(image["mask"])).pil().size == (8, 8)
    assert (text, audio) == ({"target": {"type": "text", "text": "a [MASK:1]"}}, {"target": {"type": "audio"}})
    assert "input" not in stub.bodies[0]
    assert stub.bodies[1]["edit"] == text


def test_a_stream_is_typed_events_that_end_with_the_whole_answer(stub) -> None:
    with Client(stub.url) as client:
        seen = list(client.stream("hello", preview={"every_steps": 1}))
    assert stub.bodies[0]["stream"] is True
    assert seen[:4] == [
        events.Created("gen_1"),
        events.Queued(1, None),
        events.Step(1, 2, 1, 3),
        events.TokensCommitted(1, (0,), (5,), (-0.5,)),
    ]
    assert seen[4] == events.TokensGuessed(1, (1,), (6,), None)
    assert "".join(event.text for event in seen if isinstance(event, events.TextDelta)) == "a red circle"
    samples, rate = next(event.audio.samples() for event in seen if isinstance(event, events.AudioDelta))
    assert (len(samples), rate) == (2205, 22050)
    assert isinstance(seen[-2], events.Unknown)
    assert seen[-1].generation.text == "a red circle"


def test_words_tell_when_they_are_said(stub) -> None:
    words = (Word("a", 0.0, 0.02), Word("red", 0.02, 0.06))
    with Client(stub.url) as client:
        assert client.generate("hello", output=["audio"], extras=["word_timestamps"]).words == words
        assert client.generate("hello", output=["audio"]).words == ()
        seen = list(client.stream("hello", output=["audio"], extras=["word_timestamps"]))
    assert stub.bodies[2]["return"] == ["word_timestamps"]
    assert events.AudioDone(0.1, "a red circle", words) in seen
    assert seen[-1].generation.words == words


def test_words_of_a_recording_are_said_anew(stub) -> None:
    with Client(stub.url) as client:
        speech = client.speak("a red circle")
        client.edit(speech, "a blue circle", spans=[Span(words="red", text="blue")], transcript="a red circle")
    edit = stub.bodies[1]["edit"]
    assert (edit["spans"], edit["transcript"]) == ([{"words": "red", "text": "blue"}], "a red circle")


def test_a_stream_that_fails_or_breaks_off_raises(stub) -> None:
    with Client(stub.url) as client:
        with pytest.raises(APIError, match="it broke") as caught:
            list(client.stream("crash"))
        assert (caught.value.code, caught.value.status, caught.value.request_id) == ("oops", None, "req_1")
        stub.cut = True
        with pytest.raises(APIConnectionError, match="broke off"):
            list(client.stream("hello"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (404, NotFoundError),
        (413, BadRequestError),
        (429, RateLimitError),
        (503, ServerError),
    ],
)
def test_errors_are_typed_and_say_everything(stub, status, kind) -> None:
    stub.refusals.append(refusal(status))
    with Client(stub.url, max_retries=0) as client, pytest.raises(kind) as caught:
        client.draw("x")
    error = caught.value
    told = (error.message, error.status, error.code, error.param, error.request_id)
    assert told == ("no", status, "steps_out_of_range", "decoding.steps", "req_9")


def test_an_answer_of_a_proxy_is_an_error_too(stub) -> None:
    stub.refusals.append(Response("<html>Bad Gateway</html>", 502))
    with Client(stub.url, max_retries=0) as client, pytest.raises(ServerError, match="502"):
        client.draw("x")


@pytest.mark.parametrize(
    ("refusals", "tries"),
    [
        ([refusal(503, retry_after="0.01"), refusal(429, retry_after="0.01")], 3),
        ([refusal(400)], 1),
        ([refusal(503, x_should_retry="false")], 1),
        ([refusal(400, x_should_retry="true", retry_after="0.01")], 2),
        ([refusal(503, retry_after="3600")], 1),
        ([refusal(503, retry_after="0.01")] * 3, 3),
    ],
)
def test_what_is_tried_again(stub, refusals, tries) -> None:
    stub.refusals.extend(refusals)
    with Client(stub.url) as client:
        try:
            client.draw("x")
        except APIError:
            assert len(refusals) >= tries
    assert len(stub.bodies) == tries


def test_no_server_and_no_time() -> None:
    with Client("http://127.0.0.1:9", max_retries=0) as client, pytest.raises(APIConnectionError):
        client.draw("x")


def test_a_slow_server_is_not_asked_again(stub) -> None:
    stub.delay_s = 1.5
    with Client(stub.url, timeout=0.5) as client, pytest.raises(APITimeoutError):
        client.draw("x")
    assert len(stub.bodies) == 1


def test_the_async_client_is_the_same(stub) -> None:
    async def talk() -> None:
        async with AsyncClient(stub.url) as client:
            assert (await client.draw("x")).format == "png"
            assert await client.ask(Audio.of(base64.b64decode(stub.answer({"output": ["audio"]})["output"][0]["data"])))
            async with aclosing(client.stream("hello")) as stream:
                async for event in stream:
                    assert event == events.Created("gen_1")
                    break
            stub.refusals.append(refusal(401))
            with pytest.raises(AuthenticationError):
                await client.transcribe(b"RIFF")
            async with client.realtime(output="text") as session:
                assert (await session.ask("hello")).text == "a red circle"

    asyncio.run(talk())
    assert stub.bodies[1]["output"] == ["text", "audio"]  # a question in speech is answered, not transcribed


def test_a_spoken_turn(stub) -> None:
    question = Audio.from_samples(np.zeros(4800, np.int16), 48_000)
    with Client(stub.url) as client, client.realtime(instructions="Be brief.") as session:
        reply = session.ask(question)
    assert reply.text == "a red circle"
    assert reply.audio is not None
    assert len(reply.audio.data) == 2 * 2 * 2205
    types = [event["type"] for event in stub.heard]
    assert types == [
        "session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "response.create",
    ]
    assert stub.heard[0]["session"]["audio"]["input"]["turn_detection"] is None
    assert len(base64.b64decode(stub.heard[1]["audio"])) == 2 * 2400  # 0.1 s at 24 kHz


def test_what_is_asked_together_is_one_message(stub) -> None:
    picture, question = Image.of(np.zeros((2, 2, 3), np.uint8)), Audio.from_samples(np.zeros(4800, np.int16), 48_000)
    with Client(stub.url) as client, client.realtime() as session:
        session.ask("look", picture, question)
    _, created, respond = stub.heard
    assert (created["type"], respond["type"]) == ("conversation.item.create", "response.create")
    text, image, audio = created["item"]["content"]
    assert text == {"type": "input_text", "text": "look"}
    assert image["image_url"].startswith("data:image/png;base64,iVBOR")
    assert (audio["type"], len(base64.b64decode(audio["audio"]))) == ("input_audio", 2 * 2400)


def test_a_reply_is_saved_as_a_file_that_players_open(stub, tmp_path) -> None:
    with Client(stub.url) as client, client.realtime() as session:
        speech = session.ask("hello").audio
        assert speech is not None
        client.transcribe(speech)
    speech.save(tmp_path / "reply.wav")
    speech.save(str(tmp_path / "reply.pcm"))
    with wave.open(str(tmp_path / "reply.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert file.readframes(file.getnframes()) == speech.data
        assert file.getnframes() == len(speech.data) // 2 == 2 * 2205
    assert (tmp_path / "reply.pcm").read_bytes() == speech.data
    sent = base64.b64decode(stub.bodies[0]["input"][0]["data"])
    assert sent == (tmp_path / "reply.wav").read_bytes()  # a server cannot read bare samples


def test_a_refused_session(stub) -> None:
    with Client(stub.url) as client, pytest.raises(AuthenticationError, match="no key"), client.realtime(model="none"):
        pass


@pytest.mark.parametrize("is_async", [False, True])
def test_a_full_server_is_asked_for_a_session_again(stub, is_async: bool) -> None:
    stub.refusals += [refusal(503, retry_after="0.01"), refusal(503, retry_after="0.01")]

    async def talk() -> None:
        async with AsyncClient(stub.url) as client, client.realtime() as session:
            assert (await session.ask("hello")).text == "a red circle"

    if is_async:
        asyncio.run(talk())
    else:
        with Client(stub.url) as client, client.realtime() as session:
            assert session.ask("hello").text == "a red circle"
    assert not stub.refusals
    stub.refusals += [refusal(503, retry_after="0.01")] * 3
    with Client(stub.url) as client, pytest.raises(ServerError, match="no"), client.realtime():
        pass
    assert not stub.refusals  # two tries after the first


def test_media_show_themselves_in_notebooks() -> None:
    picture = Image.of(np.zeros((2, 2, 3), np.uint8))
    assert picture._repr_png_() == picture.data
    speech = Audio(b"\0\0" * 100, "pcm", sample_rate=8000)
    assert speech._repr_html_().startswith('<audio controls src="data:audio/wav;base64,UklGR')
    answer = Generation("id", "any", "any", "completed", None, ("one < two", picture, speech), raw={})
    assert answer._repr_html_() == f"<p>one &lt; two</p>{picture.html}{speech.html}"
    assert picture.html.startswith('<img src="data:image/png;base64,iVBOR')


def test_samples_survive_the_way_there_and_back() -> None:
    samples = np.linspace(-1, 1, 500, dtype=np.float32)
    back, rate = Audio.from_samples(samples, 16_000).samples()
    assert rate == 16_000
    assert np.abs(back - samples).max() < 1e-4


def test_importing_needs_neither_torch_nor_numpy_nor_pillow() -> None:
    code = "import sys, unmask_client; print({'torch', 'numpy', 'PIL', 'soxr'} & set(sys.modules))"
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {[p for p in sys.path if 'clients' in p]}; {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "set()"
