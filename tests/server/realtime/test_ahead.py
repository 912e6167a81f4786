"""An answer that is begun in the pause before the end of a turn: the same as one begun after it, only sooner."""

import re
from dataclasses import replace

import httpx
import numpy as np

from unmask_engine.request import AudioPart, ImagePart, TextPart, Turn
from unmask_server.realtime.ahead import is_same
from unmask_server.realtime.limits import RealtimeLimits
from unmask_server.settings import Settings

VAD = {"type": "server_vad", "silence_duration_ms": 1000}
PAUSE_S = 0.4  # long enough to begin, too short to end the turn
WITHOUT = Settings(realtime=RealtimeLimits(head_starts=False))


def head_starts(server) -> dict[str, str]:
    page = httpx.get(f"{server.url}/metrics").text
    return dict(re.findall(r'unmask:realtime_head_starts_total{outcome="(\w+)"} (\S+)', page))


def test_it_begins_before_the_turn_has_ended(server, make, wait) -> None:
    with server.dial() as client:
        client.listen(**VAD)
        client.speak(np.concatenate([make.voice(1.0), make.quiet(PAUSE_S)]))
        wait(lambda: len(make.engine.requests) == 1)
        client.only("input_audio_buffer.speech_started")
        client.speak(make.quiet(1.0))
        assert client.until("response.done")["response"]["status"] == "completed"
        assert len(client.audio()) == 24_000
    assert len(make.engine.requests) == 1
    assert make.engine.num_cancelled == 0
    assert head_starts(server) == {"used": "1.0"}


def test_who_goes_on_is_heard_to_the_end(server, make, wait) -> None:
    make.engine.stop_at = 5
    with server.dial() as client:
        client.listen(**VAD)
        client.speak(np.concatenate([make.voice(1.0), make.quiet(PAUSE_S)]))
        wait(lambda: len(make.engine.requests) == 1)
        client.speak(make.voice(1.0))
        wait(lambda: make.engine.num_cancelled == 1)
        make.engine.stop_at = None
        client.speak(make.quiet(1.2))
        assert client.until("response.done")["response"]["status"] == "completed"
        assert client.kinds().count("response.created") == 1
    (half,), (whole,) = (request.parts for request in make.engine.requests)
    assert len(whole.samples) - len(half.samples) > 1.2 * 24_000
    assert np.array_equal(whole.samples[: len(half.samples)], half.samples)
    assert head_starts(server) == {"dropped": "1.0", "used": "1.0"}


def test_all_events_are_the_same_without_it(serve, make) -> None:
    """With a transcription beside the dialogue, two turns."""
    seen, asked = [], []
    for settings in (Settings(), WITHOUT):
        make.engine.requests.clear()
        with serve(make.engine).dial(settings=settings) as client:
            client.set(audio={"input": {"turn_detection": VAD, "transcription": {"model": "any"}}})
            for _ in range(2):
                client.speak(np.concatenate([make.voice(1.0), make.quiet(1.2)]))
                done = 0
                while done < 2:
                    done += client.event()["type"] in (
                        "response.done",
                        "conversation.item.input_audio_transcription.completed",
                    )
            beside = "conversation.item.input_audio_transcription"
            seen.append(([e["type"] for e in client.seen if not e["type"].startswith(beside)], client.audio()))
        asked.append(sorted(make.engine.requests, key=lambda request: (request.task, len(request.history))))
    assert [kind for kind in seen[0][0] if "delta" not in kind] == [k for k in seen[1][0] if "delta" not in k]
    assert np.array_equal(seen[0][1], seen[1][1])
    assert all(map(is_same, *asked))
    assert len(asked[0]) == len(asked[1]) == 4


def test_a_session_that_has_changed_meanwhile_is_answered_as_it_is(server, make, wait) -> None:
    with server.dial() as client:
        client.listen(**VAD)
        client.speak(np.concatenate([make.voice(1.0), make.quiet(PAUSE_S)]))
        wait(lambda: len(make.engine.requests) == 1)
        client.send("session.update", session={"type": "realtime", "instructions": "be brief"})
        client.until("session.updated")
        client.speak(make.quiet(1.0))
        assert client.until("response.done")["response"]["status"] == "completed"
    assert [request.instructions for request in make.engine.requests] == [None, "Answer.\nbe brief"]
    assert head_starts(server) == {"dropped": "1.0"}


def test_a_transcription_is_begun_where_no_answer_will_be(server, make, wait) -> None:
    with server.dial("?intent=transcription") as client:
        client.send("session.update", session={"type": "transcription", "audio": {"input": {"turn_detection": VAD}}})
        client.only("session.updated")
        client.speak(np.concatenate([make.voice(1.0), make.quiet(PAUSE_S)]))
        wait(lambda: len(make.engine.requests) == 1)
        client.speak(make.quiet(1.0))
        client.until("conversation.item.input_audio_transcription.completed")
    assert [request.task for request in make.engine.requests] == ["asr"]
    assert head_starts(server) == {"used": "1.0"}


def test_nothing_of_it_is_left_when_the_client_leaves_in_the_pause(server, make, wait) -> None:
    make.engine.stop_at = 5
    with server.dial() as client:
        client.listen(**VAD)
        client.speak(np.concatenate([make.voice(1.0), make.quiet(PAUSE_S)]))
        wait(lambda: len(make.engine.running) == 1)
    wait(lambda: not make.engine.running)
    assert make.engine.num_cancelled == 1


def test_a_refused_head_start_is_told_when_the_turn_has_ended(server, make) -> None:
    make.engine.bundle.presets = tuple(p for p in make.engine.bundle.presets if p.task != "sqa")
    with server.dial() as client:
        client.listen(**VAD)
        client.speak(np.concatenate([make.voice(1.0), make.quiet(1.2)]))
        done = client.until("response.done")["response"]
        assert done["status_details"]["error"]["code"] == "modalities_unsupported"


def test_requests_are_the_same_only_if_all_of_them_is() -> None:
    sound, pixels = np.arange(5, dtype=np.float32), np.zeros((2, 2, 3), np.uint8)
    turn = Turn("user", "hello")
    assert is_same((AudioPart(sound, 8000), turn), (AudioPart(sound.copy(), 8000), replace(turn)))
    assert not is_same(AudioPart(sound, 8000), AudioPart(sound, 16000))
    assert not is_same(AudioPart(sound, 8000), AudioPart(sound[:4], 8000))
    assert not is_same(ImagePart(pixels), ImagePart(pixels + 1))
    assert not is_same((turn,), (turn, turn))
    assert not is_same(TextPart("a"), turn)
