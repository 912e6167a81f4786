"""Curves, ablations, manifests and codec scores: what is changed, what is measured, what is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from unmask_engine.bundle import load_bundle
from unmask_engine.engine import Engine
from unmask_engine.media import write_audio, write_image
from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.preset import StepsRule
from unmask_engine.request import AudioPart, ImagePart
from unmask_training import evaluate
from unmask_training.evaluate_codecs import image_codec, psnr, ssim
from unmask_training.evaluate_curves import ABLATIONS, FIXED_CANVAS, STEPS, ablations, curves
from unmask_training.evaluate_manifest import ManifestError, normal, read_manifest, score_manifest
from unmask_training.evaluate_report import draw_curves, results_json, results_markdown
from unmask_training.examiner import Examiner
from unmask_training.tasks import MORE, TASKS, Score


@pytest.fixture(scope="module")
def examiner(tiny_bundle: Path) -> Examiner:
    return Examiner(Engine.load(tiny_bundle), load_bundle(tiny_bundle), samples=2, seed=0)


def test_the_default_table_is_what_it_was() -> None:
    assert list(TASKS) == ["t2i", "t2i_many", "vqa", "caption", "asr", "asr_unseen_voice", "tts", "s2i", "svqa"]
    assert not TASKS.keys() & MORE.keys()


def test_every_variant_changes_one_thing() -> None:
    presets = {preset.task: preset for preset in OMNI_PRESETS}
    assert [change(presets["t2i"]).steps.steps(256) for change in STEPS.values()] == [256, 128, 64, 32, 16]
    assert list(STEPS) == ["N", "N/2", "N/4", "N/8", "N/16"]
    off = ABLATIONS["adaptive length"][f"off ({FIXED_CANVAS} tokens)"]
    assert off(presets["tts"]).canvas.tokens == FIXED_CANVAS
    assert off(presets["t2i"]) == presets["t2i"]
    assert ABLATIONS["position penalty"]["off"](presets["t2i"]).position_penalty == 1.0
    assert ABLATIONS["guidance"]["0"](presets["s2i"]).guidance == 0.0


def test_curves_are_measured_and_written(examiner: Examiner, tmp_path: Path) -> None:
    results = curves(examiner, ["t2i", "vqa"])
    assert {r.setting for r in results} == set(STEPS)
    assert examiner.engine.bundle.presets[0].steps == StepsRule()  # the original keeps its own
    table = results_markdown(results)
    assert table.startswith("| steps | N | N/2 | N/4 | N/8 | N/16 |\n|---|---|---|---|---|---|\n| t2i shape+colour |")
    assert set(results_json(results)["steps"]["image question"]) == set(STEPS)
    draw_curves(results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


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


def test_the_image_codec_is_scored_alone(examiner: Examiner) -> None:
    found = image_codec(examiner)
    assert 0 < found["image codec PSNR"] < 40
    assert found["image codec, shapes and colours right"] == 0.0  # random weights


def test_manifests(examiner: Examiner, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "a.wav").write_bytes(write_audio(AudioPart(rng.normal(0, 0.1, 8000).astype(np.float32), 16_000), "wav"))
    (tmp_path / "a.png").write_bytes(write_image(ImagePart(np.zeros((32, 32, 3), np.uint8)), "png"))
    speech, pictures = tmp_path / "speech.csv", tmp_path / "pictures.csv"
    speech.write_text("audio,text\na.wav,A RED circle.\n")
    pictures.write_text("image,question,answer\na.png,what is it,a star\n")
    assert list(score_manifest(examiner, speech)) == ["speech, WER"]
    assert list(score_manifest(examiner, pictures)) == ["pictures, exact answer", "pictures, words of the answer found"]
    assert normal("A RED circle, isn't it?") == "a red circle isn't it"
    for text, complaint in (
        ("path,text\n", "the header is path,text; it may be audio,text or image,question,answer"),
        ("audio,text\n", "no rows"),
        ("audio,text\na.wav,\n", "2: a value is empty"),
        ("audio,text\nno.wav,hello\n", "2: no such file"),
    ):
        speech.write_text(text)
        with pytest.raises(ManifestError, match=complaint):
            read_manifest(speech, 10)


@pytest.mark.skipif(shutil.which("flite") is None or shutil.which("espeak-ng") is None, reason="needs the voices")
def test_the_command_writes_its_results(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main(["--model", str(tiny_bundle), "--tasks", "vqa", "--samples", "1", "--out", str(tmp_path)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scores"].keys() == {"image question"}
    evaluate.main(["--model", str(tiny_bundle), "--tasks", "t2i", "--samples", "1", "--curves", "--out", str(tmp_path)])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"scores.md", "scores.json", "curves.md", "curves.json", "curves.png"} <= names
    assert json.loads((tmp_path / "curves.json").read_text())["curves"]["steps"]["t2i background"].keys() == set(STEPS)


@pytest.mark.slow
def test_the_built_in_model_alone_and_talking() -> None:
    examiner = Examiner(Engine.load("unmask-mini"), load_bundle("unmask-mini"), samples=4, seed=0)
    for task, judge in MORE.items():
        assert judge(examiner), task
