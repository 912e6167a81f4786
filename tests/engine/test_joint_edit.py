"""Several targets in one edit: each comes back as it was but for what was to be made, and is told of the others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from unmask_engine.engine import Engine
from unmask_engine.joint import plan_joint
from unmask_engine.joint_parts import STAND_IN
from unmask_engine.request import (
    AudioPart,
    Decoding,
    Edit,
    Generation,
    GenerationRequest,
    ImagePart,
    JointEdit,
    Part,
    Progress,
    RequestError,
    Span,
    TextPart,
    Whole,
    WordSpan,
)
from unmask_engine.testing_fakes import fake_bundle

NOISE = np.random.default_rng(11)
PICTURE = ImagePart(NOISE.integers(0, 256, (96, 96, 3), dtype=np.uint8))
RECORDING = AudioPart(NOISE.uniform(-1, 1, 32000).astype(np.float32), 16000)
LEFT = np.zeros((96, 96), np.bool_)
LEFT[:, :48] = True
DRAWN = Edit(PICTURE, LEFT)
FILLED = Edit(TextPart("a [MASK:3] circle, and so on"))
SAID = Edit(RECORDING, spans=(Span(0.5, 1.0),))


def request(*edits: Edit | Whole, parts: Sequence[Part] = (), **options: Any) -> GenerationRequest:
    """Of few steps, as they take long."""
    return GenerationRequest(tuple(parts), (), decoding=Decoding(**{"steps": 12} | options), edit=JointEdit(edits))


def made(asked: GenerationRequest) -> Generation:
    (generation,) = Engine(fake_bundle()).generate([asked])
    return generation


def assert_kept(generation: Generation) -> None:
    assert generation.image is not None
    assert np.array_equal(generation.image.pixels[~LEFT], PICTURE.pixels[~LEFT])
    assert not np.array_equal(generation.image.pixels[LEFT], PICTURE.pixels[LEFT])
    assert generation.text is not None
    assert generation.text.startswith("a ")
    assert generation.text.endswith(" circle, and so on")
    assert "MASK" not in generation.text


@pytest.mark.parametrize("edits", [(DRAWN, FILLED), (FILLED, DRAWN)])
def test_a_picture_and_words_are_completed_together(edits: tuple[Edit, ...]) -> None:
    generation = made(request(*edits))
    assert_kept(generation)
    assert generation.task == "t2i+caption"
    assert generation.audio is None


def test_all_three_kinds_in_one_request() -> None:
    generation = made(request(DRAWN, FILLED, SAID))
    assert_kept(generation)
    assert generation.audio is not None
    samples = generation.audio.samples
    assert np.array_equal(samples[:8000], RECORDING.samples[:8000])
    assert np.array_equal(samples[16000:], RECORDING.samples[16000:])
    assert not np.array_equal(samples, RECORDING.samples)
    assert generation.task == "t2i+caption+tts"


def test_the_tokens_are_those_of_edits_one_after_the_other() -> None:
    engine = Engine(fake_bundle())
    (joint,) = engine.generate([request(DRAWN, FILLED, steps=None)])
    (first,) = engine.generate([GenerationRequest((TextPart("a circle, and so on"),), ("image",), edit=DRAWN)])
    assert first.image is not None
    (second,) = engine.generate([GenerationRequest((first.image,), ("text",), edit=FILLED)])
    assert joint.token_ids == first.token_ids + second.token_ids
    assert joint.text == second.text
    assert joint.usage.steps == first.usage.steps + second.usage.steps


def test_the_speech_says_the_words_that_were_filled_in() -> None:
    engine = Engine(fake_bundle())
    (joint,) = engine.generate([request(FILLED, SAID, parts=[PICTURE], steps=None)])
    assert joint.text is not None
    (words,) = engine.generate([GenerationRequest((PICTURE,), ("text",), edit=FILLED)])
    assert words.text == joint.text
    (said,) = engine.generate([GenerationRequest((TextPart(joint.text),), ("audio",), edit=SAID)])
    assert joint.token_ids[len(words.token_ids) :] == said.token_ids


def test_words_are_heard_in_what_is_kept_of_a_recording() -> None:
    silent = AudioPart(RECORDING.samples.copy(), 16000)
    silent.samples[8000:16000] = 0
    engine = Engine(fake_bundle())
    (joint,) = engine.generate([request(FILLED, SAID, steps=None)])
    (words,) = engine.generate([GenerationRequest((silent,), ("text",), edit=FILLED)])
    assert joint.text == words.text
    assert joint.task == "asr+tts"


def test_the_input_is_what_the_picture_shows_and_what_the_words_answer() -> None:
    asked = request(DRAWN, FILLED, parts=[TextPart("describe it")])
    generation = made(asked)
    assert generation.task == "t2i+vqa"
    few = Decoding(steps=11)
    (alone,) = Engine(fake_bundle()).generate([replace(asked, outputs=("image",), edit=DRAWN, decoding=few)])
    assert generation.token_ids[: len(alone.token_ids)] == alone.token_ids


def test_a_target_without_content_is_made_whole() -> None:
    generation = made(request(Whole("image"), FILLED, Whole("audio")))
    assert generation.image is not None
    assert generation.image.pixels.shape == (256, 256, 3)
    assert generation.audio is not None
    assert len(generation.audio.samples) > 0
    assert generation.text is not None
    assert generation.text.endswith(" circle, and so on")


def test_a_target_without_anything_to_be_made_comes_back_as_it_was() -> None:
    given = request(Edit(PICTURE), FILLED, steps=None)
    generation = made(given)
    assert generation.image is PICTURE
    assert generation.task == "caption"
    (alone,) = Engine(fake_bundle()).generate([GenerationRequest((PICTURE,), ("text",), edit=FILLED)])
    assert generation.token_ids == alone.token_ids
    assert generation.text == alone.text


def test_output_may_leave_targets_out() -> None:
    generation = made(replace(request(DRAWN, FILLED), outputs=("text",)))
    assert generation.image is None
    assert generation.text is not None


def test_the_tokens_do_not_depend_on_the_batch() -> None:
    asked = [
        request(DRAWN, FILLED),
        request(SAID, FILLED),
        GenerationRequest((TextPart("a cat"),), ("image",), decoding=Decoding(steps=12)),
    ]
    together = Engine(fake_bundle()).generate(asked)
    for one, alone in zip(asked, together, strict=True):
        assert made(one).token_ids == alone.token_ids


def test_progress_counts_over_all_targets() -> None:
    engine, seen = Engine(fake_bundle()), list[Progress]()
    running = engine.submit(engine.prepare(request(DRAWN, FILLED, SAID)), seen.append)
    while not engine.step():
        pass
    generation = engine.answer(running)
    assert [progress.step for progress in seen] == list(range(1, generation.usage.steps + 1))
    assert {progress.steps for progress in seen} == {generation.usage.steps}
    assert {progress.total for progress in seen} == {len(generation.token_ids)}
    committed = [progress.committed for progress in seen]
    assert committed == sorted(committed)
    assert committed[-1] == len(generation.token_ids)
    told = {
        at: token
        for progress in seen
        for at, token in zip(progress.commits.positions, progress.commits.ids, strict=True)
    }
    assert told == {at: generation.token_ids[at] for at, score in enumerate(generation.confidence) if score is not None}


def test_steps_are_shared_by_what_is_masked() -> None:
    bundle = fake_bundle()
    masked = [
        stage.plan.masked_per_block(stage.plan.canvas) for stage in plan_joint(bundle, request(DRAWN, FILLED)).stages
    ]
    assert masked == [[128], [3]]
    stages = plan_joint(bundle, request(DRAWN, FILLED, steps=20)).stages
    assert [stage.plan.steps for stage in stages] == [19, 1]
    assert made(request(DRAWN, FILLED, steps=20)).usage.steps == 20


def test_a_deadline_is_shared_by_all_targets() -> None:
    engine = Engine(fake_bundle())
    engine.generate([request(DRAWN, FILLED)])
    prepared = engine.prepare(request(DRAWN, FILLED, deadline_ms=0.001))
    assert prepared.plan.steps == 1
    running = engine.submit(prepared)
    while not engine.step():
        pass
    generation = engine.answer(running)
    assert generation.usage.steps == 2
    assert_kept(generation)


def test_a_seed_gives_the_same_answer_again() -> None:
    asked = request(DRAWN, FILLED, temperature=1.0, seed=5)
    assert made(asked).token_ids == made(asked).token_ids
    assert made(asked).token_ids != made(request(DRAWN, FILLED, temperature=1.0, seed=6)).token_ids


def test_a_cancelled_one_is_gone_and_gives_what_is_made() -> None:
    engine = Engine(fake_bundle())
    running = engine.submit(engine.prepare(request(DRAWN, FILLED)))
    while running.prepared.preset.task == "t2i":
        assert not engine.step()
    engine.cancel(running)
    assert engine.step() == []
    generation = engine.answer(running)
    assert generation.cancelled
    assert generation.image is not None
    assert engine.work.tokens_in_flight == 0


def test_what_fails_on_the_way_fails_the_request_alone() -> None:
    class Broken:
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

        def decode(self, ids: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    engine = Engine(fake_bundle())
    running = engine.submit(engine.prepare(request(DRAWN, FILLED)))
    other = engine.submit(engine.prepare(GenerationRequest((TextPart("hello"),), ("audio",))))
    engine.bundle = replace(engine.bundle, image_codec=Broken())
    num_left = 0
    while num_left < 2:
        num_left += len(engine.step())
    assert isinstance(running.error, RuntimeError)
    assert other.error is None


def test_words_of_a_span_need_not_be_known_before_they_are_filled_in() -> None:
    generation = made(request(Edit(RECORDING, spans=(Span(0.5, 1.0, "whatever"),)), FILLED))
    assert generation.audio is not None
    with pytest.raises(RequestError) as caught:
        made(request(Edit(RECORDING, spans=(Span(0.5, 1.0, "whatever"),)), Edit(TextPart("all is said")), DRAWN))
    assert caught.value.param == "edit[0].spans"


def test_the_stand_in_is_as_many_tokens_as_the_hole() -> None:
    stages = plan_joint(fake_bundle(), request(FILLED, Whole("audio"), parts=[PICTURE])).stages
    assert len(stages[1].plan.canvas) == int(3.5 * len("a " + 3 * STAND_IN + " circle, and so on"))


ALL_GIVEN = (Edit(PICTURE), Edit(TextPart("all is said")))
BAD: dict[str, tuple[tuple[Edit, ...], dict[str, Any], str]] = {
    "nothing to be made": (ALL_GIVEN, {}, "edit"),
    "two of a kind": ((FILLED, FILLED), {}, "edit[1].target"),
    "nothing says what is to be there": ((DRAWN, Edit(TextPart("[MASK:3]"))), {}, "input"),
    "a bad mask": ((FILLED, Edit(PICTURE, LEFT[:50])), {}, "edit[1].mask"),
    "a bad hole": ((DRAWN, Edit(TextPart("a [MASK:0]"))), {}, "edit[1].target.text"),
    "a mask on words": ((DRAWN, Edit(TextPart("a [MASK:1]"), LEFT)), {}, "edit[1].mask"),
    "spans on a picture": ((FILLED, Edit(PICTURE, spans=(Span(0, 1),))), {}, "edit[1].mask"),
    "a bad span": ((FILLED, Edit(RECORDING, spans=(Span(1, 99),))), {}, "edit[1].spans"),
    "a span of no number": ((FILLED, Edit(RECORDING, spans=(Span(0, float("nan")),))), {}, "edit[1].spans"),
    "words that cannot be found": (
        (FILLED, Edit(RECORDING, spans=(WordSpan("a"),), transcript="a")),
        {},
        "edit[1].spans",
    ),
    "a transcript for nothing": (
        (FILLED, Edit(RECORDING, spans=(Span(0, 1),), transcript="a")),
        {},
        "edit[1].transcript",
    ),
    "a length": ((DRAWN, FILLED), {"max_tokens": 64}, "decoding.max_tokens"),
    "steps of nothing": ((DRAWN, FILLED), {"steps": 0}, "decoding.steps"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_refused_with_its_field(name: str) -> None:
    edits, options, param = BAD[name]
    with pytest.raises(RequestError) as caught:
        Engine(fake_bundle()).prepare(request(*edits, **options))
    assert caught.value.param == param


def test_several_targets_have_no_one_task_and_no_other_output() -> None:
    engine = Engine(fake_bundle())
    with pytest.raises(RequestError, match="leave `task` out"):
        engine.prepare(replace(request(DRAWN, FILLED), task="t2i"))
    with pytest.raises(RequestError, match="no target is audio"):
        engine.prepare(replace(request(DRAWN, FILLED), outputs=("text", "audio")))


def test_the_built_in_model_completes_a_picture_and_its_caption() -> None:
    engine = Engine.load("unmask-mini")
    (drawn,) = engine.generate([GenerationRequest((TextPart("a red circle left of a blue square"),), ("image",))])
    assert drawn.image is not None
    height, width, _ = drawn.image.pixels.shape
    left = np.zeros((height, width), np.bool_)
    left[:, : width // 2] = True
    caption = Edit(TextPart("a [MASK:1] circle left of a blue [MASK:1]"))
    (both,) = engine.generate([request(Edit(drawn.image, left), caption)])
    assert both.image is not None
    assert np.array_equal(both.image.pixels[~left], drawn.image.pixels[~left])
    assert not np.array_equal(both.image.pixels, drawn.image.pixels)
    assert both.text is not None
    assert both.text.startswith("a ")
    assert " circle left of a blue " in both.text
