"""Token ids and commit histories of the reference, step by step: golden/README.md."""

import json
import zlib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask_engine.batch import Batch
from unmask_engine.decode import decode_step
from unmask_engine.loop import decode
from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_engine.settings import Settings
from unmask_engine.state import DecodingState, Plan, canvas_of, unconstrained
from unmask_engine.testing import dream_weights
from unmask_kernels import noise

FOLDER = Path(__file__).parents[1] / "golden"
CASES: dict[str, Any] = json.loads((FOLDER / "dream_golden.json").read_text())
ARRAYS = np.load(FOLDER / "dream_golden.npz")
SHAPES: dict[str, list[int]] = json.loads((FOLDER / "dream_small_keys.json").read_text())
VOCABULARY = {"tiny": 2000, "small": 176264}
MASK = {"tiny": 1999, "small": 151666}
BEGIN_OF_AUDIO = 151684
# What the reference does wrong, so that only its own arithmetic repeats it; decoding.md, Where the reference is wrong.
DEFECTS = {
    "tiny/origin_n32_s16_block8": "commits leave the block",
    "tiny/entropy_n24_s2_block8_nothing_runs": "no step at all",
    "tiny/entropy_cfg2_s2i_n32_s16": "misaligned guidance",
    "tiny/entropy_n24_s24_mask_predicted": "commits MASK",
    "small/boa_block8_entropy_n24_s24_overrun": "a finished block leaks into another, by unspecified ties",
}
UNREPEATABLE = ("tiny/entropy_n24_s2_block8_nothing_runs", "small/boa_block8_entropy_n24_s24_overrun")
# Making the weights of the speech encoder takes some ten seconds, hence the mark.
ALL = [
    pytest.param(f"{section}/{name}", marks=pytest.mark.slow if "audio" in name else ())
    for section in VOCABULARY
    for name, case in CASES[section].items()
    if isinstance(case, dict) and "params" in case
]


class SmallModel(OmniModel):
    """The published layout at test size. Its speech encoder, of real size, is filled only where it `hears`."""

    def __init__(self, vocabulary: int, lm_gain: float, mask_gain: tuple[int, float], *, hears: bool) -> None:
        with torch.device("meta"):
            super().__init__(BackboneConfig(vocabulary, 64, 128, 2, 4, 2), SpeechEncoderConfig())
        shapes = {
            name: [vocabulary if size == VOCABULARY["small"] else size for size in shape]
            for name, shape in SHAPES.items()
            if hears or "audio" not in name
        }
        weights = dream_weights(shapes, lm_gain=lm_gain)
        weights["lm_head.weight"][mask_gain[0]] *= mask_gain[1]
        self.load_state_dict(weights, strict=False, assign=True)
        self.eval().requires_grad_(False)


@cache
def model_of(section: str, lm_gain: float, mask_gain: float = 1.0, *, hears: bool = False) -> SmallModel:
    return SmallModel(VOCABULARY[section], lm_gain, (MASK[section], mask_gain), hears=hears)


def run(case: str, *, compat: bool) -> tuple[DecodingState, NDArray[np.int64]]:
    """The state at the end and the canvas after every step, (steps, N)."""
    state, model = beginning(case, compat=compat)
    history: list[Tensor] = []
    decode([state], model, lambda _, state: history.append(state.ids.clone()))
    return state, torch.stack(history).numpy()


def beginning(case: str, *, compat: bool) -> tuple[DecodingState, SmallModel]:
    section, name = case.split("/")
    info = CASES[section][name]
    given = info["params"]
    model = model_of(section, info["lm_gain"], 3.0 if name.endswith("mask_predicted") else 1.0, hears="audio" in name)
    length, guidance = given["max_new_tokens"], given.get("cfg", 0.0)
    settings = Settings(
        steps=min(given["steps"], length),
        algorithm=given["alg"],
        block_size=given.get("block_size"),
        top_p=given["top_p"],
        top_k=given.get("top_k", 50) or 0,
        repetition_penalty=given.get("repeat_penalty", 1.0) if given["alg"] == "entropy-penalty" else 1.0,
        position_penalty=given.get("max_position_penalty", 1.0),
        guidance=guidance,
        reference_compat=compat,
    )
    canvas = canvas_of(length, MASK[section], {length // 5: BEGIN_OF_AUDIO} if given.get("add_boa_token") else None)
    prompt = model.embed(ids_of(case, "prompt_ids"))
    if "audio" in name:
        rng = np.random.default_rng([20240, zlib.crc32(b"audio"), zlib.crc32(b"feats")])
        feats = torch.from_numpy(rng.standard_normal((37, 560)).astype(np.float32))
        prompt[ids_of(case, "prompt_ids") == 151686] = model.encode_speech(feats.unsqueeze(0))[0]
    unconditional = model.embed(ids_of(case, "uncond_prompt_ids")) if guidance else None
    allowed = unconstrained(canvas, ((0, VOCABULARY[section]),))
    return DecodingState(Plan(settings, prompt, unconditional, canvas, allowed, MASK[section], end=None)), model


def ids_of(case: str, name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[f"{case}/{name}"]).long()


@pytest.fixture
def draws_of_the_reference(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`origin` commits what the reference's own draws committed; only their number is stored, so the history tells."""
    case = request.getfixturevalue("case")
    if "origin" not in case:
        return
    history = ARRAYS[f"{case}/history"]

    def uniform(seed: Tensor, stream: int, step: Tensor, position: Tensor) -> Tensor:
        after = torch.from_numpy(history[min(int(step[0]), len(history) - 1)])
        return torch.where(after[position] != MASK["tiny"], 1e-6, 1 - 1e-6)

    monkeypatch.setattr(noise, "uniform", uniform)


@pytest.mark.parametrize("case", [case for case in ALL if case.values[0] not in UNREPEATABLE])
@pytest.mark.usefixtures("draws_of_the_reference")
def test_reference_compat_is_the_reference(case: str) -> None:
    state, history = run(case, compat=True)
    assert np.array_equal(history, ARRAYS[f"{case}/history"])
    assert np.array_equal(state.ids.numpy(), ARRAYS[f"{case}/new_tokens"])


@pytest.mark.parametrize("case", [case for case in ALL if case.values[0] not in DEFECTS])
@pytest.mark.usefixtures("draws_of_the_reference")
def test_the_default_is_the_reference_where_that_is_right(case: str) -> None:
    state, history = run(case, compat=False)
    assert np.array_equal(history, ARRAYS[f"{case}/history"])
    assert np.array_equal(state.ids.numpy(), ARRAYS[f"{case}/new_tokens"])
    assert state.step == state.plan.steps == CASES[case.split("/")[0]][case.split("/")[1]]["steps_run"]


@pytest.mark.parametrize("case", ["tiny/maskgit_n32_s16"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="interprets Triton's kernels")
def test_triton_s_kernels_begin_as_the_reference(case: str) -> None:
    """Interpreted, they take seconds for a step."""
    pytest.importorskip("triton")
    state, model = beginning(case, compat=False)
    for after in ARRAYS[f"{case}/history"][:2]:
        decode_step(Batch([state], model), "triton").finish()
        assert np.array_equal(state.ids.numpy(), after)


@pytest.mark.parametrize("case", ["tiny/entropy_n32_s32_block8", "tiny/entpen_n160_s10_rep1.2_pos2"])
def test_the_reference_kernels_take_its_steps(case: str) -> None:
    state, model = beginning(case, compat=False)
    for after in ARRAYS[f"{case}/history"]:
        decode_step(Batch([state], model), "reference").finish()
        assert np.array_equal(state.ids.numpy(), after)
    assert state.is_done


def commits(case: str, history: NDArray[np.int64]) -> list[list[int]]:
    """The positions that each step commits."""
    mask = MASK[case.split("/")[0]]
    masked = np.concatenate([[history[0] * 0 + mask], history]) == mask
    return [np.flatnonzero(before & ~after).tolist() for before, after in pairwise(masked)]


@pytest.mark.parametrize("case", ["tiny/entropy_n24_s2_block8_nothing_runs"])
def test_every_block_gets_a_step(case: str) -> None:
    state, history = run(case, compat=False)
    assert commits(case, history) == [list(range(8)), list(range(8, 16)), list(range(16, 24))]
    assert state.step == 3


@pytest.mark.parametrize("case", ["small/boa_block8_entropy_n24_s24_overrun"])
def test_commits_stay_inside_the_block(case: str) -> None:
    state, history = run(case, compat=False)
    assert state.step == 23
    assert int(state.ids[4]) == BEGIN_OF_AUDIO
    order = [position for step in commits(case, history)[1:] for position in step]
    assert [position // 8 for position in order] == sorted(position // 8 for position in order)
    # Up to the leak, the first block's seven steps, it is the reference.
    assert np.array_equal(history[:7], ARRAYS[f"{case}/history"][:7])


@pytest.mark.parametrize("case", ["tiny/entropy_n24_s24_mask_predicted"])
def test_mask_is_never_committed(case: str) -> None:
    golden = ARRAYS[f"{case}/history"]
    assert (golden[-1] == MASK["tiny"]).sum() == 7
    state, history = run(case, compat=False)
    assert not bool(state.masked.any())
    assert [len(step) for step in commits(case, history)] == [1] * 24


@pytest.mark.parametrize("case", ["tiny/origin_n32_s16_block8"])
@pytest.mark.usefixtures("draws_of_the_reference")
def test_origin_stays_inside_its_block(case: str) -> None:
    state, history = run(case, compat=False)
    order = [position for step in commits(case, history) for position in step]
    assert sorted(order) == list(range(32))
    assert [position // 8 for position in order] == sorted(position // 8 for position in order)
    assert not bool(state.masked.any())


@pytest.mark.parametrize("case", ["tiny/entropy_cfg2_s2i_n32_s16"])
def test_guidance_is_aligned_on_the_canvas_by_default(case: str) -> None:
    """With prompts of one length both arithmetics agree; here they differ, so alignment is the reason."""
    state, _ = run(case, compat=False)
    assert not np.array_equal(state.ids.numpy(), ARRAYS[f"{case}/new_tokens"])
    plan = state.plan
    assert plan.unconditional is not None
    outcomes = []
    for compat in (False, True):
        settings = Settings(steps=16, guidance=2.0, top_p=0.9, top_k=50, reference_compat=compat)
        same_length = Plan(
            settings, plan.prompt[-23:], plan.unconditional, plan.canvas, plan.allowed, plan.mask, end=None
        )
        outcome = DecodingState(same_length)
        decode([outcome], model_of("tiny", 1.0))
        outcomes.append(outcome.ids)
    assert torch.equal(*outcomes)
