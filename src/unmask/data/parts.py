"""Labelled data in its three parts: to train on, to choose the best weights by, to judge these once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unmask.data.files import SPLIT_NAMES, IndexedFiles, Source
from unmask.data.sources import Subset, labels_of, open_source, require_trained, split
from unmask.errors import UserError

VALIDATION = ("validation", "val")
TEST = "test"


@dataclass(frozen=True)
class Parts:
    """Three sets with the same classes.

    Attributes:
        test: None if there is none.
        notes: what a person should know of how the data was understood.
    """

    train: Subset
    validation: Subset
    test: Subset | None
    classes: list[str]
    notes: tuple[str, ...] = ()

    def with_fraction(self, fraction: float, *, seed: int) -> "Parts":
        """With a part of the training images, the same share of every class but at least one of each.

        For the same seed it is the same part, and that of a smaller fraction lies within that of a larger.
        """
        if fraction == 1:
            return self
        labels = np.asarray(self.train.labels)
        generator = np.random.default_rng(seed)
        kept = []
        for label in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == label))
            kept += members[: max(1, round(fraction * len(members)))].tolist()
        chosen = sorted(kept)
        own = [int(labels[index]) for index in chosen]
        return replace(self, train=Subset(self.train, chosen, labels=own, classes=self.classes))


def open_parts(data: Any) -> Parts:
    """A labelled data set as it is, or cut where it lacks a part.

    A folder or archive with `train` and `validation` (or `val`), perhaps `test`, each with a folder for every
    class; a table with a column `split`; a dictionary of datasets. Without a part to validate on a fifth of
    every class of the training images is held out, always the same.

    Raises:
        UserError: as `open_source`; no labels, one class only, pictures outside class folders; a class to
            validate or test that was never trained.
    """
    if isinstance(data, Mapping):
        return _of_datasets(data)
    source = open_source(data, labelled=True)
    parts = source.parts() if isinstance(source, IndexedFiles) else {}
    if not isinstance(source, IndexedFiles) or not _is_parted(parts):
        labels, classes = labels_of(source)
        _require_classes(str(data), classes)
        train, validation = split(Subset(source, range(len(source)), labels=labels, classes=classes))
        return Parts(train, validation, None, classes, (_held_out(train, validation),))
    own = {"train": parts["train"]}
    for name in VALIDATION:
        if name in parts:
            own.setdefault("validation", parts[name])
    notes: tuple[str, ...] = ()
    if TEST in parts:
        if source.labels_among(parts[TEST]) is None:
            notes = ("test/ has no class folders, or only one: it is not used.",)
        else:
            own[TEST] = parts[TEST]
    labelled = source.labels_among([index for members in own.values() for index in members])
    if labelled is None:
        raise UserError(
            f"{data} has the parts {' and '.join(own)}, but no class folders inside: they must hold "
            "train/CLASS/picture.jpg and so on, with two classes or more."
        )
    labels, classes = labelled
    _require_classes(str(data), classes)
    _require_inside(str(data), classes)
    sets, start = {}, 0
    for name, members in own.items():
        part = labels[start : start + len(members)]
        sets[name] = Subset(source, members, labels=part, classes=classes)
        start += len(members)
    return _complete(str(data), sets, classes, notes)


def _is_parted(parts: Mapping[str, Any]) -> bool:
    """Whether there is a part to train on and another one: a class may be called train too."""
    return "train" in parts and not parts.keys().isdisjoint((*VALIDATION, TEST))


def _of_datasets(data: Mapping[str, Any]) -> Parts:
    if "train" not in data:
        raise UserError(
            f"A dictionary of datasets needs 'train', and may have 'validation' (or 'val') and 'test'; it "
            f"has {', '.join(map(repr, data)) or 'nothing'}."
        )
    train = open_source(data["train"], labelled=True)
    labels, classes = labels_of(train)
    numbers = {name: number for number, name in enumerate(classes)}
    given = {"train": (train, labels)}
    for name in (*VALIDATION, TEST):
        if name in data:
            part = open_source(data[name], labelled=True)
            own, names = labels_of(part)
            for unknown in names:
                numbers.setdefault(unknown, len(numbers))
            given["validation" if name in VALIDATION else name] = (part, [numbers[names[one]] for one in own])
    _require_classes("The data", classes)
    every = list(numbers)
    sets = {
        name: Subset(part, range(len(part)), labels=own, classes=every) for name, (part, own) in given.items()
    }
    return _complete("The data", sets, every, ())


def _complete(data: str, sets: Mapping[str, Subset], classes: list[str], notes: tuple[str, ...]) -> Parts:
    """Parts of which those to judge by hold classes of training only."""
    train, validation, test = sets["train"], sets.get("validation"), sets.get(TEST)
    assert train.labels is not None
    for name, part in sets.items():
        assert part.labels is not None
        require_trained(data, train.labels, part.labels, classes, name)
    if validation is None:
        train, validation = split(train)
        notes = (*notes, _held_out(train, validation))
    return Parts(train, validation, test, classes, notes)


def _held_out(train: Source, validation: Source) -> str:
    return (
        f"There is no validation/: {len(validation):,} of {len(train) + len(validation):,} training images "
        "are held out, a fifth of every class."
    )


def _require_classes(data: str, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise UserError(f"{data} has one class only, {classes[0]}; a classifier needs two or more.")


def _require_inside(data: str, classes: Sequence[str]) -> None:
    outside = sorted(name for name in classes if name.lower() in SPLIT_NAMES)
    if outside:
        raise UserError(
            f"{data} holds pictures outside class folders, directly in {', '.join(outside)}/: move them into "
            "folders that are named after their classes, or away."
        )
