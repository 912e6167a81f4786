"""The built-in model and Silero: a question asked aloud is answered aloud, and who is interrupted stops."""

import base64
import time

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from unmask_engine.engine import Engine
from unmask_engine.media import resample
from unmask_engine.request import AudioPart, Decoding, GenerationRequest, TextPart
from unmask_server.realtime.dialogue import SPEECH_BLOCK

pytestmark = pytest.mark.slow  # loads the model and decodes some answers

SLOW_STEP_S = 0.05
BARGE_IN_S = 0.15


def question(engine: Engine) -> NDArray[np.int16]:
    (asked,) = engine.generate([GenerationRequest((TextPart("what color is the sky"),), ("audio",))])
    assert asked.audio is not None
    return (resample(asked.audio, 24_000).samples * 32767).astype(np.int16)


def test_a_question_is_answered_aloud(serve, make) -> None:
    engine = Engine.load("unmask-mini")
    asked = question(engine)
    with serve(engine).dial() as client:
        client.set(audio={"input": {"transcription": {"model": "default"}}})
        client.speak(np.concatenate([make.quiet(0.5), asked, make.quiet(1.0)]))
        done = client.until("response.done")["response"]
        kind = "conversation.item.input_audio_transcription.completed"
        completed = next((e for e in client.seen if e["type"] == kind), None) or client.until(kind)
        client.send("conversation.item.retrieve", item_id=completed["item_id"])
        heard = client.until("conversation.item.retrieved")["item"]["content"][0]["audio"]
    samples = np.frombuffer(base64.b64decode(heard), "<i2").astype(np.float32) / 32768
    turn = (AudioPart(samples, 24_000),)
    answer, written = engine.generate(
        [
            GenerationRequest(turn, ("text", "audio"), task="sqa", decoding=Decoding(block_size=SPEECH_BLOCK)),
            GenerationRequest(turn, ("text",), task="asr"),
        ]
    )
    assert done["status"] == ("incomplete" if answer.truncated else "completed")
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": answer.text}]
    assert completed["transcript"] == written.text
    assert answer.audio is not None
    assert len(client.audio()) / 24_000 == pytest.approx(len(answer.audio.samples) / answer.audio.sample_rate, abs=1e-3)


def test_who_is_interrupted_stops_at_once(serve, make, wait, monkeypatch) -> None:
    """An answer takes seconds here; it is interrupted when its first words are known."""
    engine = Engine.load("unmask-mini")
    step = engine.step
    asked = question(engine)
    monkeypatch.setattr(engine, "step", lambda: time.sleep(SLOW_STEP_S) or step())
    with serve(engine).dial() as client:
        client.speak(np.concatenate([asked, make.quiet(1.0)]))
        item_id = client.until("response.output_audio_transcript.delta")["item_id"]
        client.speak(asked)
        client.until("input_audio_buffer.speech_started")
        detected, before = time.perf_counter(), len(client.seen)
        done = client.until("response.done")["response"]
        assert time.perf_counter() - detected < BARGE_IN_S
        assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        assert "response.output_audio.delta" not in client.kinds(before)
        metrics = f"http://127.0.0.1:{client.socket.remote_address[1]}/metrics"
        wait(lambda: "unmask:num_requests_running 0.0" in httpx.get(metrics, timeout=60).text)
        client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=200)
        assert client.until("conversation.item.truncated")["audio_end_ms"] == 200


def test_the_making_of_an_answer_is_seen(serve, make) -> None:
    engine = Engine.load("unmask-mini")
    asked = question(engine)
    with serve(engine).dial() as client:
        client.set(x_unmask={"every_steps": 8, "confidence": True}, audio={"input": {"turn_detection": None}})
        client.speak(asked)
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        done = client.until("response.done")["response"]
    seen = [event["x_unmask"] for event in client.seen if "x_unmask" in event]
    views = [view for view in seen if "commits" in view]
    positions = [at for view in views for at in view["commits"]["positions"]]
    assert len(positions) == len(set(positions))
    # An answer whose end is known leaves the rest of its canvas as it is.
    assert all(view["committed"] <= view["total"] and view["step"] <= view["steps"] for view in views)
    assert views[-1]["committed"] == len(positions) + 1  # where its speech begins is given
    said = "".join(token["text"] for view in seen for token in view.get("tokens", ()))
    assert said.split() == done["output"][0]["content"][0]["transcript"].split()
    assert all(token["confidence"] <= 0 for view in seen for token in view.get("tokens", ()))
