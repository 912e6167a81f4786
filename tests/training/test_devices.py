"""The recipe on a device that is not the CPU: an operation on tensors of two devices is an error, as on a GPU.

Here is no GPU, so a pretended one, on the device type "meta", computes on the CPU. It differs from torch's fake tensors
in having values, which the losses look at.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from unmask_engine.codecs.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unmask_engine.codecs.mel import slaney_filters
from unmask_engine.codecs.vocoder import Vocoder
from unmask_engine.models.backbone import BackboneConfig, pack
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoder, SpeechEncoderConfig
from unmask_training import (
    align_speech,
    command_mini,
    devices,
    fit_speech,
    parallel,
    train_backbone,
    train_ears,
    train_image_codec,
    train_speech_codec,
    train_vocoder,
)
from unmask_training.batches import BatchStream, exercise
from unmask_training.pools import Pools, scenes, tokenise_pictures
from unmask_training.shared_bits import SharedBits
from unmask_training.train_backbone import Learner, learning_loss

GPU = torch.device("meta")
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
# Arguments that a GPU's operation takes from the CPU: indices, and the lengths of CTC.
_MAY_BE_ON_THE_HOST = {
    "aten::index.Tensor": (1,),
    "aten::index_put": (1,),
    "aten::index_put_": (1,),
    "aten::_index_put_impl_": (1,),
    "aten::_ctc_loss.Tensor": (2, 3),
    "aten::_ctc_loss_backward.Tensor": (3, 4),
}


class Pretended(Tensor):
    """A tensor that says it is on the GPU. What it holds is `held`, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> "Pretended":
        made: Pretended = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=GPU, requires_grad=requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(op, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """`torch.zeros(..., device=GPU)` makes a pretended tensor, and `.to(GPU)` makes one of another."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(op, args, kwargs or {})


def _compute(op: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    given, _ = tree_flatten((args, kwargs))
    ours = [t for t in given if isinstance(t, Pretended)]
    asked = kwargs.get("device")
    if ours and op not in _MOVES:
        hosts = _MAY_BE_ON_THE_HOST.get(op.name(), ())
        for at, argument in enumerate(args):
            others, _ = tree_flatten(argument)
            for t in others:
                if isinstance(t, Tensor) and not isinstance(t, Pretended) and t.ndim and at not in hosts:
                    raise RuntimeError(f"{op.name()}: argument {at} is on the CPU, others are on the GPU")
    away = torch.device(asked) == GPU if asked is not None else bool(ours)
    plain = dict(kwargs)
    if asked is not None:
        plain["device"] = devices.CPU

    def held(x: Any) -> Any:
        return x.held if isinstance(x, Pretended) else x

    made = op(*tree_map(held, args), **tree_map(held, plain))
    if op._schema.is_mutable:
        return None if made is None else args[0]
    return tree_map(lambda x: Pretended(x) if isinstance(x, Tensor) and away else x, made)


def _attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, enable_gqa: bool = False) -> Tensor:
    """What torch picks a kernel for by the device, in plain operations."""
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ v


def _stft(
    x: Tensor, n_fft: int, hop: int, win_length: int | None = None, window: Tensor | None = None,
    center: bool = True, return_complex: bool = True,
) -> Tensor:  # fmt: skip
    """torch's own transposes in place, which a pretended tensor cannot."""
    assert window is not None
    if center:
        x = F.pad(x[:, None], (n_fft // 2, n_fft // 2), mode="reflect")[:, 0]
    return torch.fft.rfft(x.unfold(-1, n_fft, hop) * window).transpose(1, 2)


_tensor = torch.tensor


def _from_data(data: Any, device: torch.device | None = None, **kwargs: Any) -> Tensor:
    """torch's own asks no mode for a tensor on the meta device."""
    made = _tensor(data, **kwargs)
    return made.to(device) if device is not None else made


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A pretended GPU; the device types of all autocasts."""
    casts: list[str] = []

    def cast(device_type: str, dtype: torch.dtype, enabled: bool = True) -> AbstractContextManager[None]:
        casts.append(device_type)
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", cast)
    monkeypatch.setattr(F, "scaled_dot_product_attention", _attend)
    monkeypatch.setattr(torch, "stft", _stft)
    monkeypatch.setattr(torch, "tensor", _from_data)
    for kept in (pack, slaney_filters):
        kept.cache_clear()
    with _Factories():
        yield casts
    for kept in (pack, slaney_filters):  # what they keep is pretended
        kept.cache_clear()


def _learns(model: torch.nn.Module, loss: Tensor, casts: list[str]) -> None:
    """The loss and its gradients are on the GPU, and every autocast was meant for it."""
    assert isinstance(loss, Pretended)
    assert bool(torch.isfinite(loss.detach()))
    loss.backward()  # type: ignore[no-untyped-call]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    assert all(isinstance(g, Pretended) for g in grads)
    assert set(casts) == {"meta"}


def test_the_pretended_gpu_refuses_the_cpu(gpu: list[str]) -> None:
    there, here = torch.ones(3).to(GPU), torch.ones(3)
    assert (there + 1).sum().item() == 6
    assert torch.equal((there * there).cpu(), here)
    for mixed in (lambda: there + here, lambda: torch.cat([here, there]), lambda: F.l1_loss(here, there)):
        with pytest.raises(RuntimeError, match="is on the CPU"):
            mixed()


def _omni(pools: Pools) -> OmniModel:
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=32, num_heads=2, ffn_size=32, num_layers=2, num_tp_layers=1, ctc_vocab=5)
    omni = OmniModel(BackboneConfig(pools.writer.tokenizer.get_vocab_size(), 32, 64, 5, 2, 1), speech)
    train_backbone.initialise(omni)
    return omni


def _rows() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, 32)).astype(np.float16) for n in (9, 12, 6)]


@pytest.mark.parametrize("task", ["t2i", "svqa", "asr", "tts"])
def test_a_stage_leaves_nothing_on_the_cpu(gpu: list[str], pools: Pools, task: str) -> None:
    model = Learner(SharedBits(_omni(pools), pools.writer.id("<|image_0|>"), torch.randn(4096, 12).sign())).to(GPU)
    batch = next(BatchStream(pools, {task: 1.0}, 256, random.Random(1)))
    loss, numbers = learning_loss(
        model, exercise([batch], pools.writer.mask, _rows(), torch.Generator().manual_seed(0))
    )
    assert 0 < numbers["answers"] < 15
    _learns(model, loss, gpu)


def test_speech_is_aligned_on_the_gpu(gpu: list[str], pools: Pools) -> None:
    omni = _omni(pools).to(GPU)
    assert align_speech.fit(omni, _rows(), steps=1, batch=2) > 0


def test_the_image_codec_learns_and_tokenises_on_the_gpu(gpu: list[str]) -> None:
    model = ImageTokenizer(ImageTokenizerConfig(8, (1, 1, 1, 1, 1), 1, 12, norm_groups=4)).to(GPU)
    pixels, labels = train_image_codec.pictures(2, 0)
    labels = labels[:, :, 2::4, 2::4]
    loss, _ = train_image_codec.codec_loss(model, pixels.float() / 127.5 - 1, labels, 0.02)
    _learns(model, loss, gpu)
    drawn, _ = scenes(0, 2, 0)
    (_, codes), _ = tokenise_pictures(model, drawn, 128, None)
    assert len(codes) == 64


def _samples(rate: int, tokens: int = 30) -> Tensor:
    seconds = torch.arange(tokens * train_speech_codec.SAMPLES_PER_TOKEN[rate]) / rate
    return 0.3 * torch.sin(2 * torch.pi * torch.tensor([[120.0], [170.0]]) * seconds)


def test_the_speech_codec_learns_on_the_gpu(gpu: list[str]) -> None:
    codec = train_speech_codec.Codec().to(GPU)
    quantise = train_speech_codec.Quantiser(codec, warm_steps=1)
    reservoir = [torch.randn(1024, train_speech_codec.TOKENIZER.d_model).to(GPU)]
    loss, numbers = train_speech_codec.codec_loss(
        codec, quantise, 0, _samples(22_050).to(GPU), _samples(16_000).to(GPU), reservoir
    )
    assert numbers["alive"] > 0
    _learns(codec, loss, gpu)


def test_the_vocoder_and_what_feeds_it_learn_on_the_gpu(gpu: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    vocoder = Vocoder(train_vocoder.CONFIG).to(GPU)
    count = train_vocoder.FRAMES + 2 * train_vocoder.CONTEXT
    wide = _samples(22_050)[:, : count * train_vocoder.HOP].to(GPU)
    f0 = torch.full((2, train_vocoder.FRAMES), 120.0).to(GPU)
    _learns(vocoder, train_vocoder.vocoder_loss(vocoder, wide, f0, generator)[0], gpu)

    codec = train_speech_codec.Codec().to(GPU)
    (ids,) = fit_speech.tokenise(codec, [_samples(16_000)[0].numpy()])
    assert not isinstance(ids, Pretended)
    frames = codec.flow.num_frames(30)
    whole, pitches = _samples(22_050)[:, : frames * train_vocoder.HOP], torch.full((2, frames), 120.0)
    model = fit_speech.SpeechOut(codec.flow, vocoder)
    tokens = torch.stack([ids, ids]).to(GPU)
    loss, _ = fit_speech.speech_out_loss(model, tokens, whole.to(GPU), pitches.to(GPU), generator)
    _learns(model, loss, gpu)


@pytest.mark.skip(reason="the loss is NaN in some runs on the pretended GPU, with the same numbers: not understood")
def test_the_ears_learn_on_the_gpu(gpu: list[str]) -> None:
    torch.manual_seed(0)
    encoder = SpeechEncoder(SpeechEncoderConfig(560, 32, 2, 32, 2, 1, ctc_vocab=9))
    model = train_ears.Listener(encoder, 32).to(GPU)
    x, lengths = train_ears.padded([torch.randn(20, 560), torch.randn(14, 560)])
    loss, numbers = train_ears.ears_loss(model, x, lengths, [torch.tensor([1, 2, 3]), torch.tensor([8])])
    assert numbers["words"] > 0
    _learns(model, loss, gpu)


def test_a_device_is_chosen_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert devices.chosen("cpu") == devices.CPU
    assert devices.chosen().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "meta", "toaster"):
        with pytest.raises(SystemExit) as ended:
            command_mini.main(["bundle", "--device", name])
        assert ended.value.code == 2
        assert name in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "backend"), [("cpu", "gloo"), ("cuda", "cpu:gloo,cuda:nccl")])
def test_processes_on_gpus_share_gradients_by_nccl(kind: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(parallel.distributed, "init_process_group", called.append)
    monkeypatch.setattr(parallel.os, "sched_setaffinity", lambda pid, cores: None)
    monkeypatch.setattr(torch.cuda, "set_device", called.append)
    device = parallel.join(torch.device(kind))
    assert called == ([device, backend] if kind == "cuda" else [backend])
    assert device == (torch.device("cuda", 1) if kind == "cuda" else devices.CPU)
