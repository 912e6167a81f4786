"""The loop of fine-tuning: its numbers, its steps, and the checkpoints that a killed run goes on from."""

import csv
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask_training.finetune_batches import Batches
from unmask_training.finetune_devices import Devices
from unmask_training.finetune_model import Objective
from unmask_training.progress import bar


@dataclass(frozen=True)
class FineTuning:
    """The defaults are the published recipe's, but for `drop`, `lora_rank` and `save_every`."""

    steps: int
    learning_rate: float = 1e-5
    tokens: int = 3072  # of a packed sequence, and the longest sample
    accumulate: int = 16  # sequences a step and process; with 8 processes the published 128
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.03  # of the steps
    final_ratio: float = 0.1  # of the learning rate, where the cosine ends
    weight_decay: float = 0.0
    clip: float = 1.0
    drop: float = 0.05  # of the conditions
    ema: float = 0.0  # decay of averaged weights; 0: none
    lora_rank: int = 0  # 0: all weights learn
    bf16: bool = True
    pin_speech: bool = False
    save_every: int = 100  # steps
    seed: int = 956

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then a cosine."""
        warmup = max(1, round(self.warmup * self.steps))
        progress = max(0.0, (step - warmup) / max(1, self.steps - warmup))
        cosine = self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.learning_rate * min(1.0, (step + 1) / warmup) * cosine


class Run:
    """The training loop's state: model, optimizer, average, and the number of steps done."""

    def __init__(self, objective: Objective, how: FineTuning, devices: Devices, folder: Path) -> None:
        self.how, self.devices, self.folder = how, devices, folder
        learning = [p for p in objective.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            learning, lr=how.learning_rate, betas=how.betas, eps=1e-8, weight_decay=how.weight_decay
        )
        self.module, self.optimizer = devices.prepare(objective, optimizer)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.ema = [p.detach().clone() for p in self.parameters] if how.ema else []
        self.step = 0
        if saved := self._saved():
            last = saved[-1]
            if json.loads((last / "settings.json").read_text()) != self._settings():
                raise ValueError(f"{folder} was begun with other settings; use those again, or another --out")
            devices.load(last, self.module, self.optimizer)
            self.step = int(last.name.removeprefix("step-"))
            if how.ema:
                self.ema = torch.load(last / f"ema-{devices.rank}.pt", map_location=devices.device, weights_only=True)

    def _settings(self) -> dict[str, Any]:
        """All that must stay as it was when a run goes on; it may be made longer."""
        how = asdict(self.how)
        return {name: how[name] for name in ("lora_rank", "ema", "bf16", "seed", "accumulate", "drop")}

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))

    def save(self) -> None:
        """Complete before it gets its name, so that a killed run finds the last complete one."""
        partial, name = self.folder / "partial", self.folder / f"step-{self.step}"
        if name.exists():
            return
        if not self.devices.rank:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.devices.wait()
        self.devices.save(partial, self.module, self.optimizer)
        if self.ema:
            torch.save(self.ema, partial / f"ema-{self.devices.rank}.pt")
        self.devices.wait()
        if not self.devices.rank:
            (partial / "settings.json").write_text(json.dumps(self._settings()))
            older = self._saved()
            partial.rename(name)
            for path in older:
                shutil.rmtree(path)
        self.devices.wait()

    def run(self, batches: Batches) -> None:
        with bar("fine-tuning", self.how.steps, visible=not self.devices.rank) as show:
            while self.step < self.how.steps:
                loss, norm, tokens = self._optimise(batches)
                self.step += 1
                self._log({"loss": loss, "grad_norm": norm, "lr": self.how.rate(self.step - 1), "tokens": tokens})
                show(self.step, f"loss {loss:.3f}")
                if self.step % self.how.save_every == 0 or self.step == self.how.steps:
                    self.save()

    def _optimise(self, batches: Batches) -> tuple[float, float, int]:
        how, devices = self.how, self.devices
        total, tokens = torch.zeros((), device=devices.device), 0
        for part in range(how.accumulate):
            number = (self.step * how.accumulate + part) * devices.count + devices.rank
            batch = batches[number].to(devices.device)
            with devices.computing(self.module, last=part == how.accumulate - 1):
                loss: Tensor = self.module(batch) / how.accumulate
                devices.backward(loss)
            total += loss.detach()
            tokens += len(batch.ids)
        for group in self.optimizer.param_groups:
            group["lr"] = how.rate(self.step)
        norm = devices.clip(self.parameters, how.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            decay = min(how.ema, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return float(total), float(norm), tokens

    def _log(self, numbers: dict[str, float]) -> None:
        if self.devices.rank:
            return
        row = {"step": self.step, **numbers}
        path = self.folder / "log.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})

    def weights(self) -> dict[str, Tensor]:
        """The whole model's, averaged where an average was kept."""
        with torch.no_grad():
            for p, averaged in zip(self.parameters, self.ema, strict=False):
                p.copy_(averaged)
        return self.devices.whole_state(self.module)
