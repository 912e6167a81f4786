import copy
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoder, SpeechEncoderConfig, sinusoidal_positions
from unmask_engine.testing import dream_weights

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = BackboneConfig(176264, 64, 128, num_layers=2, num_heads=4, num_kv_heads=2)
TINY = SpeechEncoderConfig(size=16, num_heads=2, ffn_size=24, num_layers=3, num_tp_layers=2, ctc_vocab=10)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "dream_golden.npz") as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("audio/")}


def golden_feats(name: str, frames: int) -> Tensor:
    seeds = [20240, *(zlib.crc32(key.encode()) for key in ("audio", name))]
    return torch.from_numpy(np.random.default_rng(seeds).standard_normal((frames, 560)).astype(np.float32))


@pytest.fixture(scope="module")
def model() -> OmniModel:
    """The golden model's speech half; the rest stays on the meta device."""
    with torch.device("meta"):
        model = OmniModel(SMALL, SpeechEncoderConfig())
    keys: dict[str, list[int]] = json.loads((GOLDEN / "dream_small_keys.json").read_text())
    wanted = {name: shape for name, shape in keys.items() if ".audio_" in name and ".ctc." not in name}
    model.load_state_dict(dream_weights(wanted), strict=False, assign=True)
    return model.eval()


@pytest.mark.parametrize(("dtype", "name", "tolerance"), [(torch.float32, "fp32", 1e-7), (torch.bfloat16, "bf16", 0.0)])
def test_positions_are_computed_in_the_model_dtype(
    golden: dict[str, Tensor], dtype: torch.dtype, name: str, tolerance: float
) -> None:
    table = sinusoidal_positions(512, 560, dtype, CPU)
    assert table.dtype == dtype
    ours = table[golden["audio/posenc_rows"].long(), ::8].float()
    torch.testing.assert_close(ours, golden[f"audio/posenc_{name}"], rtol=0, atol=tolerance)


@torch.no_grad()
def test_encoder_and_projector_equal_the_reference_in_float32(model: OmniModel, golden: dict[str, Tensor]) -> None:
    feats = golden_feats("feats", 37)[None]
    encoder = model.speech_encoder.encoder
    seen: dict[str, Tensor] = {}
    hooks = [
        encoder.encoders0[0].register_forward_hook(
            lambda _, args, out: seen.update(encoder_input_first6rows=args[0][0, :6], after_encoders0=out[0, :, ::4])
        ),
        encoder.after_norm.register_forward_hook(lambda _, __, out: seen.update(after_norm=out[0, :, ::4])),
    ]
    out = model.speech_encoder(feats.bfloat16())[0]
    for hook in hooks:
        hook.remove()
    assert len(seen) == 3
    for name, ours in seen.items():
        torch.testing.assert_close(ours, golden[f"audio/single/{name}"], rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(out, golden["audio/single/out"], rtol=1e-5, atol=1e-5)
    projected = model.encode_speech(feats)[0]
    torch.testing.assert_close(projected, golden["audio/single/projected"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padded_batch_equals_the_reference(model: OmniModel, golden: dict[str, Tensor]) -> None:
    long, short = golden_feats("feats", 37), golden_feats("feats20", 20)
    feats = torch.stack((long, torch.cat((short, torch.zeros(17, 560))))).bfloat16()
    lengths = golden["audio/batch/lengths"] - 4  # the reference counts the query rows
    out = model.speech_encoder(feats, lengths)
    torch.testing.assert_close(out[1, :, ::2], golden["audio/batch/out_1"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out[0], golden["audio/single/out"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_bfloat16_is_as_close_to_float32_as_the_reference(model: OmniModel, golden: dict[str, Tensor]) -> None:
    model = copy.deepcopy(model).bfloat16()
    feats = golden_feats("feats", 37)[None]
    out = model.speech_encoder(feats)[0, :, ::2].float()
    projected = model.encode_speech(feats)[0].float()
    for ours, truth, theirs in (
        (out, golden["audio/single/out"][:, ::2], golden["audio/bf16/out"]),
        (projected, golden["audio/single/projected"], golden["audio/bf16/projected"]),
    ):
        assert (ours - truth).norm() <= 1.1 * (theirs - truth).norm()
        assert (ours - theirs).norm() <= 0.03 * theirs.norm()


@torch.no_grad()
def test_padding_changes_no_true_row() -> None:
    torch.manual_seed(0)
    encoder = SpeechEncoder(TINY).eval()
    feats = torch.randn(2, 9, 560)
    batched = encoder(feats, torch.tensor([9, 5]))
    assert batched.shape == (2, 13, 16)
    torch.testing.assert_close(batched[:1], encoder(feats[:1]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(batched[1:, :9], encoder(feats[1:, :5]), rtol=1e-5, atol=1e-5)
    feats[1, 5:] = 1000
    torch.testing.assert_close(encoder(feats, torch.tensor([9, 5]))[1, :9], batched[1, :9], rtol=1e-5, atol=1e-5)


def test_trains_with_ctc() -> None:
    torch.manual_seed(0)
    encoder = SpeechEncoder(TINY).train()
    lengths = torch.tensor([9, 5])
    logits = encoder.ctc_logits(encoder(torch.randn(2, 9, 560), lengths))
    assert logits.shape == (2, 13, 10)
    targets = torch.randint(1, 10, (2, 3))
    loss = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), targets, lengths + 4, torch.tensor([3, 3])
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("wrong", [{"kernel_size": 10}, {"input_size": 561}, {"num_queries": 15}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SpeechEncoderConfig(**wrong)
