import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unmask_engine.bundle import BundleError
from unmask_engine.checkpoint import load_weights, mismatches, stored_tensors


class Net(nn.Module):
    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.b = nn.Linear(2, 2, bias=False)
        self.register_buffer("steps", torch.arange(2))


def net_on_meta() -> Net:
    with torch.device("meta"):
        return Net()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in Net().state_dict().items()}


@pytest.fixture
def file(tmp_path: Path, weights) -> Path:
    save_file(weights, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def same(net: Net, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


def test_loads_exactly(file: Path, weights) -> None:
    net = net_on_meta()
    load_weights(net, [file])
    assert same(net, weights)


def test_casts_floats_and_only_floats(file: Path) -> None:
    net = net_on_meta()
    load_weights(net, [file], dtype=torch.bfloat16)
    assert net.a.weight.dtype == net.b.weight.dtype == torch.bfloat16
    assert net.steps.dtype == torch.int64


def test_shards_by_their_index(tmp_path: Path, weights) -> None:
    parts = {"one.safetensors": ["a.weight", "steps"], "two.safetensors": ["a.bias", "b.weight"]}
    for shard, names in parts.items():
        save_file({name: weights[name] for name in names}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard, names in parts.items() for name in names}}))
    net = net_on_meta()
    load_weights(net, [index])
    assert same(net, weights)
    assert stored_tensors([index])["a.weight"].file.name == "one.safetensors"
    index.write_text(json.dumps({"weight_map": {"a.weight": "../../elsewhere.safetensors"}}))
    with pytest.raises(BundleError, match="outside its own folder"):
        stored_tensors([index])
    index.write_text(json.dumps({"weight_map": {"a.weight": "gone.safetensors"}}))
    with pytest.raises(BundleError, match=r"gone\.safetensors is not there"):
        stored_tensors([index])


def test_every_difference_is_named(tmp_path: Path, weights) -> None:
    del weights["a.bias"]
    weights["a.weight"] = torch.zeros(2, 4)
    weights["steps"] = torch.zeros(2)
    weights["extra"] = torch.zeros(1)
    file = tmp_path / "net.safetensors"
    save_file(weights, file)
    assert mismatches(net_on_meta(), stored_tensors([file])) == (
        "a.bias is missing",
        "extra is not part of the model",
        "a.weight has shape [2, 4], the model wants [2, 3]",
        "steps is stored as F32, the model wants torch.int64",
    )
    with pytest.raises(BundleError, match=r"does not fit Net: a\.bias is missing; extra is not part"):
        load_weights(net_on_meta(), [file])


def test_ignored_keys_may_be_there_or_not(tmp_path: Path, weights) -> None:
    file = tmp_path / "net.safetensors"
    save_file(weights | {"ema_count": torch.zeros(1), "ema_weight": torch.zeros(1)}, file)
    for patterns in (["ema_*"], ["ema_*", "never.*"]):
        net = net_on_meta()
        load_weights(net, [file], ignored_keys=patterns)
        assert same(net, weights)


def test_a_truncated_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(BundleError, match="not a complete safetensors file"):
        stored_tensors([file])


def test_a_tensor_stored_twice_is_refused(file: Path, tmp_path: Path, weights) -> None:
    save_file({"steps": weights["steps"]}, tmp_path / "more.safetensors")
    with pytest.raises(BundleError, match="steps is stored twice"):
        stored_tensors([file, tmp_path / "more.safetensors"])


def test_tensors_that_no_file_fills_are_named(file: Path) -> None:
    class Odd(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.ones(4), persistent=False)

    with torch.device("meta"):
        net = Odd()
    with pytest.raises(BundleError, match="no checkpoint fills: window"):
        load_weights(net, [file])
