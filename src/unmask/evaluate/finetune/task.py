"""Fine-tuning as the loop for labels knows it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from unmask.data import normalise
from unmask.data.arrays import open_picture
from unmask.data.parts import Parts
from unmask.encoders import Encoder
from unmask.encoders.depths import block_count, depths
from unmask.engine.checkpoint import State
from unmask.engine.task import Process, Task
from unmask.evaluate.finetune.augment import Mixing, Variation
from unmask.evaluate.finetune.judge import judge
from unmask.evaluate.finetune.recipe import FinetuneRecipe
from unmask.evaluate.finetune.results import MADE, Result, write_results

Sample = tuple[Shaped[Tensor, "C H W"], int]


class FinetuneTask(Task):
    """A classifier that learns from labelled images.

    Args:
        model: of `build_classifier`.
        architecture: what rebuilds it.
        encoder: that training starts from.
        parts: the data; its training images are all learned from.
        about: of the start, for cards.
    """

    score = "top1"
    made = MADE

    def __init__(
        self,
        recipe: FinetuneRecipe,
        model: nn.Module,
        *,
        architecture: Mapping[str, Any],
        encoder: Encoder,
        parts: Parts,
        about: Mapping[str, Any],
    ) -> None:
        self.model = model
        self.blocks, self.width = block_count(encoder), encoder.dim
        self._depths = depths(encoder)
        self._recipe, self._architecture, self._encoder = recipe, architecture, encoder
        self._parts, self._about = parts, about
        self._variation = Variation(recipe.data)
        self._mixing = Mixing(recipe.task, recipe.data, len(recipe.classes))

    def samples(self) -> int:
        return len(self._parts.train)

    def name_of(self, index: int) -> str:
        return self._parts.train.name(index)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        train, data = self._parts.train, self._recipe.data
        assert train.labels is not None
        picture = open_picture(train.read(index), data.channels, data.bits)
        return self._variation(picture, generator), train.labels[index]

    def collate(self, samples: list[Sample]) -> tuple[Shaped[Tensor, "B C H W"], Int64[Tensor, " B"]]:
        images, labels = zip(*samples, strict=True)
        return torch.stack(images), torch.tensor(labels)

    def losses(self, model: nn.Module, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        pixels, labels = batch
        images = normalise(pixels, self._recipe.data.mean, self._recipe.data.std)
        images, wanted = self._mixing(images, labels, generator)
        return {"loss": self._mixing.loss(model(images), wanted)}

    def validate(self, model: nn.Module, process: Process) -> dict[str, float]:
        size = self._recipe.validation.batch_size
        found = judge(model, self._parts.validation, self._recipe.data, process, batch_size=size)
        return found.figures(len(self._recipe.classes))

    def depth_of(self, name: str) -> int | None:
        return self._depths.get(name)

    def conclude(self, model: nn.Module, folder: Path, process: Process, state: State) -> None:
        size, parts = self._recipe.validation.batch_size, self._parts
        judged = {
            name: judge(model, part, self._recipe.data, process, batch_size=size)
            for name, part in {"validation": parts.validation, "test": parts.test}.items()
            if part is not None
        }
        if process.is_first:
            counted = Counter(parts.train.labels)
            result = Result(
                recipe=self._recipe,
                model=model,
                architecture=dict(self._architecture),
                encoder=self._encoder,
                parts=parts,
                trained=[counted[number] for number in range(len(self._recipe.classes))],
                judged=judged,
                state=state,
                about=dict(self._about),
            )
            write_results(result, folder)
