"""No event, however odd, ends a session."""

import json
import random

VALUES = (
    None,
    True,
    0,
    -1,
    1.5,
    1e300,
    "",
    "x",
    "item_1",
    "\ud800",
    "root",
    [],
    [None],
    {},
    {"type": "message"},
    "AAAA",
)
SEEDS = (
    {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "x"}}}}},
    {"type": "session.update", "session": {"audio": {"output": {"voice": "marin", "format": {"type": "audio/pcmu"}}}}},
    {"type": "input_audio_buffer.append", "audio": "AAAAAAAA"},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {
        "type": "conversation.item.create",
        "previous_item_id": "root",
        "item": {"id": "item_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
    },
    {"type": "conversation.item.retrieve", "item_id": "item_1"},
    {"type": "conversation.item.truncate", "item_id": "item_1", "content_index": 0, "audio_end_ms": 10},
    {"type": "conversation.item.delete", "item_id": "item_1"},
    {
        "type": "response.create",
        "response": {"conversation": "none", "input": [{"type": "message"}], "metadata": {"a": "b"}, "audio": {}},
    },
    {"type": "response.cancel", "response_id": "x"},
)


def mutated(value, rng: random.Random):
    """One thing in it is another, or is gone."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != name}
        return {**value, name: mutated(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        return [mutated(value[0], rng), *value[1:]]
    return rng.choice(VALUES)


def test_odd_events(dial) -> None:
    rng = random.Random(0)
    with dial() as client:
        for _ in range(1500):
            seed = rng.choice(SEEDS)
            body = {k: mutated(v, rng) if k != "type" and rng.random() < 0.8 else v for k, v in seed.items()}
            client.socket.send(json.dumps(body))
        deep = '{"type":"session.update","session":' + '{"audio":' * 900 + "1" + "}" * 901
        client.socket.send(deep)
        client.send("session.update", session={"instructions": "still here"})
        while client.event()["type"] != "session.updated" or client.seen[-1]["session"]["instructions"] != "still here":
            pass
