"""Semantic segmentation as the loop for labels trains it."""

import csv
import json
import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.utils.data import Dataset

from unmask import __version__
from unmask.data import normalise
from unmask.data.colour import ColourChange
from unmask.data.loader import prepared
from unmask.data.samples import reason_of
from unmask.encoders.depths import block_count, depths
from unmask.engine.checkpoint import State
from unmask.engine.files import put, write_text
from unmask.engine.task import Process, Task
from unmask.errors import UserError
from unmask.evaluate.segment.augment import CropRecipe, random_sample
from unmask.evaluate.segment.pictures import as_picture, sheet
from unmask.evaluate.segment.recipes import SegmentData, SegmentRecipe
from unmask.evaluate.segment.scenes import Scene, SceneError, Scenes
from unmask.evaluate.segment.score import Scores, confusion, cross_entropy, scores
from unmask.evaluate.segment.segmenter import CARD, WEIGHTS, Reading, Segmenter, Training, save_segmenter

log = logging.getLogger(__name__)

METRICS, TABLE, PICTURES = "metrics.json", "classes.csv", "images"
SHOWN = 6  # scenes on the sheet
ENCODER = "segmenter.backbone.encoder.model."  # in the names of parameters


class SegmentTask(Task):
    """A segmenter, the scenes that it learns from, and those that judge it.

    Args:
        model: with the weights to start from.
        recipe: what is trained how; its crop has the model's size.
    """

    score = "miou"
    made = (METRICS, TABLE, PICTURES, WEIGHTS, CARD)

    def __init__(self, model: Training, training: Scenes, validation: Scenes, recipe: SegmentRecipe) -> None:
        self.model: Training = model
        self.training, self.validation = training, validation
        segmenter = model.segmenter
        encoder = segmenter.backbone.encoder
        self.blocks, self.width = block_count(encoder), encoder.dim
        self._depths = depths(encoder)
        self._channels, self._reading = encoder.channels, segmenter.reading
        self._crop = crop_recipe(recipe.data, segmenter)
        self._fill = _fill(segmenter.reading)
        self._auxiliary_weight = recipe.network.auxiliary_weight
        self._windows = recipe.validation.batch_size
        self._recipe = recipe

    def samples(self) -> int:
        return len(self.training)

    def name_of(self, index: int) -> str:
        return str(self.training.picture(index))

    def sample(self, index: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        scene = self.training.read(index, self._channels, self._reading.bits)
        return random_sample(scene, self._crop, self._fill, generator)

    def collate(self, samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        return {
            "images": torch.stack([picture for picture, _ in samples]),
            "masks": torch.stack([mask for _, mask in samples]),
        }

    def losses(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        images = normalise(batch["images"], self._reading.mean, self._reading.std)
        masks = batch["masks"].long()
        found, auxiliary = model(images)
        main = cross_entropy(found.float(), masks)
        if auxiliary is None:
            return {"loss": main}
        plain = cross_entropy(auxiliary.float(), masks)
        return {"loss": main + self._auxiliary_weight * plain, "main": main, "auxiliary": plain}

    def depth_of(self, name: str) -> int | None:
        return self._depths[name.removeprefix(ENCODER)] if name.startswith(ENCODER) else None

    def validate(self, model: nn.Module, process: Process) -> dict[str, float]:
        found, _ = self._judge(model, process)
        return {
            "miou": found.miou,
            "pixel_accuracy": found.pixel_accuracy,
            "mean_accuracy": found.mean_accuracy,
        }

    def conclude(self, model: nn.Module, folder: Path, process: Process, state: State) -> None:
        found, bad = self._judge(model, process)
        if not process.is_first:
            return
        assert isinstance(model, Training)
        figures = self._figures(found, state, bad)
        write_text(folder / METRICS, json.dumps(figures, indent=2, allow_nan=False) + "\n")
        write_text(folder / TABLE, _table(figures["per_class"]))
        (folder / PICTURES).mkdir(exist_ok=True)
        rows = list(self._shown(model.segmenter, process))
        if rows:
            picture = sheet(rows, model.segmenter.classes)
            put(folder / PICTURES / "segmentation.png", lambda path: picture.save(path, format="PNG"))
        made_by = {"recipe": self._recipe.model_dump(mode="json"), "step": state.best, "version": __version__}
        save_segmenter(model.segmenter, folder, made_by=made_by)

    def _judge(self, model: nn.Module, process: Process) -> tuple[Scores, dict[str, str]]:
        """Figures of all scenes to validate on, and those that could not be read, name -> reason."""
        assert isinstance(model, Training)
        segmenter = model.segmenter
        table = torch.zeros(len(segmenter.classes), len(segmenter.classes), dtype=torch.long)
        bad: dict[str, str] = {}
        with process.forward():
            for index, scene in self._scenes(process):
                if isinstance(scene, str):
                    bad[str(self.validation.picture(index))] = scene
                    continue
                truth = torch.from_numpy(scene.mask).long().to(process.device)
                said = segmenter.scores(scene.pixels, batch_size=self._windows).argmax(0)
                table += confusion(said, truth, len(segmenter.classes)).cpu()
        tables: list[Int64[Tensor, "K K"]] = process.together([table])
        every_bad = dict(pair for own in process.together([bad]) for pair in own.items())
        if len(every_bad) == len(self.validation):
            raise UserError(f"none of the {len(self.validation)} pictures to validate on can be read")
        return scores(torch.stack([one.cpu() for one in tables]).sum(0)), every_bad

    def _scenes(self, process: Process) -> Iterator[tuple[int, Scene | str]]:
        """This process's share, or why a scene cannot be read."""
        share = list(process.share(len(self.validation)))
        reader = _Reader(self.validation, share, self._channels, self._reading)
        # Starting processes takes longer than reading a few pictures.
        workers = process.workers if len(share) >= 64 else 0
        for [found] in prepared(reader, [[place] for place in range(len(share))], workers, False):
            yield found

    def _shown(self, segmenter: Segmenter, process: Process) -> Iterator[tuple[Any, Any, Any]]:
        count = min(SHOWN, len(self.validation))
        for place in range(count):
            try:
                scene = self.validation.read(
                    place * len(self.validation) // count, self._channels, self._reading.bits
                )
            except SceneError:
                continue
            with process.forward():
                said = segmenter.scores(scene.pixels, batch_size=self._windows).argmax(0)
            yield as_picture(scene.pixels), scene.mask, said.cpu().numpy().astype(np.uint8)

    def _figures(self, found: Scores, state: State, bad: dict[str, str]) -> dict[str, Any]:
        """What metrics.json holds; what is no number is null."""

        def number(value: Tensor | float) -> float | None:
            plain = float(value)
            return None if plain != plain else round(plain, 6)

        columns = zip(self.model.segmenter.classes, found.iou, found.accuracy, found.pixels, strict=True)
        return {
            "kind": "segment",
            "miou": number(found.miou),
            "pixel_accuracy": number(found.pixel_accuracy),
            "mean_accuracy": number(found.mean_accuracy),
            "per_class": [
                {"class": name, "iou": number(iou), "accuracy": number(accuracy), "pixels": int(pixels)}
                for name, iou, accuracy, pixels in columns
            ],
            "training_pictures": len(self.training),
            "validation_pictures": len(self.validation),
            "unreadable": bad,
            "start": self._recipe.start,
            "random": self._recipe.network.random,
            "neck": self._recipe.network.neck,
            "seed": self._recipe.seed,
            "best_step": state.best,
            "steps": state.step,
        }


class _Reader(Dataset):
    def __init__(self, scenes: Scenes, numbers: list[int], channels: int, reading: Reading) -> None:
        self._scenes, self._numbers, self._channels, self._bits = scenes, numbers, channels, reading.bits

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> tuple[int, Scene | str]:
        index = self._numbers[place]
        try:
            return index, self._scenes.read(index, self._channels, self._bits)
        except SceneError as error:
            return index, reason_of(error)


def crop_recipe(data: SegmentData, segmenter: Segmenter) -> CropRecipe:
    """The recipe's crops, of the size that the network takes."""
    plain = segmenter.channels == 3 and segmenter.reading.bits == 8
    brightness, contrast, saturation, hue = data.jitter
    colour = ColourChange(
        brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, jitter=0.5
    )
    return CropRecipe(
        size=segmenter.image_size,
        short_side=segmenter.reading.short_side,
        scale=data.scale,
        largest_class=data.largest_class,
        flip=data.flip,
        colour=colour if plain and any(data.jitter) else None,
    )


def _fill(reading: Reading) -> list[float]:
    """The mean as a pixel of the pictures: what is filled in becomes 0 when it is normalised."""
    if reading.bits == 32:
        return list(reading.mean)
    largest = 255 if reading.bits == 8 else 65535
    return [round(float(value) * largest) for value in reading.mean]


def _table(per_class: list[dict[str, Any]]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, list(per_class[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(per_class)
    return text.getvalue()
