"""What frozen features are worth to simple classifiers, with errors: shared by the tables of the docs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from unmask.data import Source, labels_of, open_source
from unmask.evaluate import KINDS, Extractor, extract

HELD_OUT = ("validation", "val", "test")  # parts of a labelled folder that classifiers are asked about

Answers = dict[str, list[bool]]  # by extractor: whether each held-out image is classified right


def held_out_parts(data: Path) -> list[Path]:
    """The parts that are there; one at least."""
    parts = [data / name for name in HELD_OUT if (data / name).is_dir()]
    if not (data / "train").is_dir() or not parts:
        raise SystemExit(f"{data} needs `train` and at least one of {', '.join(HELD_OUT)}, each with classes")
    return parts


def answers(
    extractors: Mapping[str, Extractor],
    data: Path,
    *,
    kinds: Sequence[str],
    image_size: tuple[int, int],
    channels: int,
    seed: int,
    device: str = "cpu",
    workers: int = 0,
) -> dict[str, Answers]:
    """Of every kind of classifier, trained on `data/train`: its answers about all held-out images.

    Args:
        kinds: of `unmask evaluate`: "knn", "linear".
        seed: of the linear probe.
    """

    def read(source: Source) -> tuple[dict[str, Tensor], Tensor]:
        options = {"image_size": image_size, "channels": channels, "device": device, "workers": workers}
        return extract(extractors, source, **options)

    train = open_source(data / "train")
    features, labels = read(train)
    parts = [read(open_source(part)) for part in held_out_parts(data)]
    wanted = torch.cat([part[1] for part in parts])
    classes = len(labels_of(train)[1])
    found: dict[str, Answers] = {kind: {} for kind in kinds}
    for name in extractors:
        held_out = torch.cat([part[0][name] for part in parts])
        for kind in kinds:
            options = {} if kind == "knn" else {"seed": seed}
            inputs = (features[name], labels, held_out)
            probe = KINDS[kind](*(tensor.to(device) for tensor in inputs), classes=classes, **options)
            found[kind][name] = (probe.cpu().predictions == wanted).tolist()
    return found


def gain(trained: Sequence[Sequence[bool]], random: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """Mean difference in accuracy and its standard error.

    Two things are drawn: held-out images, the same ones for both encoders and all seeds, and seeds. What an
    image gains is (right trained - right random), averaged over the seeds. The variance of its mean over the
    images and that of the mean over the seeds are added; the sum is on the safe side, as each holds a part of
    the other.
    """
    difference = torch.tensor(trained).double() - torch.tensor(random).double()  # [seeds, images]
    by_image, by_seed = difference.mean(0), difference.mean(1)
    variance = by_image.var().item() / len(by_image)
    if len(by_seed) > 1:
        variance += by_seed.var().item() / len(by_seed)
    return difference.mean().item(), math.sqrt(variance)


def percent(answers: Sequence[Sequence[bool]]) -> str:
    """Accuracy in percent, the mean over seeds, and its error (`spread_or_binomial`)."""
    shares = [mean(one) for one in answers]
    return f"{100 * mean(shares):.1f} ± {100 * spread_or_binomial(shares, len(answers[0])):.1f}"


def spread_or_binomial(shares: Sequence[float], images: int) -> float:
    """Standard deviation over seeds; of one seed what drawing so many images anew would make, sqrt(p (1 - p)
    / images).
    """
    return stdev(shares) if len(shares) > 1 else math.sqrt(shares[0] * (1 - shares[0]) / images)
