"""A task with labels that trains in a second, in this process or in one that can be killed."""

import multiprocessing
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from unmask.data import DecodeError
from unmask.engine.checkpoint import State
from unmask.engine.labelled import Process, Task, saved_task_recipe, train_task
from unmask.engine.machine import Machine
from unmask.engine.run import Run
from unmask.recipes.base import Schedule
from unmask.recipes.tasks import TaskOptim, TaskRecipe, with_settings

STEPS, BATCH, SAMPLES, SIDE = 20, 8, 50, 6


class TinyRecipe(TaskRecipe):
    kind: Literal["tiny"] = "tiny"
    name: str = "tiny"
    optim: TaskOptim = TaskOptim(batch_size=BATCH, lr=0.01, layer_decay=0.5)
    schedule: Schedule = Schedule(epochs=100, steps=STEPS, warmup_epochs=5)


class Net(nn.Module):
    """Three linear layers; the second one, and dropout, only if asked for."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Linear(SIDE, 8)
        self.block = nn.Linear(8, 8)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.block(torch.relu(self.stem(x))))))


class TinyTask(Task):
    """Which of two numbers is larger, from noisy copies of them.

    Args:
        noise: of the samples' own generators.
        mixed: strength of what the losses draw.
        broken: step after which a loss is no number, by the count of calls; tests only.
        unreadable: samples that cannot be read.
    """

    score, blocks, made = "accuracy", 1, ("result.txt",)

    def __init__(
        self,
        *,
        dropout: float = 0.2,
        noise: float = 0.3,
        mixed: float = 0.1,
        broken: range = range(0),
        unreadable: tuple[int, ...] = (),
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.model = Net(dropout)
        self._noise, self._mixed, self._broken, self._unreadable = noise, mixed, broken, unreadable
        self._points = np.random.default_rng(0).normal(size=(SAMPLES, 2))
        self.seen: list[int] = []
        self.scores: list[float] | None = None

    def samples(self) -> int:
        return SAMPLES

    def name_of(self, index: int) -> str:
        return f"{index}.png"

    def sample(self, index: int, generator: np.random.Generator) -> Any:
        if index in self._unreadable:
            raise DecodeError("cut off")
        self.seen.append(index)
        point = np.repeat(self._points[index], SIDE // 2)
        noisy = point + self._noise * generator.normal(size=SIDE)
        return torch.tensor(noisy, dtype=torch.float32), int(point[0] > point[-1])

    def collate(self, samples: list[Any]) -> Any:
        return {"x": torch.stack([x for x, _ in samples]), "y": torch.tensor([y for _, y in samples])}

    def losses(self, model: nn.Module, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        weight = 1 + self._mixed * torch.rand((), generator=generator)
        loss = weight * nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        self._calls = getattr(self, "_calls", 0) + 1
        if self._calls in self._broken:
            loss = loss * torch.nan
        return {"loss": loss, "weight": weight}

    def validate(self, model: nn.Module, process: Process) -> dict[str, float]:
        assert not model.training
        points = torch.tensor(self._points, dtype=torch.float32)
        found = []
        with process.forward():
            for index in process.share(SAMPLES):
                guess = model(points[index].repeat_interleave(SIDE // 2)[None].to(process.device))
                found.append(int(guess.argmax()) == int(points[index, 0] > points[index, 1]))
        found = process.together(found)
        assert len(found) == SAMPLES
        if self.scores:
            return {"accuracy": self.scores.pop(0)}
        return {"accuracy": sum(found) / len(found)}

    def depth_of(self, name: str) -> int | None:
        return {"stem": 0, "block": 1}.get(name.split(".")[0])

    def conclude(self, model: nn.Module, folder: Path, process: Process, state: State) -> None:
        total = sum(float(weight.detach().double().sum()) for weight in model.parameters())
        if process.is_first:
            (folder / "result.txt").write_text(f"{state.best} {total!r}")


def run(
    out: Path,
    *,
    task: TinyTask | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: dict[str, Any] | None = None,
    workers: int = 0,
) -> Run:
    torch.set_num_threads(1)
    machine = Machine(device="cpu", precision="fp32", workers=workers, compile=None, checkpointing=False)
    saved = saved_task_recipe(TinyRecipe, out, resume=resume, overwrite=overwrite)
    recipe = with_settings(saved or TinyRecipe(), overrides=settings)
    task = task or TinyTask()
    return train_task(task, recipe, out, machine, saved=saved, overwrite=overwrite, progress=False)


def child(out: Path, settings: dict[str, Any], options: dict[str, Any]) -> None:
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    task = TinyTask(**options.pop("task", {}))
    sys.exit(run(out, settings=settings, task=task, **options).interrupted)


def start(out: Path, settings: dict[str, Any] | None = None, **options: Any) -> BaseProcess:
    """`run` in another process: forked from a server that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=child, args=(out, settings or {}, options))
    process.start()
    return process
