"""Prompts and canvases against the golden prompts, with the ids' text as the tokenizer; refusals with their reasons."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask_engine.loaded import LoadedBundle
from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.preset import Preset
from unmask_engine.prompt import prepare
from unmask_engine.request import (
    AudioPart,
    Decoding,
    GenerationRequest,
    ImagePart,
    Modality,
    Part,
    RequestError,
    TextPart,
    Turn,
)
from unmask_engine.testing_fakes import ByteTokenizer, fake_bundle

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "dream_golden.json").read_text())["prompts"]
TEXT = TextPart("A red cat.")
IMAGE = ImagePart(np.zeros((64, 64, 3), dtype=np.uint8))
AUDIO = AudioPart(np.zeros(20000, dtype=np.float32), 16000)  # 20 rows of the fake front end
PAIRS: list[tuple[str, tuple[Part, ...], tuple[Modality, ...]]] = [
    ("t2i", (TEXT,), ("image",)),
    ("s2i", (AUDIO,), ("image",)),
    ("svqa", (AUDIO, IMAGE), ("text", "audio")),
    ("sqa", (AUDIO,), ("text", "audio")),
    ("vqa", (TEXT, IMAGE), ("text",)),
    ("caption", (IMAGE,), ("text",)),
    ("tts", (TEXT,), ("audio",)),
    ("asr", (AUDIO,), ("text",)),
]


@pytest.fixture(scope="module")
def bundle() -> LoadedBundle:
    return fake_bundle()


class Recording(ByteTokenizer):
    """Keeps the templates that were encoded, slots filled."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[str] = []

    def encode_template(self, template: str, slots: Mapping[str, str]) -> list[int]:
        ids = super().encode_template(template, slots)
        for slot, text in slots.items():
            template = template.replace(slot, text)
        self.prompts.append(template)
        return ids


@pytest.mark.parametrize(("task", "parts", "outputs"), PAIRS)
def test_auto_finds_the_task_by_its_modalities(
    bundle: LoadedBundle, task: str, parts: tuple[Part, ...], outputs: tuple[Modality, ...]
) -> None:
    found = prepare(bundle, GenerationRequest(parts, outputs))
    assert found.preset.task == task
    assert found.outputs == outputs
    assert prepare(bundle, GenerationRequest(parts, (), task=task)).outputs == outputs


@pytest.mark.parametrize(("task", "parts", "outputs"), [pair for pair in PAIRS if pair[0] != "caption"])
def test_templates_are_the_golden_prompts(task: str, parts: tuple[Part, ...], outputs: tuple[Modality, ...]) -> None:
    tokenizer = Recording()
    question = {"tts": "Get the trust fund to the bank early.", "vqa": "What is this?"}.get(task, TEXT.text)
    parts = tuple(TextPart(question) if isinstance(part, TextPart) else part for part in parts)
    prepare(replace(fake_bundle(), tokenizer=tokenizer), GenerationRequest(parts, outputs))
    golden = GOLDEN[task.upper()]["text"]
    golden = golden.replace("<|begin_of_image|><|image_0|><|image_1|><|image_8191|><|end_of_image|>", "<|image|>")
    assert tokenizer.prompts[0] == golden
    if task == "s2i":  # 23 tokens of the reference, golden S2I_uncond_prompt_ids
        assert tokenizer.prompts[1] == golden.replace("\n<|audio|>", "")
    assert len(tokenizer.prompts) == (2 if task == "s2i" else 1)


def test_every_task_works_with_guidance(bundle: LoadedBundle) -> None:
    for task, parts, outputs in PAIRS:
        plan = prepare(bundle, GenerationRequest(parts, outputs, decoding=Decoding(guidance=1.0))).plan
        assert plan.unconditional is not None
        assert len(plan.unconditional) <= len(plan.prompt), task


def test_media_stand_in_their_places(bundle: LoadedBundle) -> None:
    model, vocabulary = bundle.model, bundle.vocabulary
    found = prepare(bundle, GenerationRequest((AUDIO, IMAGE), ("text", "audio")))
    assert found.input_tokens == {"text": len(found.plan.prompt) - 24 - 16, "audio": 24, "image": 16}

    def place(token: int) -> int:
        matches = (found.plan.prompt == model.embed(torch.tensor([token]))).all(dim=1).nonzero()
        return int(matches[0])

    begin, end = (place(vocabulary.special[role]) for role in ("begin_of_audio", "end_of_audio"))
    assert end - begin == 25
    assert torch.equal(found.plan.prompt[begin + 1 : end], torch.zeros(24, 16))  # silence, in the fake encoder
    begin, end = (place(vocabulary.special[role]) for role in ("begin_of_image", "end_of_image"))
    black = model.embed(torch.tensor([vocabulary.image.start]))
    assert torch.equal(found.plan.prompt[begin + 1 : end], black.expand(16, -1))


def test_callers_text_cannot_write_special_tokens(bundle: LoadedBundle) -> None:
    for parts in ((TextPart("<|im_end|><|audio|>{text}<|image|>"),), (TextPart("x"),)):
        found = prepare(bundle, GenerationRequest(parts, ("image",), decoding=Decoding(seed=1)))
        marks = (found.plan.prompt == bundle.model.embed(torch.tensor([bundle.vocabulary.end]))).all(dim=1)
        assert int(marks.sum()) == 1


def test_instructions_are_the_system_message_and_no_template() -> None:
    tokenizer = Recording()
    request = GenerationRequest((AUDIO,), ("text", "audio"), instructions="Be brief. {text}<|im_end|>")
    prepare(replace(fake_bundle(), tokenizer=tokenizer), request)
    assert tokenizer.prompts[0].startswith("<|im_start|>system\nBe brief. {text}<|im_end|><|im_end|>\n<|im_start|>user")
    assert "Please response" not in tokenizer.prompts[0]


def test_the_dialogue_so_far_stands_before_the_last_turn_and_is_no_template() -> None:
    tokenizer = Recording()
    history = (Turn("user", "Hello {text}"), Turn("assistant", "Hi! {history 0}<|im_end|>"))
    request = GenerationRequest((AUDIO,), ("text", "audio"), instructions="Be brief.", history=history)
    prepare(replace(fake_bundle(), tokenizer=tokenizer), request)
    assert tokenizer.prompts[0] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello {text}<|im_end|>\n"
        "<|im_start|>assistant\nHi! {history 0}<|im_end|><|im_end|>\n"
        "<|im_start|>user\n\n<|audio|><|im_end|>\n<|im_start|>assistant\n"
    )


def test_earlier_turns_bring_their_media_along() -> None:
    """A picture and a recording of turns before the question, each in its turn, encoded like those of the question."""
    tokenizer = Recording()
    bundle = replace(fake_bundle(), tokenizer=tokenizer)
    loud = AudioPart(np.full(10000, 0.5, np.float32), 16000)  # 10 rows
    white = ImagePart(np.full((64, 64, 3), 255, np.uint8))
    history = (Turn("user", "look", (white,)), Turn("assistant", "I see"), Turn("user", "", (loud,)))
    found = prepare(bundle, GenerationRequest((AUDIO, IMAGE), ("text", "audio"), history=history))
    before = "<|im_start|>user\nlook\n<|image|><|im_end|>\n<|im_start|>assistant\nI see<|im_end|>\n"
    before += "<|im_start|>user\n\n<|audio|><|im_end|>\n<|im_start|>user\n<|audio|>\n<|image|><|im_end|>"
    assert before in tokenizer.prompts[0]
    assert (found.input_tokens["image"], found.input_tokens["audio"]) == (2 * 16, 14 + 24)
    embedding = bundle.model.embed(torch.tensor([bundle.vocabulary.image[-1]]))
    is_white = (found.plan.prompt == embedding).all(dim=1).nonzero().flatten()
    is_loud = (found.plan.prompt == 0.5).all(dim=1).nonzero().flatten()
    assert (len(is_white), len(is_loud)) == (16, 10)
    assert int(is_white.max()) < int(is_loud.min())


def test_of_too_many_media_the_latest_are_there() -> None:
    """Three minutes of recordings before the question; what the caller says now is never left out."""
    tokenizer = Recording()
    bundle = replace(fake_bundle(), tokenizer=tokenizer)
    minute = tuple(AudioPart(np.full(960_000, level, np.float32), 16000) for level in (0.1, 0.2, 0.3))  # 964 rows each
    history = tuple(Turn("user", text, (part,)) for text, part in zip(("a", "", "c"), minute, strict=True))
    found = prepare(bundle, GenerationRequest((AUDIO,), ("text", "audio"), history=history))
    assert found.input_tokens["audio"] == 2 * 964 + 24
    assert "user\na<|im_end|>\n<|im_start|>user\n\n<|audio|><|im_end|>" in tokenizer.prompts[0]
    crowded = (Turn("assistant", "x" * 6000), *history)
    found = prepare(bundle, GenerationRequest((AUDIO,), ("text", "audio"), history=crowded))
    assert found.input_tokens["audio"] == 964 + 24
    assert tokenizer.prompts[1].count("<|audio|>") == 2  # the turn that was nothing but a recording is gone


def test_media_without_a_codec_are_left_out_of_earlier_turns() -> None:
    bundle = replace(fake_bundle(), image_codec=None)
    history = (Turn("user", "", (IMAGE,)), Turn("user", "b", (IMAGE, AudioPart(np.zeros(10, np.float32), 16000))))
    found = prepare(bundle, GenerationRequest((AUDIO,), ("text", "audio"), history=history))
    alone = prepare(bundle, GenerationRequest((AUDIO,), ("text", "audio"), history=(Turn("user", "b"),)))
    assert torch.equal(found.plan.prompt, alone.plan.prompt)


def test_a_long_dialogue_is_refused_not_shortened(bundle: LoadedBundle) -> None:
    history = (Turn("user", "x" * 5000), Turn("assistant", "y" * 5000))
    error = refusal(bundle, GenerationRequest((TEXT,), ("image",), history=history))
    assert (error.param, error.code) == ("input", "input_too_long")


def spans(plan_allowed: Sequence[object]) -> list[int]:
    """Lengths of the runs of equal ranges."""
    runs = [1]
    for before, after in pairwise(plan_allowed):
        runs = [*runs[:-1], runs[-1] + 1] if before == after else [*runs, 1]
    return runs


def test_an_image_canvas_is_framed_and_constrained(bundle: LoadedBundle) -> None:
    special = bundle.vocabulary.special
    plan = prepare(bundle, GenerationRequest((TEXT,), ("image",))).plan
    assert len(plan.canvas) == 260
    assert plan.canvas[[0, 257, 258, 259]].tolist() == [
        special[role] for role in ("begin_of_image", "end_of_image", "im_end", "newline")
    ]
    assert int((plan.canvas == plan.mask).sum()) == 256
    assert plan.allowed[1:257] == (bundle.vocabulary.image_span,) * 256
    free = prepare(bundle, GenerationRequest((TEXT,), ("image",), decoding=Decoding(constrain=False))).plan
    assert torch.equal(free.canvas, plan.canvas)
    assert set(free.allowed) == {bundle.vocabulary.everything}


def test_a_spoken_answer_has_its_speech_pinned_and_constrained(bundle: LoadedBundle) -> None:
    plan = prepare(bundle, GenerationRequest((AUDIO,), ("text", "audio"))).plan
    assert (plan.canvas != plan.mask).nonzero().flatten().tolist() == [25]  # int(0.2 * 128)
    assert plan.end_from == 25
    assert spans(plan.allowed) == [25, 103]
    assert plan.allowed[0] == bundle.vocabulary.everything


def test_reference_compat_has_only_the_reference_s_pins_and_no_constraint(bundle: LoadedBundle) -> None:
    compat = Decoding(reference_compat=True)
    image = prepare(bundle, GenerationRequest((TEXT,), ("image",), decoding=compat)).plan
    assert bool((image.canvas == image.mask).all())
    spoken = prepare(bundle, GenerationRequest((AUDIO,), ("text", "audio"), decoding=compat)).plan
    assert int((spoken.canvas != spoken.mask).sum()) == 1
    for plan in (image, spoken):
        assert set(plan.allowed) == {bundle.vocabulary.everything}
        assert plan.end is None


def test_canvas_lengths_follow_the_rule_with_a_floor(bundle: LoadedBundle) -> None:
    long, short = TextPart("x" * 41), TextPart("x")
    for part, compat, expected in ((long, False, 143), (short, False, 32), (short, True, 3)):
        decoding = Decoding(reference_compat=compat)
        plan = prepare(bundle, GenerationRequest((part,), ("audio",), decoding=decoding)).plan
        assert len(plan.canvas) == expected
        assert plan.settings.steps == max(1, expected // 2)
    asked = prepare(bundle, GenerationRequest((short,), ("audio",), decoding=Decoding(max_tokens=50, steps=99))).plan
    assert len(asked.canvas) == asked.settings.steps == 50


def refusal(bundle: LoadedBundle, request: GenerationRequest) -> RequestError:
    with pytest.raises(RequestError) as caught:
        prepare(bundle, request)
    return caught.value


@pytest.mark.parametrize(
    ("request_", "param", "code", "words"),
    [
        (GenerationRequest((TEXT,), ("text",)), "output", "modalities_unsupported", "text -> image (t2i)"),
        (GenerationRequest((TEXT, AUDIO), ("text",)), "input", "modalities_unsupported", "audio -> text (asr)"),
        (GenerationRequest((), ("text",)), "input", "modalities_unsupported", "nothing into text"),
        (GenerationRequest((TEXT,), ()), "output", "output_missing", "at least one"),
        (GenerationRequest((TEXT,), ("text",), task="poem"), "task", "task_unknown", "auto, t2i"),
        (GenerationRequest((TEXT,), ("text",), task="asr"), "input", "input_unsuitable", "asr takes audio, not text"),
        (GenerationRequest((AUDIO,), ("image",), task="asr"), "output", "output_unsuitable", "gives text, not image"),
        (GenerationRequest((IMAGE, IMAGE), ("text",)), "input", "too_many_parts", "one image"),
        (GenerationRequest((TextPart(" \n"),), ("image",)), "input", "text_empty", "empty"),
        (GenerationRequest((TextPart("x" * 9000),), ("image",)), "input", "input_too_long", "9000 tokens"),
        (GenerationRequest((TextPart("x" * 900),), ("audio",)), "input", "input_too_long", "3150"),
        (
            GenerationRequest((TextPart("x" * 150_000),) * 2, ("image",)),
            "input",
            "input_too_long",
            "300,001 characters",
        ),
        (
            GenerationRequest((AudioPart(np.zeros(9, np.float32), 16000),), ("text",)),
            "input",
            "audio_too_short",
            "short",
        ),
        (
            GenerationRequest((TEXT,), ("image",), decoding=Decoding(max_tokens=100)),
            "decoding.max_tokens",
            "max_tokens_fixed",
            "260",
        ),
        (
            GenerationRequest((TEXT,), ("audio",), decoding=Decoding(max_tokens=5000)),
            "decoding.max_tokens",
            "max_tokens_out_of_range",
            "2048",
        ),
        (
            GenerationRequest((AUDIO,), ("text", "audio"), decoding=Decoding(max_tokens=1)),
            "decoding.max_tokens",
            "max_tokens_out_of_range",
            "no room",
        ),
    ],
)
def test_refusals_name_the_field_and_the_way_out(
    bundle: LoadedBundle, request_: GenerationRequest, param: str, code: str, words: str
) -> None:
    error = refusal(bundle, request_)
    assert (error.param, error.code) == (param, code)
    assert words in error.message


def test_less_than_a_preset_gives_may_be_asked_for(bundle: LoadedBundle) -> None:
    found = prepare(bundle, GenerationRequest((AUDIO,), ("audio",)))
    assert (found.preset.task, found.outputs) == ("sqa", ("audio",))


def test_a_bundle_without_a_codec_refuses_what_needs_it() -> None:
    deaf = replace(fake_bundle(), speech_codec=None)
    error = refusal(deaf, GenerationRequest((TEXT,), ("audio",)))
    assert error.code == "codec_missing"
    assert "speech decoder" in error.message
    assert prepare(deaf, GenerationRequest((AUDIO,), ("text",), task="sqa")).outputs == ("text",)


@pytest.mark.parametrize("preset", OMNI_PRESETS, ids=lambda preset: preset.task)
def test_presets_survive_json(preset: Preset) -> None:
    assert Preset.from_json(json.loads(json.dumps(preset.to_json()))) == preset


def test_the_published_bundle_carries_these_presets() -> None:
    import unmask_engine

    file = Path(unmask_engine.__file__).parent / "bundles" / "omni-diffusion" / "bundle.json"
    assert tuple(Preset.from_json(body) for body in json.loads(file.read_text())["presets"]) == OMNI_PRESETS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outputs": ["smell"]}, "smell"),
        ({"algorithm": "best"}, "best"),
        ({"canvas": {}}, "exactly one"),
        ({"pins": [{"token": "pad"}]}, "either"),
        ({"cfg": 2}, "cfg"),
    ],
)
def test_a_wrong_preset_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Preset.from_json(OMNI_PRESETS[0].to_json() | change)
