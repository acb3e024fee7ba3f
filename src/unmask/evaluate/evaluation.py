"""One evaluation from the data to the figures, with its baselines; what `unmask evaluate` runs."""

import difflib
import inspect
import json as jsonlib
import platform
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unmask.data import labels_of, open_splits
from unmask.encoders import Encoder
from unmask.encoders.base import ImageSize
from unmask.engine.files import write_text
from unmask.engine.machine import choose_device, cores
from unmask.errors import UserError
from unmask.evaluate.features import Extractor, Place, extract, pixels, widths_of, workers_for
from unmask.evaluate.knn import knn
from unmask.evaluate.linear import linear_probe
from unmask.evaluate.probe import Probe, score
from unmask.evaluate.subject import PIXELS, Subject, find_subject, untrained
from unmask.evaluate.sweep import places_of, require_memory, sweep
from unmask.runs import location

KINDS: dict[str, Callable[..., Probe]] = {"knn": knn, "linear": linear_probe, "sweep": sweep}

# What is evaluated, and the names of the baselines as reports show them.
OWN = "this encoder"
RANDOM_INIT, RAW_PIXELS, MAJORITY = "random initialisation", "raw pixels", "majority class"
# What evaluate hands to a probe itself; all other keywords are options of the probe.
HANDED = ("train", "train_labels", "validation", "classes", "mirrored", "seed", "chunk", "places")


def evaluate(
    kind: str,
    run_or_name: str | Path | Encoder,
    *,
    data: Any,
    pool: str = "mean",
    layer: int | None = None,
    image_size: ImageSize | None = None,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    baselines: bool = False,
    baseline_seeds: int = 1,
    json: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Classify validation images by a simple classifier on frozen features.

    The result of a run folder is also noted in the run's log, and shown by its report.

    Args:
        kind: "knn", weighted k-nearest neighbours; "linear", MAE's linear probe; "sweep", the best linear
            probe over layers, poolings and learning rates.
        run_or_name: a run folder, a folder or file with a saved encoder, a timm name (its published weights),
            "random:NAME" (random weights), "pixels", or an encoder (normalised by ImageNet's statistics).
        data: a folder or archive with `train` and `validation` (or `val`, `test`), each with a folder for
            every class; or with class folders only, of which a fifth of the images then validates, always
            the same ones; a table (.csv) with the columns path, label and perhaps split; a Python dataset
            of (image, label), or a dictionary of two.
        pool: "mean", "max" or "std" over the patches, "cls", or several joined by "+".
        layer: features are the raw output of this block; None is the last one's after the final norm.
        image_size: height and width in pixels; None is what the encoder was trained with.
        batch_size: images through the encoder at a time; does not change the result.
        device: "auto", "cpu" or "cuda".
        workers: processes that decode; None is one less than there are cores.
        seed: of the linear probe, and of random weights.
        baselines: also try the same architecture with random weights, the pixels, and the largest class.
        baseline_seeds: number of random networks; their mean is the baseline.
        json: a file for the result.
        options: for "knn" k, temperature; for "linear" epochs, warmup_epochs, lr, probe_batch_size, flip
            (mirrored training images too); for "sweep" the same with rates, layers and pools (`places_of`).

    Returns:
        Plain data: "top1" in [0, 1] with its "standard_error", "mean_class_accuracy", "baselines" (name ->
        the same figures), and everything that the figures depend on; of a sweep also "trials", the same of
        the best classifier of every layer and pooling.

    Raises:
        UserError: a wrong option, an encoder that cannot be had, data without labels.
    """
    start, place = time.perf_counter(), Place(layer, pool)
    _check_options(kind, options, place)
    device = choose_device(device)
    target = None if json is None else _writable(json)
    train, validation = open_splits(data)
    _, classes = labels_of(train)
    subject = find_subject(run_or_name, image_size=image_size, seed=seed)
    places = _places(kind, subject, place, options)
    others = _baselines(subject, places, device=device, seeds=baseline_seeds) if baselines else {}
    extractors = {OWN: subject.extractor(places, device), **others}
    require_memory(len(train) * len(extractors), sum(places.values()))
    read = partial(
        extract,
        extractors,
        image_size=subject.image_size,
        channels=subject.channels,
        bits=subject.bits,
        batch_size=batch_size,
        workers=workers_for(len(train), batch_size, workers),
        device=device,
        progress=progress,
    )
    features, labels = read(train, description="training images")
    if options.pop("flip", False):
        options["mirrored"], _ = read(train, description="mirrored images", mirror=True)
    held_out, held_out_labels = read(validation, description="validation images")
    options |= {} if kind == "knn" else {"seed": seed}
    options |= _places_of_each(places, extractors, features) if kind == "sweep" else {}
    probe = partial(_probe, kind, features, labels, held_out, len(classes), device, options)
    with Console(stderr=True, quiet=not progress).status("classifiers"):
        probes = {name: probe(name) for name in extractors}
    result = {
        "kind": kind,
        **_scores(probes, labels, held_out_labels, len(classes), baselines=baselines),
        **_describe(subject, place, probes[OWN].settings),
        "data": location(data),
        "classes": classes,
        "train": _count(labels),
        "validation": _count(held_out_labels),
        "settings": probes[OWN].settings,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 2),
        "hardware": _hardware(device),
    }
    return _keep(result, target, subject.run)


def _check_options(kind: str, options: Mapping[str, Any], place: Place) -> None:
    if kind not in KINDS:
        raise UserError(f"There is no evaluation {kind!r}; possible are {', '.join(KINDS)}.")
    known = [name for name in inspect.signature(KINDS[kind]).parameters if name not in HANDED]
    if kind != "knn":
        known.append("flip")
    if kind == "sweep":
        known += ["layers", "pools"]
        if place != Place(None, "mean"):
            raise UserError("A sweep tries several layers and poolings: name them as layers and pools.")
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise UserError(f"evaluate {kind} has no option {name!r}{hint} Options: {', '.join(known)}.")


def _writable(json: str | Path) -> Path:
    """The file for the result, checked before an hour of work is lost for want of a folder."""
    path = Path(json).expanduser()
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UserError(f"Cannot write {path}: it must be a file in a folder that is there.")
    return path


def _probe(
    kind: str,
    features: Mapping[str, Tensor],
    labels: Tensor,
    held_out: Mapping[str, Tensor],
    classes: int,
    device: str,
    options: Mapping[str, Any],
    name: str,
) -> Probe:
    """One probe of one extractor's features, computed on the device, answered on the CPU."""
    own = {key: value[name] if key in ("mirrored", "places") else value for key, value in options.items()}
    if "mirrored" in own:
        own["mirrored"] = own["mirrored"].to(device)
    probe = KINDS[kind](
        features[name].to(device), labels.to(device), held_out[name].to(device), classes=classes, **own
    )
    return probe.cpu()


def _places_of_each(
    places: Mapping[Place, int], extractors: Mapping[str, Extractor], features: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The option of a sweep that says what the vectors of each extractor are made of."""
    each = {
        name: {Place(None, PIXELS): features[name].shape[1]} if extractor is pixels else places
        for name, extractor in extractors.items()
    }
    return {"places": each}


def _describe(subject: Subject, place: Place, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What was evaluated; a sweep found its place itself."""
    return {
        "encoder": subject.name,
        "architecture": None if subject.encoder is None else subject.encoder.architecture,
        "made_by": subject.made_by,
        "image_size": list(subject.image_size),
        "pool": None if subject.encoder is None else settings.get("pool", place.pool),
        "layer": settings.get("layer", place.layer),
    }


def _places(kind: str, subject: Subject, place: Place, options: dict[str, Any]) -> Mapping[Place, int]:
    """What is read from the encoder, and how wide it is; takes the choice of a sweep out of its options."""
    chosen = {name: options.pop(name, None) for name in ("layers", "pools")}
    if subject.encoder is None:
        return {}
    if kind == "sweep":
        return places_of(subject.encoder, **chosen)
    return {place: widths_of(subject.encoder, [place])[0]}


def _count(labels: Tensor) -> dict[str, int]:
    return {"images": len(labels), "classes": len(labels.unique())}


def _baselines(
    subject: Subject, places: Collection[Place], *, device: str, seeds: int
) -> dict[str, Extractor]:
    """What a trained encoder must beat; the pixels are no baseline of themselves."""
    if seeds < 1:
        raise UserError(f"baseline_seeds must be 1 or more, not {seeds}.")
    if subject.encoder is None:
        return {}
    drawn = {
        f"{RANDOM_INIT} {number}": untrained(subject, seed=1000 + number).extractor(places, device)
        for number in range(seeds)
    }
    return drawn | {RAW_PIXELS: pixels}


def _scores(
    probes: Mapping[str, Probe], labels: Tensor, held_out_labels: Tensor, classes: int, *, baselines: bool
) -> dict[str, Any]:
    """The figures, and those of the baselines; random networks as their mean with the accuracy of each."""
    scores: dict[str, Any] = {
        name: score(probe.predictions, held_out_labels, classes) for name, probe in probes.items()
    }
    own = scores.pop(OWN)
    if trials := probes[OWN].trials:
        own["trials"] = [
            {**trial.settings, **score(trial.predictions, held_out_labels, classes)} for trial in trials
        ]
    if not baselines:
        return own
    drawn = [scores.pop(name) for name in list(scores) if name.startswith(RANDOM_INIT)]
    found = {}
    if drawn:
        average = {key: mean(value[key] for value in drawn) for key in drawn[0]}
        found[RANDOM_INIT] = {**average, "runs": [value["top1"] for value in drawn]}
    majority = torch.full_like(held_out_labels, int(labels.bincount().argmax()))
    return {**own, "baselines": found | scores | {MAJORITY: score(majority, held_out_labels, classes)}}


def _hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {cores()} cores, {platform.machine()}"


def _keep(result: dict[str, Any], target: Path | None, run: Path | None) -> dict[str, Any]:
    if target is not None:
        write_text(target, jsonlib.dumps(result, indent=2, allow_nan=False) + "\n")
    if run is not None:
        _note(run, result)
    return result


def _note(run: Path, result: dict[str, Any]) -> None:
    """A line in the run's log, and a new report."""
    from unmask.report import write_report  # draws pictures: only runs need it

    event = {
        "event": "evaluation",
        "kind": result["kind"],
        "score": result["top1"],
        "standard_error": result["standard_error"],
        "baselines": {name: value["top1"] for name, value in result.get("baselines", {}).items()},
        "step": (result["made_by"] or {}).get("step"),
        "data": result["data"],
        "pool": result["pool"],
        "layer": result["layer"],
        "settings": result["settings"],
        **({"trials": result["trials"]} if "trials" in result else {}),
        "time": round(time.time(), 3),
    }
    path = run / "log.jsonl"
    torn = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * bool(torn) + jsonlib.dumps(event, allow_nan=False) + "\n")
    write_report(run)
