"""Flow and vocoder together: upstream's waveform, upstream's chunked run, and chunked = whole."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask_engine.codecs.speech_decoder import SpeechDecoder
from unmask_engine.codecs.speech_flow import FlowConfig, SpeechFlow
from unmask_engine.codecs.vocoder import Vocoder, VocoderConfig
from unmask_engine.testing import speech_weights

GOLDEN = Path(__file__).parents[1] / "golden"
TINY_FLOW = FlowConfig(
    vocab_size=64,
    num_mels=20,
    d_model=32,
    encoder_heads=2,
    encoder_ffn=64,
    encoder_layers=2,
    channels=32,
    blocks_per_stage=1,
    num_mid_stages=2,
    estimator_heads=2,
    estimator_head_dim=8,
)
TINY_VOCODER = VocoderConfig(num_mels=20, channels=(32, 16, 8), f0_channels=16)
SIZES = [
    pytest.param("tiny_", TINY_FLOW, TINY_VOCODER, id="tiny"),
    pytest.param("", FlowConfig(), VocoderConfig(), id="full", marks=pytest.mark.slow),
]


def golden(name: str) -> Tensor:
    with np.load(GOLDEN / "speech_golden.npz") as arrays:
        return torch.from_numpy(arrays[name])


def make_decoder(prefix: str, flow_config: FlowConfig, vocoder_config: VocoderConfig) -> SpeechDecoder:
    with torch.device("meta"):
        decoder = SpeechDecoder(SpeechFlow(flow_config), Vocoder(vocoder_config))
    for name, module in (("flow", decoder.flow), ("hift", decoder.vocoder)):
        shapes = json.loads((GOLDEN / f"{prefix}{name}_keys.json").read_text())["shapes"]
        module.load_state_dict(speech_weights(shapes), assign=True)
    decoder.vocoder.fold_weight_norm()
    return decoder.eval()


@pytest.fixture(scope="module")
def tiny() -> SpeechDecoder:
    return make_decoder("tiny_", TINY_FLOW, TINY_VOCODER)


@pytest.mark.parametrize(("prefix", "flow_config", "vocoder_config"), SIZES)
def test_waveforms_equal_upstream(prefix: str, flow_config: FlowConfig, vocoder_config: VocoderConfig) -> None:
    decoder = make_decoder(prefix, flow_config, vocoder_config)
    ids = golden(f"{prefix}tokens")
    torch.testing.assert_close(decoder.decode(ids, seed=42), golden(f"{prefix}wav_rng42"), rtol=0, atol=5e-3)
    samples, mel, chunks = upstream_chunked_run(decoder, ids, block=10)
    assert chunks == golden(f"{prefix}stream_chunks").tolist()
    torch.testing.assert_close(samples, golden(f"{prefix}stream_wav"), rtol=0, atol=5e-3)
    if prefix:  # not stored at full size
        torch.testing.assert_close(mel, golden(f"{prefix}stream_mel"), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "keys"),
    [("input_embedding.weight", "flow"), ("conv_pre.weight_g", "hift"), ("codebook.weight", "whispervq")],
)
def test_the_recipe_makes_upstream_s_weights(name: str, keys: str) -> None:
    shape = json.loads((GOLDEN / f"{keys}_keys.json").read_text())["shapes"][name]
    assert torch.equal(speech_weights({name: shape})[name].flatten()[:4], golden(f"recipe_check/{name}"))


@pytest.mark.parametrize(
    ("size", "flow", "vocoder"),
    [("tiny", TINY_FLOW, TINY_VOCODER), ("full", FlowConfig(), VocoderConfig())],
)
def test_sizes_are_those_upstream_ran_at(size: str, flow: FlowConfig, vocoder: VocoderConfig) -> None:
    assert json.loads(golden("meta").numpy().tobytes())[size] == {
        "vocab": flow.vocab_size,
        "mel": flow.num_mels,
        "d": flow.d_model,
        "enc_heads": flow.encoder_heads,
        "enc_ff": flow.encoder_ffn,
        "enc_layers": flow.encoder_layers,
        "ch": flow.channels,
        "n_blocks": flow.blocks_per_stage,
        "mid": flow.num_mid_stages,
        "heads": flow.estimator_heads,
        "hd": flow.estimator_head_dim,
        "base": vocoder.channels[0],
        "f0ch": vocoder.f0_channels,
    }


@pytest.mark.parametrize(("prefix", "num_mels"), [("tiny_", 20), ("", 80)])
def test_phases_are_drawn_after_the_flow_s_noise_as_upstream_does(prefix: str, num_mels: int) -> None:
    flow = SpeechFlow(replace(TINY_FLOW, num_mels=num_mels))
    vocoder = Vocoder(replace(TINY_VOCODER, num_mels=num_mels))
    generator, replay = (torch.Generator().manual_seed(42) for _ in range(2))
    mel = flow.generate_mel(torch.zeros(24, dtype=torch.long), generator, num_steps=1)
    f0 = torch.full((1, mel.shape[-1]), 200.0)
    torch.randn(mel.shape, generator=replay)
    torch.rand((1, 9, 1), generator=replay)  # golden, here
    phase = math.pi * (2 * golden(f"{prefix}phase_u_rng42").view(1, 9, 1) - 1)
    phase[:, 0] = 0
    noise = torch.randn((1, 9, 256 * mel.shape[-1]), generator=replay)
    with torch.no_grad():
        torch.testing.assert_close(
            vocoder.source(f0, generator), vocoder.source(f0, phase=phase, noise=noise), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("num_tokens", [1, 5, 24])
@pytest.mark.parametrize("chunk_frames", [1, 20, 50, 1000])
def test_streamed_equals_whole(tiny: SpeechDecoder, num_tokens: int, chunk_frames: int) -> None:
    ids = golden("tiny_tokens")[:num_tokens]
    whole = tiny.decode(ids, seed=5, num_steps=2)
    chunks = list(tiny.stream(ids, seed=5, chunk_frames=chunk_frames, num_steps=2))
    assert len(chunks) == -(-tiny.flow.num_frames(num_tokens) // chunk_frames)
    torch.testing.assert_close(torch.cat(chunks), whole, rtol=0, atol=1e-5)


def test_the_seed_decides(tiny: SpeechDecoder) -> None:
    ids = golden("tiny_tokens")
    first, again, other = (tiny.decode(ids, seed=seed, num_steps=1) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_tokens_are_no_samples(tiny: SpeechDecoder) -> None:
    empty = torch.zeros(0, dtype=torch.long)
    assert tiny.decode(empty, seed=0).shape == (0,)
    assert list(tiny.stream(empty, seed=0)) == []


def test_flow_and_vocoder_must_agree_on_the_frame() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="frame"):
        SpeechDecoder(SpeechFlow(TINY_FLOW), Vocoder(VocoderConfig(hop_length=8)))


def upstream_chunked_run(decoder: SpeechDecoder, ids: Tensor, block: int) -> tuple[Tensor, Tensor, list[list[int]]]:
    """How upstream streams (speech-decoder.md section 1.7), defects included: samples, mel (M, T), and per chunk
    its prompt frames, mel frames and samples. It shows that the parts can do it; the product does not use it."""
    flow, vocoder, hop = decoder.flow, decoder.vocoder, decoder.vocoder.config.samples_per_frame
    overlap = int(5 / 12.5 * 22050 / 256)
    fade = torch.from_numpy(np.hamming(2 * overlap)).float()
    mels: list[Tensor] = []
    waves: list[Tensor] = []
    chunks: list[list[int]] = []
    held = cached_mel = cached_source = None
    for start in range(0, len(ids), block):
        final = start + block >= len(ids)
        generator = torch.Generator().manual_seed(42)
        prompt = torch.cat(mels, dim=-1) if mels else None
        mel = flow.generate_mel(
            ids[start : start + block], generator, prompt_ids=ids[:start] if start else None, prompt_mel=prompt
        )
        if held is not None:
            mel[..., :overlap] = mel[..., :overlap] * fade[:overlap] + held * fade[overlap:]
        if cached_mel is not None:
            mel = torch.cat([cached_mel, mel], dim=-1)
        if not final:
            mel, held = mel[..., :-overlap], mel[..., -overlap:]
        with torch.no_grad():
            source = vocoder.source(vocoder.predict_f0(mel), generator)
            if cached_source is not None:
                source[:, :hop] = cached_source
            samples = vocoder.vocode(mel, source)[0]
        cached_mel, cached_source = mel[..., -1:], source[:, -hop:]
        samples = samples if final else samples[:-hop]
        chunks.append([0 if prompt is None else prompt.shape[-1], mel.shape[-1], len(samples)])
        mels.append(mel)
        waves.append(samples)
    return torch.cat(waves), torch.cat(mels, dim=-1)[0], chunks
