"""`unmask realtime` against a server."""

import numpy as np
import pytest

from unmask_engine.media import MediaLimits, read_audio, write_audio
from unmask_engine.request import AudioPart
from unmask_server.commands.exits import CommandError, UsageError
from unmask_server.commands.realtime import realtime
from unmask_server.settings import Settings


@pytest.fixture
def question(tmp_path, make):
    file = tmp_path / "question.wav"
    samples = np.concatenate([make.quiet(0.2), make.voice(0.4)]).astype(np.float32) / 32768
    file.write_bytes(write_audio(AudioPart(samples, 24_000), "wav"))
    return file


def test_a_reply_is_saved_and_timed(dial, make, question, capsys) -> None:
    reply = question.with_name("reply.wav")
    with dial(settings=Settings(api_keys=("k",)), additional_headers={"Authorization": "Bearer k"}) as client:
        host, port = client.socket.remote_address[:2]
        realtime(question, url=f"http://{host}:{port}/", api_key="k", output=reply)
        out = capsys.readouterr().out
        assert f"said: {make.answer}" in out
        assert "real-time factor: " in out
        saved = read_audio(reply.read_bytes(), MediaLimits())
        assert len(saved.samples) == pytest.approx(24_000, abs=2)
        with pytest.raises(CommandError, match="API key"):
            realtime(question, url=f"http://{host}:{port}", api_key=None, output=None)


def test_what_cannot_be_said(tmp_path, question) -> None:
    with pytest.raises(UsageError):
        realtime(tmp_path / "none.wav", url="http://127.0.0.1:1", api_key=None, output=None)
    with pytest.raises(CommandError, match=r"refused|failed"):
        realtime(question, url="http://127.0.0.1:1", api_key=None, output=None)
