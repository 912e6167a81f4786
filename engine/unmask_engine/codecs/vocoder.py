"""HiFT, the second half of the speech decoder: log-mel -> waveform by a harmonic source, convolutions and an iSTFT.

Parameter names are those of GLM-4-Voice's `hift.pt` (speech-decoder.md section 1.6).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_engine.codecs.vocoder_layers import (
    ResBlock,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
    fold_weight_norm,
    resblock_radius,
)

_MAX_MAGNITUDE = 100.0
_MAX_SAMPLE = 0.99


@dataclass(frozen=True)
class VocoderConfig:
    """Sizes of the vocoder; the defaults are the published ones. One entry a stage in the tuples of stages."""

    num_mels: int = 80
    channels: tuple[int, ...] = (512, 256, 128)  # after conv_pre, then after each stage
    upsample_rates: tuple[int, ...] = (8, 8)
    upsample_kernels: tuple[int, ...] = (16, 16)
    source_kernels: tuple[int, ...] = (7, 11)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    n_fft: int = 16
    hop_length: int = 4
    f0_channels: int = 512
    f0_layers: int = 5
    num_harmonics: int = 9  # the fundamental is the first
    sine_amplitude: float = 0.1
    sine_noise: float = 0.003
    voiced_hz: float = 10.0
    sample_rate: int = 22050

    def __post_init__(self) -> None:
        stages = {len(self.channels) - 1, len(self.upsample_kernels), len(self.source_kernels)}
        if stages != {len(self.upsample_rates)}:
            raise ValueError("channels (less one), upsample_rates, upsample_kernels, source_kernels differ in length")

    @property
    def samples_per_frame(self) -> int:
        return math.prod(self.upsample_rates) * self.hop_length

    @property
    def context_frames(self) -> int:
        """Mel frames to each side on which the samples of one frame depend."""
        radius = 3 + 1 + math.ceil(self.n_fft / self.hop_length)  # conv_post, the one-frame shift, the iSTFT
        source_radius = 0
        for i in reversed(range(len(self.upsample_rates))):
            radius += max(resblock_radius(kernel, self.dilations) for kernel in self.resblock_kernels)
            from_source = radius + resblock_radius(self.source_kernels[i], self.dilations) + 2
            source_radius = max(source_radius, math.ceil(from_source / math.prod(self.upsample_rates[: i + 1])))
            radius = math.ceil((radius + self.upsample_kernels[i]) / self.upsample_rates[i])
        stft_frames = math.ceil(self.n_fft / self.samples_per_frame)
        return max(radius + 3, source_radius + stft_frames)


class Vocoder(nn.Module):
    """mel (B, M, T) and a source (B, samples_per_frame T) -> samples of the same length, in +-0.99."""

    def __init__(self, config: VocoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VocoderConfig()
        bins = config.n_fft + 2  # real and imaginary parts, or magnitudes and angles
        rates, channels = config.upsample_rates, config.channels
        self.f0_predictor = _F0Predictor(config)
        self.m_source = _SourceMix(config.num_harmonics)
        self.conv_pre = WeightNormConv1d(config.num_mels, channels[0], 7)
        self.ups = nn.ModuleList(
            WeightNormConvTranspose1d(channels[i], channels[i + 1], config.upsample_kernels[i], rates[i])
            for i in range(len(rates))
        )
        self.source_downs = nn.ModuleList(
            _source_down(bins, channels[i + 1], math.prod(rates[i + 1 :])) for i in range(len(rates))
        )
        self.source_resblocks = nn.ModuleList(
            ResBlock(channels[i + 1], config.source_kernels[i], config.dilations) for i in range(len(rates))
        )
        self.resblocks = nn.ModuleList(
            ResBlock(channels[i + 1], kernel, config.dilations)
            for i in range(len(rates))
            for kernel in config.resblock_kernels
        )
        self.conv_post = WeightNormConv1d(channels[-1], bins, 7)

    def forward(self, mel: Tensor, generator: torch.Generator | None = None, f0: Tensor | None = None) -> Tensor:
        """mel (B, M, T) -> samples (B, samples_per_frame T); f0 (B, T) in Hz is predicted where not given."""
        return self.vocode(mel, self.source(self.predict_f0(mel) if f0 is None else f0, generator))

    def predict_f0(self, mel: Tensor) -> Tensor:
        """mel (B, M, T) -> f0 (B, T) in Hz, never negative; below `voiced_hz` means unvoiced."""
        out: Tensor = self.f0_predictor(mel)
        return out.to(mel.dtype)

    def source(
        self,
        f0: Tensor,
        generator: torch.Generator | None = None,
        phase: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """f0 (B, T) in Hz -> the excitation (B, samples_per_frame T).

        `phase` (B, H, 1) are the starting angles of the harmonics and `noise` (B, H, samples) is standard normal;
        what is not given is drawn from `generator`, phases first. No gradient reaches f0: it would have to pass the
        phase, which is integrated in float64, for float32 drifts over an utterance.
        """
        config = self.config
        per_frame = config.samples_per_frame
        shape = (f0.shape[0], config.num_harmonics, f0.shape[1] * per_frame)
        if phase is None:
            phase = math.pi * (2 * _draw(torch.rand, (*shape[:2], 1), generator) - 1)
            phase[:, 0] = 0
        if noise is None:
            noise = _draw(torch.randn, shape, generator)
        with torch.no_grad():
            cycles = f0.double() / config.sample_rate  # per sample
            before = cycles.cumsum(dim=1) * per_frame - cycles * per_frame  # at the start of each frame
            steps = torch.arange(1, per_frame + 1, dtype=torch.float64, device=f0.device)
            turn = (before[:, :, None] + cycles[:, :, None] * steps).flatten(1) % 1.0  # B, samples
            harmonics = torch.arange(1, config.num_harmonics + 1, dtype=torch.float64, device=f0.device)
            angle = 2 * math.pi * ((harmonics[:, None] * turn[:, None]) % 1.0)
            voiced = (f0 > config.voiced_hz).repeat_interleave(per_frame, dim=1)[:, None]
            sines = config.sine_amplitude * torch.sin(angle.to(f0) + phase.to(f0)) * voiced
            loudness = torch.where(voiced, config.sine_noise, config.sine_amplitude / 3)
            excitation = sines + loudness * noise.to(f0)  # B, H, samples
        out: Tensor = self.m_source(excitation)
        return out.to(f0.dtype)

    def vocode(self, mel: Tensor, source: Tensor) -> Tensor:
        """mel (B, M, T), source (B, samples_per_frame T) -> samples of the source's shape. Differentiable."""
        config = self.config
        window = torch.hann_window(config.n_fft, device=source.device, dtype=source.dtype)
        spectrum = torch.stft(source, config.n_fft, config.hop_length, window=window, return_complex=True)
        spectrum_parts = torch.cat([spectrum.real, spectrum.imag], dim=1)  # B, n_fft + 2, one frame more than x
        kernels = len(config.resblock_kernels)
        x: Tensor = self.conv_pre(mel)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            if i == len(self.ups) - 1:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self.source_resblocks[i](self.source_downs[i](spectrum_parts))
            branches = [block(x) for block in self.resblocks[i * kernels : (i + 1) * kernels]]
            x = sum(branches[1:], branches[0]) / kernels
        x = self.conv_post(F.leaky_relu(x, 0.01))
        log_magnitude, angle = x.to(source.dtype).chunk(2, dim=1)  # out of autocast: complex knows no bfloat16
        magnitude = log_magnitude.exp().clamp(max=_MAX_MAGNITUDE)
        phase = torch.sin(angle)
        # Upstream's reading: the sine of the network's output is itself used as the angle.
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        samples = torch.istft(spectrum, config.n_fft, config.hop_length, window=window)
        return samples.clamp(-_MAX_SAMPLE, _MAX_SAMPLE)

    def fold_weight_norm(self) -> "Vocoder":
        """Makes plain weights of the weight norms, in place, for inference: the state dict's names change."""
        fold_weight_norm(self)
        return self


class _F0Predictor(nn.Module):
    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(config.f0_layers):
            layers += [WeightNormConv1d(config.f0_channels if i else config.num_mels, config.f0_channels, 3), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(config.f0_channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()
        return out


class _SourceMix(nn.Module):
    """Harmonics (B, H, samples) -> one excitation (B, samples)."""

    def __init__(self, num_harmonics: int) -> None:
        super().__init__()
        self.l_linear = nn.Linear(num_harmonics, 1)

    def forward(self, harmonics: Tensor) -> Tensor:
        mixed: Tensor = self.l_linear(harmonics.transpose(1, 2))
        return torch.tanh(mixed.squeeze(-1))


def _source_down(bins: int, channels: int, rate: int) -> nn.Conv1d:
    """Brings the source spectrum down to a stage that lies `rate` below the last one."""
    if rate == 1:
        return nn.Conv1d(bins, channels, 1)
    return nn.Conv1d(bins, channels, 2 * rate, stride=rate, padding=rate // 2)


def _draw(draw: Callable[..., Tensor], shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Random numbers from the given generator, on its device: never from the process-wide state."""
    if generator is None:
        raise ValueError("the source needs a generator, or both phase and noise")
    return draw(shape, generator=generator, device=generator.device)
