"""Fine-tuning: samples as the bundle would serve them, a loss that falls, a run that goes on, a bundle that answers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from unmask_engine.bundle import Bundle, load_bundle
from unmask_engine.components import build_component, load_component
from unmask_engine.engine import Engine
from unmask_engine.layout import Content, lay_out, without_slots
from unmask_engine.loaded import LoadedBundle
from unmask_engine.models.omni import OmniModel
from unmask_engine.request import GenerationRequest, TextPart
from unmask_training import finetune as command
from unmask_training.bundle_writer import BundleWriter, Span, Written
from unmask_training.finetune import finetune
from unmask_training.finetune_batches import MAX_PADS, Batches, pack
from unmask_training.finetune_devices import Alone
from unmask_training.finetune_model import Objective, add_lora, merge_lora
from unmask_training.finetune_run import FineTuning
from unmask_training.jsonl import DataError, read_samples
from unmask_training.plot_losses import read_log
from unmask_training.sample_store import SampleStore

QUICK = FineTuning(steps=12, learning_rate=3e-3, accumulate=1, drop=0.0, bf16=False, save_every=5)
ALONE = Alone(torch.device("cpu"), bf16=False)


def omni_of(bundle: Bundle) -> OmniModel:
    return cast(OmniModel, load_component(bundle, "backbone"))


def writer_of(bundle: Bundle) -> BundleWriter:
    omni = omni_of(bundle)
    return BundleWriter(bundle, omni.speech_encoder, omni.lm_head.weight.shape[0])


def losses(out: Path) -> list[float]:
    return read_log(out / "training" / "log.csv")[1]


def test_a_sample_is_written_as_it_is_served(tiny_bundle: Path, four_samples: Path) -> None:
    """The prompt of a training sample is the prompt of the same request, ids and speech rows alike."""
    writer, loaded = writer_of(load_bundle(tiny_bundle)), LoadedBundle.load(tiny_bundle)
    presets = {preset.task: preset for preset in loaded.presets}
    drawn, asked, heard, talked = read_samples(four_samples)
    contents = {
        "t2i": (drawn, Content("a red circle")),
        "vqa": (asked, Content("what shape is it", image=asked.image(0))),
        "asr": (heard, Content(audio=heard.audio(0))),
    }
    for task, (sample, content) in contents.items():
        made = writer.write(sample)
        prompt = lay_out(loaded, presets[task].messages, content)
        (answer,) = made.answers
        assert made.ids[: answer.start] == list(prompt.ids)
        assert made.ids[-2:] == [writer.vocabulary.end, writer.vocabulary.special["newline"]]
        for at, rows in made.speech:
            # The served rows went through the projector, too.
            with torch.no_grad():
                projected = loaded.model.model.audio_projection(torch.from_numpy(rows).float())
            torch.testing.assert_close(projected, prompt.embeddings[at : at + len(rows)], atol=1e-2, rtol=1e-2)
        # Where the condition is dropped, the prompt is the one that guidance compares with.
        assert made.bare == list(lay_out(loaded, without_slots(presets[task].messages), Content()).ids)
    image = writer.write(drawn)
    assert len(image.ids) - image.answers[0].start == 2 * 2 + 4
    assert len(writer.write(talked).answers) == 2


def test_a_spoken_answer_follows_its_text_or_stands_at_its_mark(four_samples: Path) -> None:
    bundle = load_bundle("unmask-mini")
    omni = omni_of(bundle)
    turns = [{"role": "user", "content": "<|audio|>"}, {"role": "assistant", "content": "two\n<|audio|>"}]
    four_samples.write_text(json.dumps({"messages": turns, "audios": ["a.wav", "a.wav"]}))
    (sample,) = read_samples(four_samples)
    for pin_speech in (False, True):
        writer = BundleWriter(bundle, omni.speech_encoder, omni.lm_head.weight.shape[0], pin_speech)
        made = writer.write(sample)
        answer = made.ids[made.answers[0].start :]
        text = writer.tokenizer.encode("two\n")
        mark = 16 if pin_speech else len(text)  # the preset pins int(0.2 * 80)
        assert answer[:mark] == text + [writer.vocabulary.pad] * (mark - len(text))
        assert answer[mark] == writer.vocabulary.special["begin_of_audio"]
        codes = answer[mark + 1 : -3]
        assert len(codes) == 13  # ceil of one second at 12.5 Hz
        assert all(code in writer.vocabulary.audio for code in codes)


def test_batches_hide_answers_only_and_repeat_exactly(tiny_bundle: Path, four_samples: Path, tmp_path: Path) -> None:
    writer = writer_of(load_bundle(tiny_bundle))
    store = SampleStore(tmp_path / "store", writer.encoder.config.size, {})
    written = [writer.write(sample) for sample in read_samples(four_samples)]
    store.extend(iter(written[:2]))
    with (tmp_path / "store" / "ids.bin").open("ab") as file:
        file.write(b"cut off")  # a run that was killed
    store = SampleStore(tmp_path / "store", writer.encoder.config.size, {})
    store.extend(iter(written[2:]))
    for i, sample in enumerate(written):
        assert store[i].ids == sample.ids
        assert (store[i].answers, store[i].bare) == (sample.answers, sample.bare)
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(store[i].speech, sample.speech, strict=True))
    with pytest.raises(ValueError, match="other data or of another bundle"):
        SampleStore(tmp_path / "store", writer.encoder.config.size, {"bundle": "another"})
    batches = Batches(store, 160, writer.vocabulary, seed=0, drop=0.5)
    for number in range(2 * len(batches)):
        batch, again = batches[number], batches[number]
        assert torch.equal(batch.ids, again.ids)
        assert torch.equal(batch.hidden, again.hidden)
        assert batch.hidden.any()
        assert sum(batch.lengths) == len(batch.ids) <= 160
    ids = sorted(i for sequence in batches.sequences for i in sequence)
    assert ids == [0, 1, 2, 3]


def test_pads_are_hidden_less_and_prompts_never() -> None:
    import random

    rng = random.Random(0)
    sample = Written([1] * 100, (Span(40, 100),), (), None)
    batches = [pack([sample], 0, 4, rng) for _ in range(500)]
    assert all(not batch.hidden[:40].any() for batch in batches)
    assert {1 <= len(batch.ids) - 100 <= MAX_PADS for batch in batches} == {True}
    answer = torch.cat([batch.hidden[40:100] for batch in batches]).float().mean()
    pads = torch.cat([batch.hidden[100:] for batch in batches]).float().mean()
    assert float(answer) == pytest.approx(0.5, abs=0.05)
    assert float(pads) == pytest.approx(0.3, abs=0.05)


def test_a_sample_without_room_is_refused_with_its_line(tiny_bundle: Path, four_samples: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"samples.jsonl:1: takes \d+ tokens; at most 24 fit"):
        finetune(load_bundle(tiny_bundle), four_samples, None, tmp_path / "out", replace(QUICK, tokens=40), ALONE)


@pytest.mark.parametrize(("lora", "ema"), [(0, 0.0), (0, 0.9), (4, 0.0)])
def test_a_killed_run_goes_on_where_it_saved(
    tiny_bundle: Path, four_samples: Path, tmp_path: Path, lora: int, ema: float
) -> None:
    bundle, how = load_bundle(tiny_bundle), replace(QUICK, steps=8, lora_rank=lora, ema=ema)
    finetune(bundle, four_samples, None, tmp_path / "whole", how, ALONE)

    class Killed(Exception):
        pass

    class Cut(Alone):
        clipped = 0

        def clip(self, *arguments: object) -> torch.Tensor:
            self.clipped += 1
            if self.clipped == 7:  # two steps after the checkpoint of step 5
                raise Killed
            return super().clip(*arguments)  # type: ignore[arg-type]

    with pytest.raises(Killed):
        finetune(bundle, four_samples, None, tmp_path / "cut", how, Cut(torch.device("cpu"), bf16=False))
    assert [path.name for path in (tmp_path / "cut" / "training").glob("step-*")] == ["step-5"]
    finetune(bundle, four_samples, None, tmp_path / "cut", how, ALONE)
    whole, cut = (omni_of(load_bundle(tmp_path / name)).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    with pytest.raises(ValueError, match="begun with other settings"):
        finetune(bundle, four_samples, None, tmp_path / "cut", replace(how, seed=1), ALONE)


def test_the_speech_encoder_hears_and_does_not_learn(tiny_bundle: Path, four_samples: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    finetune(bundle, four_samples, None, tmp_path / "out", replace(QUICK, steps=4), ALONE)
    before, after = omni_of(bundle).state_dict(), omni_of(load_bundle(tmp_path / "out")).state_dict()
    same = {name for name in before if torch.equal(before[name].to(torch.bfloat16), after[name].to(torch.bfloat16))}
    assert {name for name in before if "audio_model" in name} <= same
    assert not {"model.embed_tokens.weight", "model.audio_projection.mlp.0.weight", "lm_head.weight"} & same


@pytest.mark.parametrize("lora", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_the_built_in_model_learns_four_samples_and_answers(four_samples: Path, tmp_path: Path, lora: int) -> None:
    out = tmp_path / "mine"
    how = ["--steps", "10", "--accumulate", "1", "--learning-rate", "1e-2" if lora else "2e-3", "--drop", "0"]
    command.main(["--data", str(four_samples), "--out", str(out), "--device", "cpu", "--lora", str(lora), *how])
    seen = losses(out)
    assert sum(seen[-3:]) < 0.8 * sum(seen[:3])
    assert json.loads((out / "bundle.json").read_text())["name"] == "mine"
    engine = Engine.load(out)
    (made,) = engine.generate([GenerationRequest((TextPart("who are you"),), ("text",))])
    assert made.text is not None
    assert engine.name == "mine"


def test_lora_adds_little_and_merges_into_the_same_shapes(tiny_bundle: Path) -> None:
    omni = omni_of(load_bundle(tiny_bundle))
    before = {name: tensor.clone() for name, tensor in omni.state_dict().items()}
    add_lora(omni, 2)
    learning = {name for name, p in omni.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name and "audio" not in name for name in learning)
    for name, p in omni.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    x = torch.randn(7, omni.model.config.hidden_size)
    with torch.no_grad():
        adapted = omni.forward_packed(x, [7])
        merge_lora(omni)
        torch.testing.assert_close(omni.forward_packed(x, [7]), adapted, atol=1e-4, rtol=1e-4)
    assert {n: t.shape for n, t in omni.state_dict().items()} == {n: t.shape for n, t in before.items()}
    assert not torch.equal(
        omni.state_dict()["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"]
    )


def test_the_published_model_fits_without_its_weights() -> None:
    """Shapes and one forward on the meta device: 7.789 B parameters without ears and projector (model.md)."""
    omni = cast(OmniModel, build_component(load_bundle("omni-diffusion"), "backbone"))
    count = sum(p.numel() for name, p in omni.named_parameters() if "audio_" not in name)
    assert round(count / 1e9, 3) == 7.789
    add_lora(omni, 16)
    assert all(p.is_meta for p in omni.parameters())
    learning = sum(p.numel() for p in omni.parameters() if p.requires_grad)
    assert learning == 16 * 28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    embeds = omni.embed(torch.zeros(40, dtype=torch.long, device="meta"))
    out = omni.logits(omni.forward_packed(embeds, [30, 10]))
    assert out.shape == (40, 176_264)
    assert isinstance(Objective(omni, 151_666), torch.nn.Module)
