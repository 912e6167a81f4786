"""Whole requests: with scripted answers, with random weights, and with a bundle read from disk."""

from pathlib import Path

import numpy as np
import pytest

from unmask_engine.engine import Engine
from unmask_engine.request import AudioPart, Decoding, GenerationRequest, ImagePart, Progress, RequestError, TextPart
from unmask_engine.testing_fakes import ByteTokenizer, fake_bundle, script

TOKENIZER = ByteTokenizer()
VOCABULARY = TOKENIZER.vocabulary
S = VOCABULARY.special
TEXT = TextPart("A red cat.")
IMAGE = ImagePart(np.full((70, 64, 3), 200, dtype=np.uint8))
AUDIO = AudioPart(np.linspace(-1, 1, 5000, dtype=np.float32), 16000)
MIXED = [
    GenerationRequest((TEXT,), ("image",), decoding=Decoding(steps=12)),
    GenerationRequest((AUDIO,), ("image",), decoding=Decoding(steps=9)),
    GenerationRequest((AUDIO, IMAGE), ("text", "audio"), decoding=Decoding(steps=30, block_size=16)),
    GenerationRequest((AUDIO,), ("text", "audio"), decoding=Decoding(temperature=1.0, seed=5)),
    GenerationRequest((TEXT, IMAGE), ("text",), decoding=Decoding(algorithm="maskgit_plus", top_k=0, top_p=1.0)),
    GenerationRequest((IMAGE,), ("text",), decoding=Decoding(algorithm="origin", seed=9)),
    GenerationRequest((TEXT,), ("audio",), decoding=Decoding(guidance=1.0)),
    GenerationRequest((AUDIO,), ("text",), decoding=Decoding(algorithm_temperature=0.3, seed=2)),
]


def answering(ids: list[int], length: int) -> Engine:
    """An engine whose model gives these ids, then pads."""
    padded = ids + [S["pad"]] * (length - len(ids))
    return Engine(fake_bundle(script(padded, VOCABULARY.size)))


def test_a_text_answer_ends_at_its_mark() -> None:
    engine = answering([*b"a cat", S["im_end"], S["newline"]], 64)
    steps: list[tuple[int, int, int]] = []
    (found,) = engine.generate([GenerationRequest((TEXT, IMAGE), ("text",))], lambda *step: steps.append(step))
    assert (found.task, found.text, found.truncated, found.cancelled) == ("vqa", "a cat", False, False)
    assert found.audio is None
    assert found.image is None
    assert steps == [(0, i, 64) for i in range(1, 7)]
    assert found.token_ids == (*b"a cat", S["im_end"], *[S["pad"]] * 58)
    assert found.usage.steps == found.usage.forward_passes == 6
    assert found.usage.output_tokens == {"text": 5, "audio": 0, "image": 0}


def test_a_full_canvas_says_that_it_was_cut() -> None:
    (found,) = answering(list(b"x" * 64), 64).generate([GenerationRequest((TEXT, IMAGE), ("text",))])
    assert found.text == "x" * 64
    assert found.truncated


def test_progress_spells_text_and_leaves_codes_unspelt() -> None:
    head = [*b"yes", S["im_end"], *[S["pad"]] * 21]
    ids = [*head, S["begin_of_audio"], *[VOCABULARY.audio[1]] * 40, S["end_of_audio"], S["im_end"]]
    engine = answering(ids, 128)
    seen: list[Progress] = []
    engine.submit(engine.prepare(GenerationRequest((AUDIO, IMAGE), ("text", "audio"))), seen.append)
    while not engine.step():
        pass
    commits = [progress.commits for progress in seen]
    said = {at: text for made in commits for at, text in zip(made.positions, made.texts, strict=True)}
    assert [said[at] for at in range(3)] == ["y", "e", "s"]
    assert said[len(head) + 1] is None


def test_a_spoken_answer() -> None:
    speech = [VOCABULARY.audio[i % 32] for i in range(40)]
    head = [*b"yes\n"] + [S["pad"]] * 21
    ids = [*head, S["begin_of_audio"], *speech, S["end_of_audio"], S["im_end"]]
    (found,) = answering(ids, 128).generate([GenerationRequest((AUDIO, IMAGE), ("text", "audio"))])
    assert found.text == "yes"
    assert found.audio is not None
    assert found.audio.sample_rate == 125
    assert np.allclose(found.audio.samples, np.repeat(np.arange(40) % 32 / 32, 10))
    assert found.usage.input_tokens["image"] == 16


def test_an_image_is_drawn_even_if_the_model_would_rather_talk() -> None:
    (found,) = answering(list(b"no" * 130), 260).generate([GenerationRequest((TEXT,), ("image",))])
    assert found.image is not None
    assert found.image.pixels.shape == (256, 256, 3)
    assert not found.truncated
    assert all(token in VOCABULARY.image for token in found.token_ids[1:257])
    compat = Decoding(reference_compat=True)
    (found,) = answering(list(b"no" * 130), 260).generate([GenerationRequest((TEXT,), ("image",), decoding=compat)])
    assert found.token_ids == tuple(b"no" * 130)
    assert found.truncated


def test_a_mixed_batch_gives_each_request_what_it_gets_alone() -> None:
    engine = Engine(fake_bundle())
    together = engine.generate(MIXED)
    assert [found.task for found in together] == ["t2i", "s2i", "svqa", "sqa", "vqa", "caption", "tts", "asr"]
    for request, found in zip(MIXED, together, strict=True):
        (alone,) = engine.generate([request])
        assert alone.token_ids == found.token_ids
        assert alone.confidence == found.confidence
        assert alone.text == found.text
        assert S["mask"] not in found.token_ids
        for mine, theirs in ((alone.audio, found.audio), (alone.image, found.image)):
            assert (mine is None) == (theirs is None)
            if isinstance(mine, AudioPart) and isinstance(theirs, AudioPart):
                assert np.array_equal(mine.samples, theirs.samples)
            if isinstance(mine, ImagePart) and isinstance(theirs, ImagePart):
                assert np.array_equal(mine.pixels, theirs.pixels)


def test_cancelling_one_request_leaves_the_other_alone() -> None:
    engine = Engine(fake_bundle())
    done = [0, 0]
    requests = [MIXED[0], MIXED[4]]
    found = engine.generate(
        requests,
        on_step=lambda index, step, _: done.__setitem__(index, step),
        cancelled=lambda index: index == 0 and done[0] == 3,
    )
    assert [item.cancelled for item in found] == [True, False]
    assert found[0].image is None
    assert found[0].usage.steps == 3
    assert found[1].token_ids == engine.generate([MIXED[4]])[0].token_ids


def test_one_refused_request_refuses_the_batch_before_any_step() -> None:
    steps: list[int] = []
    with pytest.raises(RequestError):
        Engine(fake_bundle()).generate(
            [MIXED[0], GenerationRequest((TEXT,), ("text",))], lambda index, *_: steps.append(index)
        )
    assert steps == []


@pytest.mark.parametrize("compat", [False, True])
def test_a_bundle_from_disk_does_every_task(tiny_bundle: Path, compat: bool) -> None:
    engine = Engine.load(tiny_bundle)
    assert engine.name == "tiny"
    decoding = Decoding(reference_compat=compat, steps=8)
    speech = AudioPart(np.sin(np.arange(9600, dtype=np.float32) / 9), 22050)
    requests = [
        GenerationRequest(tuple(speech if isinstance(p, AudioPart) else p for p in request.parts), request.outputs)
        for request in MIXED
    ]
    requests = [GenerationRequest(r.parts, r.outputs, decoding=decoding) for r in requests]
    together = engine.generate(requests)
    for request, found in zip(requests, together, strict=True):
        assert engine.generate([request])[0].token_ids == found.token_ids
        assert (found.text is not None, found.audio is not None, found.image is not None) == tuple(
            modality in request.outputs for modality in ("text", "audio", "image")
        )
