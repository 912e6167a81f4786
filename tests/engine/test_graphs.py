"""On a CUDA device the layers run as a graph: what it computes, in which memory, is what they compute without it."""

import pytest
import torch
from torch import Tensor

from unmask_engine.models.backbone import Backbone, BackboneConfig, Wanted
from unmask_engine.models.graphs import MOST_SEQUENCES


def backbone() -> Backbone:
    torch.manual_seed(0)
    with torch.device("cuda"):
        return Backbone(BackboneConfig(997, 256, 704, 4, 4, 2)).bfloat16().eval().requires_grad_(False)


def embeds(num_rows: int, seed: int) -> Tensor:
    return torch.randn(num_rows, 256, generator=torch.Generator().manual_seed(seed)).cuda().bfloat16()


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [[64], [30, 34], [5, 9, 1, 40, 9], [4] * 16, [2] * 32], ids=str)
def test_a_graph_gives_the_bits_of_the_layers(lengths: list[int]) -> None:
    model, plain = backbone(), backbone()
    others = [lengths, [20, 44], [64], lengths]  # the first one runs without a graph, the second captures it
    with torch.inference_mode():
        for seed, now in enumerate(others):
            rows = torch.arange(0, 64, 3, device="cuda")
            counts = torch.bincount(
                torch.arange(len(now)).repeat_interleave(torch.tensor(now))[::3], minlength=len(now)
            )
            wanted = Wanted(rows, tuple(counts.tolist()))
            given = embeds(64, seed)
            found = model(given, now, wanted)
            plain._graphs._met.clear()
            assert torch.equal(found, plain(given, now, wanted))
    assert len(model._graphs._captured) == 1
    assert not plain._graphs._captured
    assert MOST_SEQUENCES < 32


@pytest.mark.gpu
def test_graphs_of_several_shapes_do_not_disturb_one_another() -> None:
    model, plain = backbone(), backbone()
    with torch.inference_mode():
        for number in range(12):
            size = 16 * (1 + number % 3)
            given = embeds(size, number)
            plain._graphs._met.clear()
            assert torch.equal(model(given, [size]), plain(given, [size]))
    assert sorted(model._graphs._captured) == [16, 32, 48]


@pytest.mark.gpu
def test_weights_that_have_moved_are_met_anew() -> None:
    model, plain = backbone(), backbone()
    given = embeds(32, 0)
    with torch.inference_mode():
        for _ in range(2):
            model(given, [32])
    assert model._graphs._captured
    for parameter in (*model.parameters(), *plain.parameters()):
        parameter.data = parameter.data.flip(0)
    with torch.inference_mode():
        expected = plain(given, [32])
        for _ in range(3):
            assert torch.equal(model(given, [32]), expected)
