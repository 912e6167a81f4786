"""The last layer and the head are computed for the rows that a step needs, and come out as if all were computed."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unmask_engine.batch import Batch
from unmask_engine.decode import decode_step
from unmask_engine.models.backbone import BackboneConfig, Wanted
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_engine.runner import TILE
from unmask_engine.settings import Settings
from unmask_engine.state import DecodingState, Plan, canvas_of, unconstrained

VOCABULARY, MASK = 97, 90


@pytest.fixture(scope="module")
def model() -> OmniModel:
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=16, num_heads=2, ffn_size=16, num_layers=2, num_tp_layers=1, ctc_vocab=4)
    return OmniModel(BackboneConfig(VOCABULARY, 32, 48, 3, 4, 2), speech).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("lengths", "rows", "counts"),
    [
        ([9], [0], (1,)),
        ([9], [8], (1,)),
        ([9], list(range(9)), (9,)),
        ([5, 9, 1], [0, 4, 6, 13, 14], (2, 2, 1)),
        ([5, 9, 1], [7], (0, 1, 0)),  # nothing is asked of two sequences
        ([6, 6, 6], [1, 6, 7, 17], (1, 2, 1)),  # equal lengths are attended as one batch where all rows are wanted
        ([6, 6, 6], list(range(18)), (6, 6, 6)),
    ],
)
def test_wanted_rows_are_those_of_the_whole_pass(
    model: OmniModel, lengths: list[int], rows: list[int], counts: tuple[int, ...]
) -> None:
    embeds = torch.randn(sum(lengths), 32, generator=torch.Generator().manual_seed(1))
    whole = model.forward_packed(embeds, lengths)
    wanted = model.forward_packed(embeds, lengths, Wanted(torch.tensor(rows), counts))
    torch.testing.assert_close(wanted, whole[rows], rtol=1e-5, atol=1e-5)
    filled = Wanted(torch.tensor(rows + rows[-1:] * 3), counts)  # the last ones only fill up a shape
    torch.testing.assert_close(model.forward_packed(embeds, lengths, filled)[: len(rows)], wanted, rtol=1e-5, atol=1e-5)


def state(model: OmniModel, prompt: int, canvas: Tensor, settings: Settings) -> DecodingState:
    prompts = [model.embed(torch.arange(size)) for size in (prompt, 4)]
    unconditional = prompts[1] if settings.guidance else None
    allowed = unconstrained(canvas, ((0, VOCABULARY),))
    return DecodingState(Plan(settings, prompts[0], unconditional, canvas, allowed, MASK, end=None))


def test_a_step_computes_the_last_layer_and_the_head_for_open_rows_only(model: OmniModel) -> None:
    """Open are masked positions of the block in hand, twice with guidance; up to a tile they are filled up."""
    states = [
        state(model, 30, canvas_of(40, MASK), Settings(steps=8)),
        state(model, 20, canvas_of(50, MASK, {i: i for i in range(10)}), Settings(steps=25, block_size=20)),
        state(model, 10, canvas_of(24, MASK), Settings(steps=12, guidance=2.0)),
    ]
    batch = Batch(states, model)
    first, last = model.model.layers[0], model.model.layers[-1]
    modules: dict[str, nn.Module] = {
        "first mlp": first.mlp,
        "first q": first.self_attn.q_proj,
        "last keys": last.self_attn.k_proj,
        "last q": last.self_attn.q_proj,
        "last o": last.self_attn.o_proj,
        "last mlp": last.mlp,
        "head": model.lm_head,
    }
    computed: dict[str, list[int]] = defaultdict(list)

    def counting(name: str) -> Any:
        return lambda module, args, out: computed[name].append(len(out))

    hooks = [module.register_forward_hook(counting(name)) for name, module in modules.items()]
    total = 30 + 40 + 20 + 50 + (10 + 24) + (4 + 24)
    num_open = []
    for _ in range(4):
        opens = [s.next_step().num_open for s in states]
        num_open.append(opens[0] + opens[1] + 2 * opens[2])
        decode_step(batch).finish()
    for hook in hooks:
        hook.remove()
    assert num_open[0] == 40 + 10 + 2 * 24
    assert num_open == sorted(num_open, reverse=True)
    for name in ("first mlp", "first q", "last keys"):
        assert computed[name] == [_up_to_a_tile(total)] * 4, name
    for name in ("last q", "last o", "last mlp", "head"):
        assert computed[name] == [_up_to_a_tile(rows) for rows in num_open], name


def _up_to_a_tile(rows: int) -> int:
    return -(-rows // TILE) * TILE
