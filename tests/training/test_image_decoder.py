"""The image decoder trained on alone: the codes of pictures stay, and the bundle draws with it. Warm starts."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from unmask_engine.bundle import find_bundle
from unmask_engine.codecs.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unmask_engine.codecs.vocoder import Vocoder
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_training import fit_speech, recipe, train_image_codec, train_vocoder, warm_start
from unmask_training.partial import save_weights
from unmask_training.train_speech_codec import Codec
from unmask_training.vocabulary import build_tokenizer

CONFIG = {"seed": 3, "image_decoder": {"minutes": 0.01}}
BACKBONE = {"hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with a small untrained image codec, and few pictures to train on."""
    small = ImageTokenizerConfig(8, (1, 1, 1, 1, 1), 1, train_image_codec.CONFIG.num_bits, norm_groups=4)
    drawn = train_image_codec.pictures
    monkeypatch.setattr(train_image_codec, "CONFIG", small)
    monkeypatch.setattr(train_image_codec, "pictures", lambda count, seed: drawn(min(count, 9), seed))
    torch.manual_seed(0)
    save_weights(recipe.publish.rounded(ImageTokenizer(small)).state_dict(), tmp_path / "image_codec.pt")
    return tmp_path


def _codes(model: ImageTokenizer) -> Tensor:
    pictures, _ = train_image_codec.pictures(6, 77)
    with torch.no_grad():
        return model.encode(pictures.float() / 127.5 - 1)


def test_refining_changes_the_decoder_and_no_code(work: Path) -> None:
    parts = list(recipe.PARTS)
    assert parts.index("pictures") < parts.index("image_decoder") < parts.index("bundle")
    done, make = recipe.PARTS["image_decoder"]
    make(work, CONFIG)
    before, after = recipe.image_tokenizer(work), recipe.image_tokenizer(work, done)
    assert torch.equal(_codes(before), _codes(after))
    old, new = before.state_dict(), after.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)


def test_refining_goes_on_where_it_was(work: Path) -> None:
    make = recipe.PARTS["image_decoder"][1]
    make(work, CONFIG)
    steps = torch.load(work / "image_decoder" / "checkpoint.pt", weights_only=True)["step"]
    first = (work / "image_decoder.pt").read_bytes()
    make(work, CONFIG)  # its time is spent
    assert torch.load(work / "image_decoder" / "checkpoint.pt", weights_only=True)["step"] == steps > 0
    assert (work / "image_decoder.pt").read_bytes() == first


def test_the_loss_of_a_perfect_drawing_is_none() -> None:
    pictures, _ = train_image_codec.pictures(3, 1)
    images = pictures.float() / 127.5 - 1
    assert float(train_image_codec.drawing_loss(images, images)) == 0
    near = float(train_image_codec.drawing_loss(images * 0.95, images))
    assert 0 < near < float(train_image_codec.drawing_loss(images * 0.5, images))


def test_a_bundle_draws_with_the_refined_decoder_where_there_is_one(work: Path, tmp_path: Path) -> None:
    vocab = build_tokenizer(0, work / "tokenizer.json").get_vocab_size()
    (work / "am.mvn").write_text("")
    codec = Codec()
    save_weights(codec.state_dict(), work / "speech_codec.pt")
    speech_out = fit_speech.SpeechOut(codec.flow, Vocoder(train_vocoder.CONFIG))
    save_weights(speech_out.state_dict(), work / "speech_out.pt")
    config = {**CONFIG, "backbone": BACKBONE}
    speech = SpeechEncoderConfig(size=32, num_heads=2, ffn_size=32, num_layers=2, num_tp_layers=1, ctc_vocab=5)
    model = OmniModel(recipe.backbone_config(config, vocab), speech)

    def written(name: str) -> dict[str, Tensor]:
        return load_file(recipe.write_bundle(work, config, model, tmp_path / name, 1.0) / "image_tokenizer.safetensors")

    plain = written("plain")
    refined = {name: t + 1 if name.startswith("decoder.") else t for name, t in plain.items()}
    save_weights(refined, work / "image_decoder.pt")
    again = written("refined")
    assert all(
        torch.equal(again[name], t.to(torch.bfloat16)) or not t.is_floating_point() for name, t in refined.items()
    )
    assert not torch.equal(again["decoder.conv_out.bias"], plain["decoder.conv_out.bias"])


def test_a_warm_start_killed_in_the_middle_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = find_bundle("unmask-mini")

    def killed(weights: object, where: Path) -> None:
        where.write_bytes(b"half of")
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr("unmask_training.partial.torch.save", killed)
        with pytest.raises(KeyboardInterrupt):
            warm_start.warm_start(bundle, tmp_path)
    assert not [file.name for file in tmp_path.iterdir() if file.suffix == ".pt"]
    warm_start.warm_start(bundle, tmp_path)
    assert (tmp_path / "start.pt").exists()
    for part in ("vocoder", "speech_codec", "speech_out"):
        assert (tmp_path / recipe.PARTS[part][0]).exists()
    refined = tmp_path / "image_decoder.pt"
    assert refined.exists() == (tmp_path / "image_codec.pt").exists()  # both are the bundle's, or to be learnt anew
