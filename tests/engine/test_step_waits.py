"""A step is launched without the host waiting for the device: the next one can follow while it runs."""

import pytest
import torch

from unmask_engine.batch import Batch
from unmask_engine.decode import decode_step
from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_engine.settings import Settings
from unmask_engine.state import DecodingState, Plan, canvas_of, unconstrained

VOCABULARY, MASK = 997, 990


def batch_on(device: str, dtype: torch.dtype) -> Batch:
    """Two requests, of one the end of the canvas given, of the other guided."""
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=16, num_heads=2, ffn_size=16, num_layers=2, num_tp_layers=1, ctc_vocab=4)
    with torch.device(device):
        model = OmniModel(BackboneConfig(VOCABULARY, 128, 192, 2, 2, 1), speech).to(dtype).eval().requires_grad_(False)

    def state(length: int, settings: Settings, pins: dict[int, int]) -> DecodingState:
        canvas = canvas_of(length, MASK, pins)
        prompts = [torch.randn(size, 128, device=device, dtype=dtype) for size in (9, 4)]
        unconditional = prompts[1] if settings.guidance else None
        allowed = unconstrained(canvas, ((0, VOCABULARY),))
        return DecodingState(Plan(settings, prompts[0], unconditional, canvas, allowed, MASK, end=None))

    penalised = Settings(steps=8, algorithm="entropy-penalty", top_p=0.9, top_k=50, repetition_penalty=1.2)
    guided = Settings(steps=5, block_size=4, guidance=2.0, temperature=0.7, algorithm_temperature=0.3)
    return Batch([state(12, penalised, {11: 3}), state(9, guided, {})], model)


@torch.inference_mode()
def test_a_step_reads_no_value_before_its_tokens_are_sent() -> None:
    """Tensors of the meta device hold no values, so whatever needs one raises."""
    batch = batch_on("meta", torch.float32)
    rows = batch.schedule()
    logits, _ = batch.run(rows)
    params = batch.row_params(rows, VOCABULARY)
    assert logits.shape == (11 + 4, VOCABULARY)
    assert len(params) == len(batch.reveal_params(rows).uniform) == 15
    tokens, confidence = torch.empty_like(params.seed), torch.empty_like(params.temperature)
    with pytest.raises(NotImplementedError, match="copy out of meta tensor"):
        batch.commit(rows, tokens, confidence, confidence > 0)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_a_step_on_a_gpu_does_not_wait_for_it() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    batch = batch_on("cuda", torch.bfloat16)
    for _ in range(2):  # compiles the kernels, captures the layers
        decode_step(batch).finish()
    torch.cuda.set_sync_debug_mode("error")
    try:
        commit = decode_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    commit.finish()
    assert [state.step for state in batch.states] == [3, 3]
