"""Curves, ablations, manifests and codec scores: what is changed, what is measured, what is written."""

import json
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unmask_engine.alignment import WordClock
from unmask_engine.bundle import load_bundle
from unmask_engine.engine import Engine
from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.preset import StepsRule
from unmask_engine.request import AudioPart
from unmask_training import evaluate
from unmask_training.evaluate_codecs import image_codec, mel_distance, psnr, ssim
from unmask_training.evaluate_curves import (
    ABLATIONS,
    DIFFERENCE,
    FIXED_CANVAS,
    HALF,
    STEPS,
    Result,
    ablations,
    curves,
    half,
    halved,
)
from unmask_training.evaluate_report import curves_of, draw_curves, results_json, results_markdown
from unmask_training.examiner import Examiner, heard_rates
from unmask_training.listeners import content_words, sphinx_hears, sphinx_hears_all
from unmask_training.seen import Seen
from unmask_training.tasks import MORE, TASKS, Score, possible, scores
from unmask_training.voices import SPEAKING_VOICE, Delivery, record_all


@pytest.fixture(scope="module")
def examiner(tiny_bundle: Path) -> Examiner:
    return Examiner(Engine.load(tiny_bundle), load_bundle(tiny_bundle), samples=2, seed=0, seen=Seen())


def test_the_default_table_has_a_row_for_every_bar() -> None:
    pictures, speech = ["t2i", "t2i_many", "vqa", "caption"], ["asr", "asr_unseen_voice", "tts"]
    assert list(TASKS) == [*pictures, *speech, "s2i", "svqa", "sqa", "chat"]
    assert not TASKS.keys() & MORE.keys()


def test_ears_alone_are_measured_where_their_classes_are_tokens(examiner: Examiner) -> None:
    sound = AudioPart(np.zeros(16_000, np.float32), 16_000)
    assert list(heard_rates(examiner, "WER", ["x"], [sound])) == ["WER"]  # the bundle does not say what they are
    tokenizer = examiner.engine.bundle.tokenizer
    first, second = (token + 1 for token in tokenizer.encode_plain("ab")[:2])
    path = torch.tensor([0, first, first, 0, first, second, 0])  # repeats and blanks are no tokens
    clock = WordClock(lambda _: torch.nn.functional.one_hot(path).float(), tokenizer.encode_plain, 16_000, 0.06)
    hearing = copy(examiner.engine)
    hearing.bundle = replace(examiner.engine.bundle, word_clock=clock)
    both = Examiner(hearing, examiner.bundle, samples=1, seed=0)
    said = tokenizer.decode([first - 1, first - 1, second - 1])
    assert both.ears_alone([sound]) == [said]
    assert heard_rates(both, "WER", [said], [sound])["(WER, CTC alone)"] == (0.0, 1)


def test_every_variant_changes_one_thing() -> None:
    presets = {preset.task: preset for preset in OMNI_PRESETS}
    assert [change(presets["t2i"]).steps.steps(256) for change in STEPS.values()] == [256, 128, 64, 32, 16]
    assert list(STEPS) == ["N", "N/2", "N/4", "N/8", "N/16"]
    off = ABLATIONS["adaptive length"][f"off ({FIXED_CANVAS} tokens)"]
    assert off(presets["tts"]).canvas.tokens == FIXED_CANVAS
    assert off(presets["t2i"]) == presets["t2i"]
    pre_infill = ABLATIONS["pre-infill"]
    assert pre_infill["0.2"](presets["svqa"]) == presets["svqa"]
    assert [pin.at_fraction for pin in pre_infill["0.4"](presets["sqa"]).pins] == [0.4]
    assert pre_infill["off"](presets["svqa"]).pins == ()
    assert pre_infill["0.4"](presets["t2i"]) == presets["t2i"]
    assert ABLATIONS["position penalty"]["off"](presets["t2i"]).position_penalty == 1.0
    assert ABLATIONS["guidance"]["0"](presets["s2i"]).guidance == 0.0


def test_curves_are_measured_and_written(examiner: Examiner, tmp_path: Path) -> None:
    results = curves(examiner, ["t2i", "vqa"])
    assert {r.setting for r in results} == set(STEPS)
    assert examiner.engine.bundle.presets[0].steps == StepsRule()  # the original keeps its own
    table = results_markdown(results)
    assert table.startswith(
        "| steps | N | N/2 | N/4 | N/8 | N/16 |\n|---|---|---|---|---|---|\n| t2i 1 object, shape and colour |"
    )
    assert set(results_json(results)["steps"]["image question"]) == set(STEPS)
    draw_curves(results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_half_the_steps_is_half_of_what_the_preset_has(examiner: Examiner) -> None:
    presets = {preset.task: preset for preset in OMNI_PRESETS}
    for steps, canvas, wanted in (
        (StepsRule(), 16, 8),
        (StepsRule(0.5), 68, 17),
        (StepsRule(number=9), 68, 4),
        (StepsRule(number=1), 68, 1),
    ):
        assert halved(replace(presets["t2i"], steps=steps)).steps.steps(canvas) == wanted
    results = half(examiner, ["t2i"])
    assert {r.setting for r in results} == {*HALF, DIFFERENCE}
    assert "| difference in points |\n" in results_markdown(results)


def test_a_difference_is_written_in_points() -> None:
    scores = {"the preset's": 0.95, "half": 0.935, DIFFERENCE: -0.015}
    results = [Result("steps", setting, Score("image question", v, 1, 0.0)) for setting, v in scores.items()]
    assert "| image question | 95.0 % | 93.5 % | -1.5 |" in results_markdown(results)


def test_every_unit_has_its_own_plot() -> None:
    scores = Score("image question", 0.5, 1, 0.0), Score("image codec PSNR", 25.0, 1, 0.0)
    results = [Result("steps", "N", score) for score in scores]
    shown = {unit: curves_of(results, unit) for unit in ("%", "dB")}
    assert [list(found) for found in shown.values()] == [["image question"], ["image codec PSNR"]]
    assert [score.shown for score in scores] == [50.0, 25.0]


def test_ablations_take_the_tasks_they_are_meant_for(examiner: Examiner) -> None:
    results = ablations(examiner, ["t2i", "vqa"])
    assert {r.technique for r in results} == {"position penalty", "repetition penalty", "guidance"}
    assert all(r.score.name.startswith("t2i") for r in results)


def test_scores_know_their_unit_and_direction() -> None:
    assert str(Score("image codec PSNR", 25.04, 1, 0.0)) == "25.0 dB"
    assert str(Score("speech -> text WER", 0.5, 1, 0.0)) == "50.0 %"
    assert not Score("speech -> text WER", 0.5, 1, 0.0).higher_is_better
    assert Score("its speech says its text (1 - WER, own ears)", 0.5, 1, 0.0).higher_is_better


def test_picture_measures() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    noisy = np.clip(picture + rng.normal(0, 10, picture.shape), 0, 255).astype(np.uint8)
    assert psnr(picture, picture) == 100.0
    assert psnr(picture, noisy) == pytest.approx(28.1, abs=0.4)  # 20 log10(255 / 10)
    assert ssim(picture, picture) == pytest.approx(1.0)
    assert 0.5 < ssim(picture, noisy) < 1.0
    assert ssim(picture, 255 - picture) < 0


def test_mels_of_the_same_sound_have_no_distance() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 22_050).astype(np.float32)
    assert mel_distance(sound, sound) == 0.0
    assert mel_distance(sound, sound[:20_000]) < 0.1
    assert mel_distance(sound, sound / np.float32(np.e)) == pytest.approx(1.0, abs=0.1)
    assert not Score("speech codec, log-mel distance", 0.5, 1, 0.0).higher_is_better
    assert str(Score("speech codec, log-mel distance", 0.5, 1, 0.0)) == "0.500"


def test_the_image_codec_is_scored_alone(examiner: Examiner) -> None:
    found = image_codec(examiner)
    assert 0 < found["image codec PSNR"].value < 40
    assert found["image codec, shapes and colours right"] == (0.0, 2)  # random weights


@pytest.mark.skipif(shutil.which("flite") is None or shutil.which("espeak-ng") is None, reason="needs the voices")
def test_the_command_writes_its_results(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main(["--model", str(tiny_bundle), "--tasks", "vqa", "--samples", "1", "--out", str(tmp_path)])
    (total, _) = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    assert total == "image question"
    evaluate.main(["--model", str(tiny_bundle), "--tasks", "vqa", "--samples", "1", "--curves", "--out", str(tmp_path)])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"scores.md", "scores.json", "curves.md", "curves.json", "curves.png"} <= names
    assert json.loads((tmp_path / "curves.json").read_text())["curves"]["steps"]["image question"].keys() == set(STEPS)


@pytest.mark.skipif(shutil.which("flite") is None or shutil.which("espeak-ng") is None, reason="needs the voices")
def test_every_task_of_the_table_runs_and_counts_its_samples(examiner: Examiner) -> None:
    short = Examiner(examiner.engine, examiner.bundle, 2, 0, spoken_samples=1, seen=Seen())
    tasks = possible(examiner.bundle, TASKS)
    assert set(TASKS) - set(tasks) == {"chat"}  # of which the tiny bundle has no preset
    found = {s.name: s.samples for s in scores(short, tasks)}
    for name in ("t2i 1 object, all right", "caption names all", "speech -> text WER, unseen voice"):
        assert found[name] == 2
    for name in ("text -> speech WER, pocketsphinx", "spoken question + image -> text", "spoken small talk -> text"):
        assert found[name] == 1
    assert {"speech -> image as a share of typed", "its speech says its text (1 - WER, own ears)"} <= found.keys()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tasks", "chat"], "can not do chat"),
        (["--tasks", "dance"], "unknown task dance; there are: t2i, t2i_many"),
        (["--spoken-samples", "0"], "must be at least 1"),
        (["--half", "--curves"], "not allowed with"),
    ],
)
def test_mistakes_are_named(
    tiny_bundle: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(evaluate, "_need_judges", lambda parser: None)
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--model", str(tiny_bundle), *arguments])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
def test_many_recordings_are_heard_as_each_alone() -> None:
    texts = content_words()[:17]
    waves = record_all(texts, [Delivery(SPEAKING_VOICE)] * len(texts), 16_000)
    recordings = [((w / 32767).astype(np.float32), 16_000) for w in waves]
    alone = [sphinx_hears(*recording) for recording in recordings]
    assert sphinx_hears_all(recordings) == alone
    assert sum(a == b for a, b in zip(alone, texts, strict=True)) > 12


@pytest.mark.slow
def test_the_built_in_model_alone_and_talking() -> None:
    examiner = Examiner(Engine.load("unmask-mini"), load_bundle("unmask-mini"), samples=4, seed=0, seen=Seen())
    for task, judge in (*MORE.items(), *((name, TASKS[name]) for name in ("sqa", "chat"))):
        assert judge(examiner), task
