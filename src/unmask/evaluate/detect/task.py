"""A detector as the loop for labels trains it."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from unmask.data import normalise
from unmask.data.decode import DecodeError
from unmask.data.loader import prepared
from unmask.encoders.depths import block_count, depths
from unmask.engine.checkpoint import State
from unmask.engine.files import put, write_text
from unmask.engine.task import Process, Task
from unmask.evaluate.detect.coco import Annotations, Photo
from unmask.evaluate.detect.detector import Detector, total
from unmask.evaluate.detect.found import Found, coco_results, look
from unmask.evaluate.detect.geometry import drawn
from unmask.evaluate.detect.pictures import sheet
from unmask.evaluate.detect.recipe import DetectRecipe
from unmask.evaluate.detect.samples import Sample, batched, place, read_picture
from unmask.evaluate.detect.saved import CARD, WEIGHTS, Card, save_detector
from unmask.evaluate.detect.score import average_precision

ENCODER = "levels.backbone.encoder.model."  # in front of the names of its weights
METRICS, PREDICTIONS, CLASSES, PICTURES = "metrics.json", "predictions.json", "classes.csv", "detections.png"
SHOWN = 9  # pictures on the sheet


@dataclass(frozen=True)
class Sets:
    """What is learned from and judged by."""

    train: Annotations
    validation: Annotations
    masks: bool


class DetectionTask(Task):
    """Faster or Mask R-CNN, or a cascade, on an encoder.

    Args:
        detector: with the weights to start from.
        card: what will be said of it when it is done.
    """

    score = "AP"
    made = (METRICS, PREDICTIONS, CLASSES, PICTURES, WEIGHTS, CARD)

    def __init__(self, detector: Detector, card: Card, recipe: DetectRecipe, sets: Sets) -> None:
        self.model = detector
        encoder = detector.backbone.encoder
        self.blocks, self.width = block_count(encoder), encoder.dim
        self._depths = depths(encoder)
        self._card, self._recipe, self._sets = card, recipe, sets
        self._canvas = recipe.data.image_size

    def samples(self) -> int:
        return len(self._sets.train.photos)

    def name_of(self, index: int) -> str:
        return str(self._sets.train.photos[index].path)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        photo, data = self._sets.train.photos[index], self._recipe.data
        placement = drawn(
            photo.size,
            self._canvas,
            generator,
            scale=data.scales,
            flip=data.flip,
            short_side=data.short_side,
        )
        picture = read_picture(photo, self._card.channels)
        return place(photo.instances, picture, placement, masks=self._sets.masks)

    def collate(self, samples: list[Sample]) -> dict[str, Any]:
        return batched(samples, self._canvas, self._card.mean)

    def losses(
        self, model: nn.Module, batch: dict[str, Any], generator: torch.Generator
    ) -> dict[str, Tensor]:
        images = normalise(batch["images"], self._card.mean, self._card.std)
        _, losses = model(images, batch["sizes"], batch["targets"])
        return {"loss": total(losses), **losses}

    def validate(self, model: nn.Module, process: Process) -> dict[str, float]:
        found = self._find(model, process)
        return average_precision(found, self._sets.validation, masks=self._sets.masks)

    def depth_of(self, name: str) -> int | None:
        return self._depths[name.removeprefix(ENCODER)] if name.startswith(ENCODER) else None

    def conclude(self, model: nn.Module, folder: Path, process: Process, state: State) -> None:
        found = self._find(model, process)
        if not process.is_first:
            return
        validation, masks = self._sets.validation, self._sets.masks
        figures = average_precision(found, validation, masks=masks, each_class=True)
        assert isinstance(model, Detector)
        card = Card(**{**vars(self._card), "made_by": {**self._card.made_by, "step": state.best}})
        save_detector(model, card, folder)
        write_text(folder / PREDICTIONS, json.dumps(coco_results(found, validation)) + "\n")
        write_text(folder / CLASSES, _table(figures["classes"]))
        report = {**self._report(figures, state), "unreadable": len(validation.photos) - len(found)}
        write_text(folder / METRICS, json.dumps(report, indent=2) + "\n")
        shown = _shown([photo for photo in validation.photos if photo.id in found])
        if shown:
            picture = sheet(shown, found, validation, channels=self._card.channels)
            put(folder / PICTURES, lambda path: picture.save(path, format="PNG"))

    def _find(self, model: nn.Module, process: Process) -> dict[int | str, Found]:
        """What is found on every picture of the validation set that can be read, by its id."""
        every = self._sets.validation.photos
        photos = [every[index] for index in process.share(len(every))]
        places, size = range(len(photos)), self._recipe.validation.batch_size
        batches = [places[start : start + size] for start in places[::size]]
        pictures = _Pictures(photos, self._card.channels)
        options: dict[str, Any] = {"canvas": self._canvas, "mean": self._card.mean, "std": self._card.std}
        pairs: list[tuple[int | str, Found]] = []
        for batch in prepared(pictures, batches, process.workers, False):
            seen = {key: picture for key, picture in batch if picture is not None}
            if seen:
                with process.forward():
                    found = look(
                        model,
                        list(seen.values()),
                        device=process.device,
                        short_side=self._card.short_side,
                        **options,
                    )
                pairs += zip(seen, found, strict=True)
        return dict(process.together(pairs))

    def _report(self, figures: dict[str, Any], state: State) -> dict[str, Any]:
        """What metrics.json says."""
        train, validation = self._sets.train, self._sets.validation
        return {
            "kind": "detect",
            "score": figures[self.score],
            **figures,
            "start": self._recipe.start.subject,
            "random": self._recipe.start.random,
            "recipe": self._recipe.name,
            "heads": self._recipe.heads.kind,
            "masks": self._sets.masks,
            "image_size": list(self._canvas),
            "seed": self._recipe.seed,
            "best_step": state.best,
            "steps": state.step,
            "seconds": round(state.seconds, 2),
            "train": _count(train),
            "validation": _count(validation),
        }


class _Pictures(Dataset):
    """Pictures of a validation set with their ids; in the place of broken ones, None."""

    def __init__(self, photos: Sequence[Photo], channels: int) -> None:
        self._photos, self._channels = photos, channels

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> tuple[int | str, Image.Image | None]:
        photo = self._photos[index]
        try:
            return photo.id, read_picture(photo, self._channels)
        except (OSError, DecodeError):
            return photo.id, None


def _count(annotations: Annotations) -> dict[str, Any]:
    return {
        "annotations": str(annotations.file.resolve()),
        "pictures": len(annotations.photos),
        "objects": annotations.objects,
        "skipped": dict(annotations.skipped),
    }


def _table(classes: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(classes[0]))
    writer.writeheader()
    writer.writerows(classes)
    return text.getvalue()


def _shown(photos: Sequence[Photo]) -> list[Photo]:
    """Evenly spread over the set."""
    count = min(SHOWN, len(photos))
    return [photos[number * len(photos) // count] for number in range(count)]
