"""What Prometheus is told of dialogues, and that the dashboard shows it."""

import json
import re
import time
from pathlib import Path

import httpx
import numpy as np

DASHBOARD = Path(__file__).parents[3] / "docker" / "grafana" / "unmask.json"


def counts(server) -> dict[str, float]:
    page = httpx.get(f"{server.url}/metrics", timeout=60).text
    return {name: float(value) for name, value in re.findall(r"unmask:(realtime_\w+_count) (\S+)", page)}


def answer(client, make) -> None:
    client.listen()
    client.speak(make.voice(0.5))
    client.send("input_audio_buffer.commit")
    client.send("response.create")


def test_whole_replies_are_measured_and_interrupted_ones_are_not(server, make) -> None:
    names = ("realtime_first_audio_seconds_count", "realtime_rtf_count", "realtime_underrun_seconds_count")
    with server.dial() as client:
        unheard = {"realtime_vad_seconds_count": 0.0, "realtime_endpoint_seconds_count": 0.0}  # push to talk
        assert counts(server) == dict.fromkeys(names, 0.0) | unheard
        answer(client, make)
        assert client.until("response.done")["response"]["status"] == "completed"
        assert counts(server) == dict.fromkeys(names, 1.0) | unheard
        make.engine.stop_at = 5
        answer(client, make)
        client.until("response.output_audio.delta")
        client.send("response.cancel")
        assert client.until("response.done")["response"]["status"] == "cancelled"
        assert counts(server) == dict.fromkeys(names, 1.0) | unheard


def test_turn_detection_is_measured(server, make) -> None:
    """Ten pieces of sound; the turn ends 300 ms after the last voice has come, or later."""
    with server.dial() as client:
        client.listen(type="server_vad", silence_duration_ms=300)
        heard = np.concatenate([make.voice(0.5), make.quiet(0.5)])
        for piece in np.split(heard, 10):
            client.speak(piece)
            time.sleep(0.1)
        client.until("response.done")
        page = httpx.get(f"{server.url}/metrics", timeout=60).text
    told = dict(re.findall(r"unmask:(realtime_(?:vad|endpoint)_seconds_(?:count|sum)) (\S+)", page))
    assert float(told["realtime_vad_seconds_count"]) == 10
    assert float(told["realtime_vad_seconds_sum"]) > 0
    assert float(told["realtime_endpoint_seconds_count"]) == 1
    assert 0.2 < float(told["realtime_endpoint_seconds_sum"]) < 60


def test_replies_that_are_cut_off_are_counted_by_who_cut_them_off(server, make) -> None:
    make.engine.stop_at = 5
    listening = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
    with server.dial() as client:
        answer(client, make)
        client.until("response.output_audio.delta")
        client.send("response.cancel")
        client.until("response.done")
        answer(client, make)
        client.until("response.output_audio.delta")
        client.send("session.update", session=listening)
        client.speak(make.voice(0.5))
        client.until("response.done")
        page = httpx.get(f"{server.url}/metrics", timeout=60).text
    counted = dict(re.findall(r'unmask:realtime_interruptions_total{reason="(\w+)"} (\S+)', page))
    assert counted == {"client_cancelled": "1.0", "turn_detected": "1.0"}


def test_the_dashboard_shows_all_of_it(server) -> None:
    with server.dial():
        page = httpx.get(f"{server.url}/metrics", timeout=60).text
    told = set(re.findall(r"# TYPE (unmask:realtime_\w+) histogram", page))
    shown = DASHBOARD.read_text()
    assert json.loads(shown)
    assert len(told) == 5
    assert all(f"{name}_bucket" in shown for name in told)
