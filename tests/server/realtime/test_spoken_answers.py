"""Spoken questions to the built-in model, asked by OpenAI's client, and two ears that judge the sound that comes back.

The model's own ear writes the answers down; pocketsphinx, which knows nothing of it, chooses the answer that it hears
from all answers to the questions asked.
"""

import base64
import shutil
import subprocess
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from unmask_engine.engine import Engine
from unmask_engine.media import MediaLimits, read_audio, resample
from unmask_engine.request import AudioPart, GenerationRequest

pytestmark = [
    pytest.mark.slow,  # loads the model and holds a dialogue
    pytest.mark.filterwarnings("ignore"),  # other people's libraries deprecate what they like
    pytest.mark.timeout(1800),
]

ANSWERS = {  # from unmask_training/small_talk.py
    "what is your name": "my name is unmask",
    "can you draw": "yes i can draw",
    "how old are you": "i am new",
    "what color do you like": "i like blue",
    "what shape do you like": "i like stars",
    "good morning": "good morning",
    "thank you": "you are welcome",
    "where do you live": "i live in a computer",
}
ENOUGH = 0.5  # of the questions, by each ear; guessing gives an eighth


def spoken(text: str) -> NDArray[np.int16]:
    if shutil.which("flite") is None:
        pytest.skip("no voice: sudo apt-get install flite")
    wav = subprocess.run(["flite", "-voice", "rms", "-t", text, "-o", "/dev/stdout"], capture_output=True, check=True)
    return (resample(read_audio(wav.stdout, MediaLimits()), 24_000).samples * 32767).astype(np.int16)


def reply(connection: Any) -> tuple[str, NDArray[np.float32]]:
    """Its transcript, and its sound at 24 kHz."""
    text, sound = "", b""
    while (event := connection.recv()).type != "response.done":
        assert event.type != "error", event
        if event.type == "response.output_audio_transcript.delta":
            text += event.delta
        elif event.type == "response.output_audio.delta":
            sound += base64.b64decode(event.delta)
    assert event.response.status in ("completed", "incomplete")
    return text, np.frombuffer(sound, "<i2").astype(np.float32) / 32768


def chosen(samples: NDArray[np.float32], sentences: list[str]) -> str:
    """The sentence that pocketsphinx hears; light noise is added, without which it fails on synthetic speech."""
    pocketsphinx = pytest.importorskip("pocketsphinx")
    decoder = pocketsphinx.Decoder(samprate=16000, bestpath=False, lm=None, loglevel="FATAL")
    grammar = f"#JSGF V1.0; grammar answers; public <s> = {' | '.join(sentences)} ;"
    decoder.add_jsgf_string("answers", grammar)
    decoder.activate_search("answers")
    heard = np.pad(resample(AudioPart(samples, 24_000), 16_000).samples, 4000)
    heard = heard + np.random.default_rng(0).normal(0, 0.004, len(heard))
    decoder.start_utt()
    decoder.process_raw((heard.clip(-1, 1) * 32767).astype(np.int16).tobytes(), False, True)
    decoder.end_utt()
    return decoder.hyp().hypstr if decoder.hyp() else ""


def test_spoken_questions_get_spoken_answers(serve) -> None:
    engine = Engine.load("unmask-mini")
    with serve(engine).dial() as client:
        host, port = client.socket.remote_address[:2]
    silence = np.zeros(24_000, np.int16)
    replies = {}
    for question in ANSWERS:
        with (
            openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="any") as client,
            client.realtime.connect(model="gpt-realtime") as connection,
        ):
            turn = np.concatenate([spoken(question), silence]).tobytes()
            connection.input_audio_buffer.append(audio=base64.b64encode(turn).decode())
            replies[question] = reply(connection)
    own, independent = [], []
    for question, (text, sound) in replies.items():
        assert text
        assert len(sound) > 0.2 * 24_000
        (written,) = engine.generate([GenerationRequest((AudioPart(sound, 24_000),), ("text",), task="asr")])
        sentence = chosen(sound, list(ANSWERS.values()))
        print(f"{question!r} -> {text!r}, {len(sound) / 24_000:.2f} s; own ear {written.text!r}, other {sentence!r}")
        own.append(written.text == ANSWERS[question])
        independent.append(sentence == ANSWERS[question])
    assert np.mean(own) >= ENOUGH
    assert np.mean(independent) >= ENOUGH
