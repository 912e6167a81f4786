"""The training loop that every part of the built-in model shares: AdamW, cosine by time, resumable, logged as CSV."""

import csv
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """A budget in minutes: the learning rate warms up, then follows a cosine over the elapsed training time.

    Time instead of steps, so that one recipe fits a laptop and a server; the elapsed time is part of the checkpoint.
    """

    minutes: float
    learning_rate: float
    warmup_steps: int = 100
    final_ratio: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.0
    save_every_s: float = 60.0


def fast_denormals() -> None:
    """Must run before the first parallel operation: training to near-zero loss is 15-30 times slower without."""
    torch.set_flush_denormal(True)


class Training:
    """Optimises `model` and keeps `out/checkpoint.pt` such that a killed run loses at most `save_every_s` seconds."""

    def __init__(self, model: nn.Module, schedule: Schedule, out: Path) -> None:
        self.model, self.schedule, self.out = model, schedule, out
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=schedule.learning_rate, betas=schedule.betas, weight_decay=schedule.weight_decay
        )
        self.ema = [p.detach().clone() for p in self.parameters] if schedule.ema_decay else []
        self.step, self.elapsed = 0, 0.0
        out.mkdir(parents=True, exist_ok=True)
        if (out / "checkpoint.pt").exists():
            self._resume(torch.load(out / "checkpoint.pt", weights_only=True))

    def _resume(self, saved: Mapping[str, object]) -> None:
        self.model.load_state_dict(saved["model"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(saved["optimizer"])  # type: ignore[arg-type]
        self.ema = list(saved["ema"])  # type: ignore[call-overload]
        self.step, self.elapsed = int(saved["step"]), float(saved["elapsed"])  # type: ignore[call-overload, arg-type]

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "ema": self.ema}
        partial = self.out / "checkpoint.partial"
        torch.save({**state, "step": self.step, "elapsed": self.elapsed}, partial)
        partial.replace(self.out / "checkpoint.pt")

    def rate(self) -> float:
        s = self.schedule
        progress = min(1.0, self.elapsed / (60 * s.minutes))
        cosine = s.final_ratio + (1 - s.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
        return s.learning_rate * min(1.0, (self.step + 1) / s.warmup_steps) * cosine

    def run(self, loss_of: Callable[[int], tuple[Tensor, dict[str, float]]], log_every: int = 50) -> None:
        """Train until the time is spent. `loss_of(step)` returns the loss and numbers to log."""
        last_save = last = time.monotonic()
        while self.elapsed < 60 * self.schedule.minutes:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            loss, numbers = loss_of(self.step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
            if torch.isfinite(norm):
                self.optimizer.step()
            if self.ema:
                decay = min(self.schedule.ema_decay, (self.step + 1) / (self.step + 10))
                torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
            self.step += 1
            now = time.monotonic()
            self.elapsed += now - last
            last = now
            if self.step % log_every == 0:
                self._log({"loss": float(loss.detach()), "grad_norm": float(norm), **numbers})
            if now - last_save > self.schedule.save_every_s:
                self.save()
                last_save = last = time.monotonic()
        self.save()

    def _log(self, numbers: dict[str, float]) -> None:
        row = {"step": self.step, "minutes": round(self.elapsed / 60, 3), "lr": self.rate(), **numbers}
        path = self.out / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" for k, v in row.items()})

    def use_ema(self) -> None:
        """Put the averaged weights into the model, for export."""
        with torch.no_grad():
            for p, averaged in zip(self.parameters, self.ema, strict=True):
                p.copy_(averaged)
