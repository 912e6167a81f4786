"""What an interruption leaves of a run: whole files or none, a checkpoint to go on from. Options of a stage."""

import json
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_training import (
    batches,
    loop,
    parallel,
    partial,
    publish,
    recipe,
    stage_bundle,
    train_backbone,
    train_vocoder,
)
from unmask_training.loop import Schedule, Training
from unmask_training.partial import save_arrays, save_weights, whole
from unmask_training.pools import Pools
from unmask_training.seen import recipes_of, trained_minutes
from unmask_training.sequences import Writer
from unmask_training.shared_bits import SharedBits
from unmask_training.train_backbone import Learner, Stage, train_stage
from unmask_training.vocabulary import build_tokenizer

# Trains a toy on small talk until it is killed, saving ten times a second.
ENDLESS = """
import functools, sys
from pathlib import Path
import torch
from unmask_training import train_backbone
sys.path.insert(0, str(Path(sys.argv[1])))
from test_pipeline import toy
torch.set_num_threads(1)
train_backbone.Schedule = functools.partial(train_backbone.Schedule, save_every_s=0.1)
model, pools = toy(Path(sys.argv[2]))
stage = train_backbone.Stage("stage", {"chat": 1.0}, 100.0, 1e-3)
train_backbone.train_stage(model, stage, pools, [], Path(sys.argv[2]), seed=0, tokens=256)
"""


def toy(work: Path) -> tuple[Learner, Pools]:
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=32, num_heads=2, ffn_size=32, num_layers=2, num_tp_layers=1, ctc_vocab=5)
    omni = OmniModel(BackboneConfig(tokenizer.get_vocab_size(), 32, 64, 5, 2, 1), speech)
    train_backbone.initialise(omni)
    bits = torch.randn(4096, 12).sign()
    return Learner(SharedBits(omni, tokenizer.token_to_id("<|image_0|>"), bits)), Pools(Writer(tokenizer, []), [], [])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    build_tokenizer(0, folder / "tokenizer.json")
    return folder


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "part.npz"
    with pytest.raises(KeyboardInterrupt):
        _begin(file)
    assert not file.exists()
    save_arrays(file, rows=np.arange(3))
    assert np.load(file)["rows"].tolist() == [0, 1, 2]
    assert [f.name for f in tmp_path.iterdir()] == ["part.npz"]


def _begin(file: Path) -> None:
    with whole(file) as where:
        where.write_bytes(b"half of")
        raise KeyboardInterrupt


def test_a_part_killed_while_it_writes_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(weights: object, where: Path) -> None:
        where.write_bytes(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(train_vocoder, "train", lambda *_, **__: torch.nn.Linear(2, 2))
    monkeypatch.setattr(recipe.Corpus, "load", lambda folder: None)
    config = {"seed": 0, "vocoder": {"minutes": 1}}
    done, make = recipe.PARTS["vocoder"]
    with monkeypatch.context() as during:
        during.setattr(partial.torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, config)
    assert not (tmp_path / done).exists()
    make(tmp_path, config)
    assert torch.load(tmp_path / done, weights_only=True).keys() == {"weight", "bias"}


def test_a_resumed_run_draws_other_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(torch.nn.Linear(1, 1), Schedule(1.0, 1e-3), tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert training.fresh_seed(5) == 5
    assert torch.equal(torch.rand(1), expected)  # a first run is as it always was
    training.step = 70
    training.save()
    again = Training(torch.nn.Linear(1, 1), Schedule(1.0, 1e-3), tmp_path)
    torch.manual_seed(5)
    assert again.fresh_seed(5) == 75
    assert not torch.equal(torch.rand(1), expected)
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    assert again.fresh_seed(5) == 1_000_075


def test_accumulated_batches_are_one_larger_batch(tmp_path: Path) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

    def trained(accumulate: int) -> tuple[torch.Tensor, float]:
        torch.manual_seed(0)
        schedule = Schedule(1.0, 1e-2, accumulate=accumulate)
        training = Training(torch.nn.Linear(3, 1), schedule, tmp_path / str(accumulate))
        halves = iter(x.chunk(accumulate))

        def loss_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
            loss = training.model(next(halves)).square().mean()
            return loss, {"mean": float(loss.detach())}

        loss, _, numbers = training._optimise(loss_of)
        assert float(loss) == pytest.approx(numbers["mean"])
        return training.model.weight.detach(), float(loss)

    (once, loss), (twice, same) = trained(1), trained(2)
    torch.testing.assert_close(once, twice)
    assert loss == pytest.approx(same)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"compiler": "eager"}, {"accumulate": 2}, {"pad_ratio": 1.0, "as_decoded": 0.0}])
def test_options_of_a_stage_train(work: Path, tmp_path: Path, options: dict[str, object]) -> None:
    model, pools = toy(work)
    before = {name: p.clone() for name, p in model.named_parameters()}
    names = list(model.state_dict())
    stage = Stage("stage", {"chat": 1.0}, 0.002, 1e-3, **options)  # type: ignore[arg-type]
    train_stage(model, stage, pools, [], tmp_path, seed=0, tokens=128)
    assert list(model.state_dict()) == names  # what is stored keeps its names
    changed = dict(model.named_parameters())["bits.omni.model.layers.0.mlp.up_proj.weight"]
    assert not torch.equal(changed, before["bits.omni.model.layers.0.mlp.up_proj.weight"])


def test_pads_are_hidden_as_the_stage_says(work: Path) -> None:
    _, pools = toy(work)
    batch = next(batches.BatchStream(pools, {"chat": 1.0}, 4000, random.Random(0)))

    def share(**options: float) -> float:
        generator = torch.Generator().manual_seed(0)
        hidden = [batches.hidden_positions(batch, generator, **options) for _ in range(40)]
        return float(torch.stack(hidden)[:, batch.pads].float().mean())

    attenuated = [share(as_decoded=0.0, pad_ratio=ratio) for ratio in (1.0, 0.6, 0.3)]
    assert attenuated == pytest.approx([0.5, 0.3, 0.15], abs=0.05)


def test_a_stage_keeps_dated_copies(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pools = toy(work)
    looks = count(step=9.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(looks)))  # nine seconds after the last
    stage = Stage("stage", {"chat": 1.0}, 1.2, 1e-3, keep_every=0.5)
    train_stage(model, stage, pools, [], tmp_path, seed=0, tokens=128)
    assert sorted(file.name for file in (tmp_path / "stage").glob("minute-*")) == ["minute-0.5.pt", "minute-1.pt"]
    early = torch.load(tmp_path / "stage" / "minute-0.5.pt", weights_only=True)
    assert 30 <= early["elapsed"] < 60
    again, _ = toy(work)
    again.load_averaged(early)
    name = "bits.omni.model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(dict(again.named_parameters())[name], dict(model.named_parameters())[name])


def test_a_run_killed_in_the_middle_goes_on(work: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    command = (sys.executable, "-c", ENDLESS, str(Path(__file__).parent), str(tmp_path))
    saved = tmp_path / "stage" / "checkpoint.pt"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        until = time.monotonic() + 300
        while not (saved.exists() and saved.stat().st_size and (tmp_path / "stage" / "log.csv").exists()):
            assert run.poll() is None, run.stderr.read().decode() if run.stderr else ""
            assert time.monotonic() < until
            time.sleep(0.05)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    partial_file = saved.with_name("checkpoint.pt.partial")
    partial_file.write_bytes(b"half of")  # what a kill during a save may leave
    model, pools = toy(tmp_path)
    stored = torch.load(saved, weights_only=True)
    assert stored["step"] > 0
    minutes = stored["elapsed"] / 60 + 0.01
    train_stage(model, Stage("stage", {"chat": 1.0}, minutes, 1e-3), pools, [], tmp_path, seed=0, tokens=256)
    after = torch.load(saved, weights_only=True)
    assert after["step"] > stored["step"]
    assert after["elapsed"] >= stored["elapsed"] + 0.5


def test_a_stage_becomes_the_backbone_it_averaged(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = toy(work)
    model.freeze_ears()
    with torch.no_grad():
        model.bits.embedding.normal_()
    learnt = [p for p in model.parameters() if p.requires_grad]
    (tmp_path / "stage2").mkdir()
    state = {"model": model.state_dict(), "ema": [p.detach() + 1 for p in learnt], "optimizers": [], "elapsed": 90.0}
    for name in ("checkpoint.pt", "minute-1.5.pt"):
        save_weights(state, tmp_path / "stage2" / name)

    written, trained = [], []

    def write(work: Path, config: recipe.Config, omni: OmniModel, out: Path, minutes: float) -> Path:
        written.append(omni)
        trained.append(minutes - config["stage"][0]["minutes"])
        return out

    fresh, _ = toy(work)
    monkeypatch.setattr(recipe, "untrained", lambda *_: fresh.omni)
    monkeypatch.setattr(recipe, "learner", lambda work, omni: fresh)
    monkeypatch.setattr(stage_bundle, "write_bundle", write)
    stage_bundle.main(["stage2", "--work", str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "bundle-stage2")
    norm = "model.layers.0.input_layernorm.weight"
    torch.testing.assert_close(written[0].state_dict()[norm], model.omni.state_dict()[norm] + 1)
    codes = written[0].model.embed_tokens.weight[model.bits.first :][:4096]
    expected = model.omni.model.embed_tokens.weight[model.bits.first :][:4096] + 1
    torch.testing.assert_close(codes, expected + fresh.bits.bits @ (model.bits.embedding + 1))  # folded
    fresh, _ = toy(work)
    stage_bundle.main(["stage2", "--work", str(tmp_path), "--minute", "1.5"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "bundle-stage2-1.5")
    assert trained == [1.5, 1.5]  # after the minutes of the first stage
    with pytest.raises(SystemExit):
        stage_bundle.main(["stage9", "--work", str(tmp_path)])
    assert "checkpoint.pt: there is no such file" in capsys.readouterr().err


def test_a_bundle_says_how_it_was_made(tmp_path: Path) -> None:
    files = ("tokenizer.json", "speaking/samples.npy", "listening/samples.npy", "pictures.npz")
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    first = recipe.data_hash(tmp_path)
    assert trained_minutes(tmp_path) is None
    publish.write_record(tmp_path, {"seed": 7, "data": {"drawn": 3}}, first, 80)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record == {"seed": 7, "data_sha256": first, "minutes": 80, "config": {"seed": 7, "data": {"drawn": 3}}}
    assert trained_minutes(tmp_path) == 80
    assert recipes_of(tmp_path) == [record["config"]]
    (tmp_path / files[1]).write_bytes(b"other")
    assert recipe.data_hash(tmp_path) != first
    (tmp_path / files[1]).unlink()
    assert recipe.data_hash(tmp_path) is None
