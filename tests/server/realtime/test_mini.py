"""The built-in model and Silero: a question asked aloud is answered aloud."""

import base64

import numpy as np
import pytest

from unmask_engine.engine import Engine
from unmask_engine.media import resample
from unmask_engine.request import AudioPart, Decoding, GenerationRequest, TextPart
from unmask_server.realtime.dialogue import SPEECH_BLOCK

pytestmark = pytest.mark.slow  # loads the model and decodes three answers


def test_a_question_is_answered_aloud(serve, make) -> None:
    engine = Engine.load("unmask-mini")
    (asked,) = engine.generate([GenerationRequest((TextPart("what color is the sky"),), ("audio",))])
    assert asked.audio is not None
    question = (resample(asked.audio, 24_000).samples * 32767).astype(np.int16)
    with serve(engine).dial() as client:
        client.set(audio={"input": {"transcription": {"model": "default"}}})
        client.speak(np.concatenate([make.quiet(0.5), question, make.quiet(1.0)]))
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
