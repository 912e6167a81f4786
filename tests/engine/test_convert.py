import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unmask_engine.bundle import BundleError, load_bundle
from unmask_engine.convert import byte_pair_tokenizer, convert_bundle, convert_file


def test_a_state_dict_becomes_safetensors(tmp_path: Path) -> None:
    weight = torch.randn(4, 3)
    torch.save({"w": weight, "t": weight.T, "alias": weight, "n": torch.tensor(3)}, tmp_path / "net.pt")
    written = load_file(convert_file(tmp_path / "net.pt", tmp_path / "net.safetensors"))
    assert torch.equal(written["w"], weight)
    assert torch.equal(written["t"], weight.T)
    assert torch.equal(written["alias"], weight)
    assert written["n"] == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.pt", "net.safetensors"]


def test_weights_may_be_wrapped(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, tmp_path / "net.bin")
    assert list(load_file(convert_file(tmp_path / "net.bin", tmp_path / "out.safetensors"))) == ["w"]


class Trap:
    def __reduce__(self) -> object:
        return os.mkdir, ("sprung",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Trap()}, "evil.pt")
    with pytest.raises(BundleError, match="holds more than tensors"):
        convert_file(Path("evil.pt"), Path("evil.safetensors"))
    assert os.listdir() == ["evil.pt"]


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "net.pt").write_bytes(data)
    with pytest.raises(BundleError, match=r"net\.pt"):
        convert_file(tmp_path / "net.pt", tmp_path / "net.safetensors")
    assert not (tmp_path / "net.safetensors").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(BundleError, match="named tensors"):
        convert_file(tmp_path / "list.pt", tmp_path / "out.safetensors")
    (tmp_path / "net.onnx").touch()
    with pytest.raises(BundleError, match="can be converted"):
        convert_file(tmp_path / "net.onnx", tmp_path / "out.safetensors")
    with pytest.raises(BundleError, match="is not there"):
        convert_file(tmp_path / "gone.pt", tmp_path / "out.safetensors")


def test_a_bundle_converts_what_it_names_once(tmp_path: Path) -> None:
    description = (load_bundle("omni-diffusion").path / "bundle.json").read_text()
    (tmp_path / "bundle.json").write_text(description)
    (tmp_path / "vocoder").mkdir()
    torch.save({"w": torch.ones(2)}, tmp_path / "vocoder" / "hift.pt")
    assert convert_bundle(tmp_path) == [tmp_path / "vocoder" / "hift.safetensors"]
    assert convert_bundle(tmp_path) == []


def vocabulary(folder: Path, added: dict[str, int]) -> Path:
    pieces = ["h", "i", "1", "2", "Ġ", "Ċ", "hi", "Ġhi"]
    (folder / "vocab.json").write_text(json.dumps({piece: id_ for id_, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nh i\nĠ hi\n")
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def test_a_vocabulary_becomes_a_tokenizer(tmp_path: Path) -> None:
    added = {"<|mask|>": 8, "<|audio_0|>": 9, "<|audio_1|>": 10}
    tokenizer = byte_pair_tokenizer(vocabulary(tmp_path, added))
    assert tokenizer.encode("hi hi12\n<|mask|><|audio_1|>").ids == [6, 7, 2, 3, 5, 8, 10]  # digits stay single
    assert tokenizer.decode([6, 7, 5]) == "hi hi\n"
    assert tokenizer.decode([6, 8, 9]) == "hi<|audio_0|>"  # codes are added, but not special


def test_added_tokens_must_get_their_ids(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="should have id 99"):
        byte_pair_tokenizer(vocabulary(tmp_path, {"<|mask|>": 99}))


def test_the_tokenizer_config_says_what_is_special(tmp_path: Path) -> None:
    listed = {"8": {"content": "<x>", "special": False}, "9": {"content": "<y>", "special": True}}
    (vocabulary(tmp_path, {}) / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    assert byte_pair_tokenizer(tmp_path).decode([8, 9]) == "<x>"
