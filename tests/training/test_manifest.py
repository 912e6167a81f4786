"""Benchmarks as tables of files: what is read, what is refused, how answers are judged."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unmask_engine.bundle import load_bundle
from unmask_engine.engine import Engine
from unmask_engine.media import write_audio, write_image
from unmask_engine.request import AudioPart, Generation, ImagePart, Modality, Part, TextPart
from unmask_training import evaluate
from unmask_training.evaluate_clip import ClipError, load_clip
from unmask_training.evaluate_manifest import ManifestError, normal, read_manifest, score_manifest, yes_or_no
from unmask_training.examiner import Examiner
from unmask_training.seen import Seen


@pytest.fixture(scope="module")
def examiner(tiny_bundle: Path) -> Examiner:
    return Examiner(Engine.load(tiny_bundle), load_bundle(tiny_bundle), samples=9, seed=0, seen=Seen())


class Answering(Examiner):
    """Gives known answers instead of asking the model."""

    def __init__(self, texts: Sequence[str], examiner: Examiner) -> None:
        super().__init__(examiner.engine, examiner.bundle, examiner.samples, examiner.seed, seen=Seen())
        self.texts = texts
        (self.blank,) = examiner.answers([(TextPart("a star"),)], ("image",), "t2i")

    def answers(self, parts: Sequence[tuple[Part, ...]], outputs: tuple[Modality, ...], task: str) -> list[Generation]:
        assert len(parts) == len(self.texts)
        return [replace(self.blank, text=text) for text in self.texts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    (tmp_path / "a.wav").write_bytes(write_audio(AudioPart(noise, 16_000), "wav"))
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(write_image(ImagePart(np.zeros((32, 32, 3), np.uint8)), "png"))
    return tmp_path


def manifest(folder: Path, text: str) -> Path:
    file = folder / "rows.csv"
    file.write_text(text)
    return file


def test_each_header_has_its_scores_and_counts_its_rows(examiner: Examiner, folder: Path) -> None:
    heard = score_manifest(examiner, manifest(folder, "audio,text\na.wav,A RED circle.\n"))
    assert {name: m.samples for name, m in heard.items()} == {"rows, WER": 1}
    answered = score_manifest(examiner, manifest(folder, "image,question,answer\na.png,what is it,a star\n"))
    assert list(answered) == ["rows, exact answer", "rows, words of the answer found"]
    said = score_manifest(examiner, manifest(folder, "text\nhello\n"))
    assert list(said) == ["rows, text -> speech WER, own ears"]
    drawn = score_manifest(examiner, manifest(folder, "caption\na star\na circle\n"), lambda p, c: [0.2] * len(p))
    assert drawn == {"rows, CLIP score": (pytest.approx(0.2), 2)}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,text\n", "the header is path,text; it may be audio,text or text or image,question,answer"),
        ("audio,text\n", "no rows"),
        ("audio,text\na.wav,\n", "2: a value is empty"),
        ("audio,text\na.wav,one,two\n", "2: a value is empty, or there is one too many"),
        ("audio,text\nno.wav,hello\n", "2: no such file"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, text: str, complaint: str) -> None:
    with pytest.raises(ManifestError, match=complaint):
        read_manifest(manifest(folder, text), 10)


def test_answers_are_read_leniently() -> None:
    assert normal("A RED circle, isn't it?") == "a red circle isn't it"
    said = {"Yes, there is.": "yes", "No.": "no", "There is no dog.": "no", "It is not there": "no", "A dog": None}
    assert {text: yes_or_no(text) for text in said} == said


def test_pope_is_judged_by_yes_and_no(examiner: Examiner, folder: Path) -> None:
    rows = "a.png,is there a dog,yes\na.png,is there a cat,no\nb.png,is there a cat,no\n"
    file = manifest(folder, f"image,question,answer\n{rows}")
    found = score_manifest(Answering(["Yes, there is a dog.", "no", "Yes."], examiner), file)
    assert found["rows, yes or no"] == (pytest.approx(2 / 3), 3)
    assert found["rows, exact answer"].value == pytest.approx(1 / 3)


def test_mme_counts_pictures_of_which_all_is_right(examiner: Examiner, folder: Path) -> None:
    rows = ("a.png,q,Yes,color", "a.png,q,No,color", "b.png,q,Yes,color", "b.png,q,No,color", "a.png,q,Yes,count")
    file = manifest(folder, "\n".join(("image,question,answer,category", *rows)) + "\n")
    found = score_manifest(Answering(["yes", "no", "yes", "yes", "no"], examiner), file)
    assert found["rows, color, acc"] == (0.75, 4)
    assert found["rows, color, acc+"] == (0.5, 2)
    assert found["rows, count, acc"] == (0.0, 1)
    assert found["rows, yes or no"] == (0.6, 5)


def test_drawing_captions_needs_clip(examiner: Examiner, folder: Path) -> None:
    with pytest.raises(ManifestError, match="give --clip"):
        score_manifest(examiner, manifest(folder, "caption\na star\n"))
    with pytest.raises(ClipError, match="folder with a CLIP model"):
        load_clip(folder)


@pytest.mark.filterwarnings("ignore")
def test_clip_scores_each_picture_with_its_caption(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    tokens = [*(f"{c}</w>" for c in "abcdefgh"), *"abcdefgh", "<|startoftext|>", "<|endoftext|>"]
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = transformers.CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(tokens), "max_position_embeddings": 8},
        vision_config={**size, "image_size": 32, "patch_size": 16}, projection_dim=8,
    )  # fmt: skip
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    vocab = {token: i for i, token in enumerate(tokens)}
    transformers.CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(tmp_path)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    body = {"image_processor_type": "CLIPImageProcessor", **sides}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(body))
    score = load_clip(tmp_path)
    rng = np.random.default_rng(0)
    pictures = [ImagePart(rng.integers(0, 255, (48, 40, 3), dtype=np.uint8)) for _ in range(20)]
    texts = [" ".join(rng.choice(list("abcdefgh"), 12)) for _ in range(20)]  # too long: cut, not refused
    together = score(pictures, texts)
    assert len(together) == 20
    assert all(0 <= cosine <= 1 for cosine in together)
    assert any(together)
    assert score(pictures[17:18], texts[17:18]) == pytest.approx([together[17]], abs=1e-5)
    assert score(pictures, texts[1:] + texts[:1]) != pytest.approx(together, abs=1e-6)


def test_the_command_refuses_a_folder_without_clip(
    tiny_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(folder, "caption\na star\n")
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--model", str(tiny_bundle), "--manifest", str(file), "--clip", str(folder)])
    assert ended.value.code == 2
    assert "config.json" in capsys.readouterr().err


def test_the_command_says_how_many_rows_there_were(
    tiny_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(folder, "audio,text\na.wav,hello\n")
    evaluate.main(["--model", str(tiny_bundle), "--manifest", str(file), "--out", str(folder / "out")])
    assert (folder / "out" / "scores.md").read_text().rstrip().endswith("| lower | 1 |")
