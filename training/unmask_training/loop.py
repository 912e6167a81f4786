"""The training loop that every part of the built-in model shares: cosine by time, resumable, logged as CSV.

AdamW, or where a schedule says so Muon (muon.py) for the matrices of the transformer's layers: at equal
minutes it brought the backbone's losses down far faster (measured in docs/log.md).
"""

import csv
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmask_training import parallel
from unmask_training.devices import stored
from unmask_training.muon import Muon
from unmask_training.partial import save_weights
from unmask_training.progress import bar

Numbers = Mapping[str, Tensor | float]
LossOf = Callable[[int], tuple[Tensor, Numbers]]  # of a step: the loss, and numbers to log


@dataclass(frozen=True)
class Schedule:
    """A budget in minutes: the learning rate warms up, then follows a cosine over the elapsed training time.

    Time instead of steps, so that one recipe fits a laptop and a server; the elapsed time is part of the checkpoint.
    """

    minutes: float
    learning_rate: float
    matrix_rate: float = 0.0  # learning rate of Muon for the layers' matrices; 0: AdamW for all
    warmup_steps: int = 100
    final_ratio: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.0
    save_every_s: float = 60.0
    accumulate: int = 1  # batches a step
    keep_every_s: float = 0.0  # between copies that stay, for a curve over the time; 0: none


def fast_denormals() -> None:
    """Must run before the first parallel operation: training to near-zero loss is 15-30 times slower without."""
    torch.set_flush_denormal(True)


class Training:
    """Optimises `model` and keeps `out/checkpoint.pt` such that a killed run loses at most `save_every_s` seconds."""

    def __init__(self, model: nn.Module, schedule: Schedule, out: Path) -> None:
        self.model, self.schedule, self.out = model, schedule, out
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = _optimizers(model, schedule)
        self.ema = [p.detach().clone() for p in self.parameters] if schedule.ema_decay else []
        self.step, self.elapsed = 0, 0.0
        out.mkdir(parents=True, exist_ok=True)
        if (out / "checkpoint.pt").exists():
            self._resume(stored(out / "checkpoint.pt"))

    def _resume(self, saved: Mapping[str, Any]) -> None:
        parallel.load_whole(self.model, saved["model"])
        for (optimizer, _), state in zip(self.optimizers, saved["optimizers"], strict=True):
            parallel.load_whole_optimizer(optimizer, state)
        averages = zip(saved["ema"], self.parameters, strict=True) if saved["ema"] else ()
        self.ema = [parallel.split_like(average, p) for average, p in averages]
        self.step, self.elapsed = int(saved["step"]), float(saved["elapsed"])

    def fresh_seed(self, seed: int) -> int:
        """For the random numbers from here on: a resumed run goes on with others instead of repeating what it has seen.

        So does each process of several. torch's own numbers start anew from it, too, where the run was resumed.
        """
        fresh = seed + self.step + 1_000_000 * parallel.rank()
        if self.step:
            torch.manual_seed(fresh)
        return fresh

    def save(self) -> None:
        """A checkpoint is the same however many processes wrote it: another number of them can go on from it."""
        optimizers = [optimizer.state_dict() for optimizer, _ in self.optimizers]
        state = {"model": self.model.state_dict(), "optimizers": optimizers, "ema": self.ema}
        whole = parallel.whole_state(state)
        if not parallel.rank():
            save_weights({**whole, "step": self.step, "elapsed": self.elapsed}, self.out / "checkpoint.pt")

    def keep(self) -> None:
        """A copy that stays, `minute-M.pt`: what it takes to see later how good the model was after M minutes."""
        minutes = self.elapsed // self.schedule.keep_every_s * self.schedule.keep_every_s / 60
        state = parallel.whole_state({"model": self.model.state_dict(), "ema": self.ema})
        if not parallel.rank():
            save_weights({**state, "elapsed": self.elapsed}, self.out / f"minute-{minutes:g}.pt")

    def rate(self) -> float:
        """What the learning rates are multiplied by now."""
        s = self.schedule
        progress = min(1.0, self.elapsed / (60 * s.minutes))
        cosine = s.final_ratio + (1 - s.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
        return min(1.0, (self.step + 1) / s.warmup_steps) * cosine

    def run(self, loss_of: LossOf, log_every: int = 50) -> None:
        """Train until the time is spent. `loss_of(step)` returns the loss and numbers to log."""
        last_save, last = self.elapsed, time.monotonic()
        note = ""
        with bar(self.out.name, 60 * self.schedule.minutes, visible=not parallel.rank()) as show:
            while self.elapsed < 60 * self.schedule.minutes:
                loss, norm, numbers = self._optimise(loss_of)
                self.step += 1
                now = time.monotonic()
                before, self.elapsed = self.elapsed, parallel.agreed(self.elapsed + now - last)
                last = now
                if (every := self.schedule.keep_every_s) and before // every < self.elapsed // every:
                    self.keep()
                    last = time.monotonic()
                if self.step % log_every == 0:
                    row = {"loss": float(loss), "grad_norm": float(norm), **numbers}
                    self._log(row)
                    note = f"loss {row['loss']:.3f}"
                show(self.elapsed, note)
                if self.elapsed - last_save > self.schedule.save_every_s:  # agreed, as all take part
                    self.save()
                    last_save, last = self.elapsed, time.monotonic()
        self.save()

    def _optimise(self, loss_of: LossOf) -> tuple[Tensor, Tensor, Numbers]:
        """One step: the loss, the norm of its gradient, and numbers to log."""
        for optimizer, base in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = base * self.rate()
            optimizer.zero_grad(set_to_none=True)
        loss, numbers = self._gradients(loss_of)
        parallel.average_gradients(self.parameters)
        norm = parallel.clip_gradients(self.parameters, self.schedule.clip)
        if torch.isfinite(norm):
            for optimizer, _ in self.optimizers:
                optimizer.step()
        if self.ema:
            decay = min(self.schedule.ema_decay, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return loss, norm, numbers

    def _gradients(self, loss_of: LossOf) -> tuple[Tensor, Numbers]:
        """Those of `accumulate` batches, averaged; the loss and the numbers to log are averages, too."""
        count = self.schedule.accumulate
        losses, logged = [], []
        for _ in range(count):
            loss, numbers = loss_of(self.step)
            (loss / count).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            logged.append(numbers)
        means = {name: sum(numbers[name] for numbers in logged) / count for name in logged[0]}
        return torch.stack(losses).mean(), means

    def _log(self, numbers: Numbers) -> None:
        if parallel.rank():
            return
        rate = self.schedule.learning_rate * self.rate()
        row = {"step": self.step, "minutes": round(self.elapsed / 60, 3), "lr": rate, **numbers}
        path = self.out / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{float(v):.6g}" for k, v in row.items()})

    def use_ema(self) -> None:
        """Put the averaged weights into the model, for export."""
        with torch.no_grad():
            for p, averaged in zip(self.parameters, self.ema, strict=True):
                p.copy_(averaged)


_IN_A_LAYER = re.compile(r"\.(layers|\w*encoders\d*)\.\d+\.")  # names of what the layers of a stack hold


def _optimizers(model: nn.Module, schedule: Schedule) -> list[tuple[torch.optim.Optimizer, float]]:
    """The optimizers with their full learning rates."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if schedule.matrix_rate and p.ndim == 2 and _IN_A_LAYER.search(name)]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in trained if id(p) not in chosen]
    decay = schedule.weight_decay
    adam = torch.optim.AdamW(rest, lr=schedule.learning_rate, betas=schedule.betas, weight_decay=decay)
    if not matrices:
        return [(adam, schedule.learning_rate)]
    return [(adam, schedule.learning_rate), (Muon(matrices, schedule.matrix_rate, decay), schedule.matrix_rate)]
