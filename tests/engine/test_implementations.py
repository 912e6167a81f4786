"""The built-in model says the same whichever kernels choose: the reference, those for CPUs, Triton's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask_engine.batch import Batch
from unmask_engine.decode import decode_step
from unmask_engine.loaded import LoadedBundle
from unmask_engine.prompt import prepare
from unmask_engine.request import AudioPart, Decoding, GenerationRequest, ImagePart, TextPart
from unmask_engine.state import DecodingState, Plan
from unmask_kernels.sample import Implementation

History = list[list[int]]  # the canvas after each step

HUM = AudioPart(0.1 * np.sin(np.arange(16_000, dtype=np.float32) / 20), 16_000)
GREY = ImagePart(np.full((128, 128, 3), 128, np.uint8))
SAMPLED = Decoding(steps=7, temperature=0.9, top_p=0.95, top_k=40, algorithm_temperature=0.4, seed=5)
GUIDED = Decoding(steps=6, guidance=1.5, algorithm="entropy-penalty", repetition_penalty=1.3, seed=1)
REQUESTS = {
    "asr": GenerationRequest((HUM,), ("text",), "asr"),
    "vqa": GenerationRequest((TextPart("what color is the circle"), GREY), ("text",), "vqa"),
    "tts": GenerationRequest((TextPart("hi"),), ("audio",), "tts"),
    "chat, sampled": GenerationRequest((TextPart("hello"),), ("text",), "chat", decoding=SAMPLED),
    "t2i, guided": GenerationRequest((TextPart("a red circle"),), ("image",), "t2i", decoding=GUIDED),
    "t2i, by chance": GenerationRequest(
        (TextPart("a blue star"),), ("image",), "t2i", decoding=Decoding(steps=5, algorithm="origin", seed=2)
    ),
    "chat, no filter": GenerationRequest(
        (TextPart("hello"),),
        ("text",),
        "chat",
        decoding=Decoding(steps=5, top_p=1.0, top_k=0, temperature=0.7, algorithm="topk_margin", seed=3),
    ),
}


@pytest.fixture(scope="module")
def bundle() -> LoadedBundle:
    return LoadedBundle.load("unmask-mini", "cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def plans(bundle: LoadedBundle) -> list[Plan]:
    return [prepare(bundle, request).plan for request in REQUESTS.values()]


@pytest.fixture(scope="module")
def by_the_reference(bundle: LoadedBundle, plans: list[Plan]) -> tuple[list[History], list[Tensor]]:
    return trace(bundle, plans, "reference")


def trace(bundle: LoadedBundle, plans: list[Plan], impl: Implementation) -> tuple[list[History], list[Tensor]]:
    """Requests decoded as one batch: the history of each, and the confidence (N,) of its tokens."""
    states = [DecodingState(plan) for plan in plans]
    histories: list[History] = [[] for _ in plans]
    while running := [state for state in states if not state.is_done]:
        decode_step(Batch(running, bundle.model), impl).finish()
        for state, history in zip(states, histories, strict=True):
            if any(state is other for other in running):
                history.append(state.ids.tolist())
    return histories, [state.confidence for state in states]


def reopened(bundle: LoadedBundle, plan: Plan, answer: list[int]) -> Plan:
    """The request with four positions of its answer to be filled again, in two steps."""
    canvas = torch.tensor(answer)
    canvas[canvas == plan.mask] = bundle.vocabulary.pad  # after an early end
    free = (plan.canvas == plan.mask).nonzero().flatten()
    canvas[free[:: -(-len(free) // 4)]] = plan.mask
    return replace(plan, canvas=canvas, settings=replace(plan.settings, steps=2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="for CPUs")
def test_those_for_cpus_take_every_step_of_the_reference(
    bundle: LoadedBundle, plans: list[Plan], by_the_reference: tuple[list[History], list[Tensor]]
) -> None:
    histories, confidence = trace(bundle, plans, "torch")
    expected, expected_confidence = by_the_reference
    assert dict(zip(REQUESTS, histories, strict=True)) == dict(zip(REQUESTS, expected, strict=True))
    for name, own, theirs in zip(REQUESTS, confidence, expected_confidence, strict=True):
        assert torch.equal(own.nan_to_num(9), theirs.nan_to_num(9)), name
    assert min(map(len, histories)) >= 3


def test_triton_s_take_every_step_of_the_reference_at_the_end_of_each_request(
    bundle: LoadedBundle, plans: list[Plan], by_the_reference: tuple[list[History], list[Tensor]]
) -> None:
    """Interpreted without a CUDA device, so few positions are open."""
    pytest.importorskip("triton")
    answers = [history[-1] for history in by_the_reference[0]]
    rest = [reopened(bundle, plan, answer) for plan, answer in zip(plans, answers, strict=True)]
    histories, confidence = trace(bundle, rest, "triton")
    expected, expected_confidence = trace(bundle, rest, "reference")
    assert dict(zip(REQUESTS, histories, strict=True)) == dict(zip(REQUESTS, expected, strict=True))
    for own, theirs in zip(confidence, expected_confidence, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=2e-6, equal_nan=True)


@pytest.mark.gpu
def test_triton_s_take_every_step_of_the_reference_on_a_gpu(
    bundle: LoadedBundle, plans: list[Plan], by_the_reference: tuple[list[History], list[Tensor]]
) -> None:
    histories, _ = trace(bundle, plans, "triton")
    assert dict(zip(REQUESTS, histories, strict=True)) == dict(zip(REQUESTS, by_the_reference[0], strict=True))
