"""What codes tell of images: linear classifiers on them, and a fixed classifier on the pictures that they
decode to (PeCo, table 4)."""

import json as jsonlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.codes.statistics import CodeCount
from unmask.data import EvaluationLoader, Source, open_splits
from unmask.data.views import as_fractions, normalise
from unmask.engine.files import write_text
from unmask.engine.machine import choose_device
from unmask.errors import UserError
from unmask.evaluate import extract, knn, linear_probe, pixels, score
from unmask.evaluate.features import Extractor, watched, workers_for
from unmask.recipes.trained import bits_of, load_tokenizer
from unmask.targets.teachers.lite0 import LITE0, MEAN, STD, efficientnet_lite0
from unmask.tokenizers import Tokenizer

SIDE = 224  # pixels that the classifier sees


def evaluate_codes(
    tokenizer: str | Path,
    *,
    data: str | Path | tuple[Source, Source],
    classifier: str | None = LITE0,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    json: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure what codes tell of labelled images.

    An image becomes the mean of the vectors of its codes, or how often each code is in it; k-NN and a linear
    probe classify these as they do features. Where codes decode to pictures, a classifier that was trained on
    photos says of the validation images what they show, and again of what is left of them: how often it says
    the same, and, if the data has its classes, how often it is right.

    Args:
        tokenizer: a run folder, or what else `load_tokenizer` takes.
        data: as for `evaluate`.
        classifier: `efficientnet_lite0`, or timm's name of a network, with its published weights; None has
            none.
        batch_size: images at a time; does not change the result.
        seed: of the probe.
        json: a file for the result.

    Returns:
        "scores": by what is classified, those of "knn" and "linear"; "codes": their use on the validation
        images; "classifier": None, or the shares "same", and "original" and "reconstruction" that are right.

    Raises:
        UserError: no tokenizer, no labels, a classifier that is not there.
    """
    device = choose_device(device)
    loaded = load_tokenizer(tokenizer).to(device)
    bits = bits_of(tokenizer)
    train, validation = open_splits(data)
    common: dict[str, Any] = {"image_size": loaded.image_size, "channels": loaded.channels, "bits": bits}
    common |= {"batch_size": batch_size, "device": device, "progress": progress}
    extractors = extractors_of(loaded)
    parts = {}
    for name, source in (("train", train), ("validation", validation)):
        count = workers_for(len(source), batch_size, workers)
        parts[name] = extract(extractors, source, **common, workers=count, description=name)
    (features, labels), (held_out, answers) = parts["train"], parts["validation"]
    classes = len(train.classes or ())
    scores: dict[str, Any] = {}
    for name in extractors:
        given = features[name], labels, held_out[name]
        found = {"knn": knn(*given, classes=classes)}
        found["linear"] = linear_probe(*given, classes=classes, seed=seed)
        scores[name] = {kind: score(probe.predictions, answers, classes) for kind, probe in found.items()}
    loader = EvaluationLoader(
        validation,
        loaded.image_size,
        batch_size=batch_size,
        workers=workers_for(len(validation), batch_size, workers),
        channels=loaded.channels,
        bits=bits,
    )
    use, verdicts = _looked_at(loaded, loader, classifier, classes, device=device)
    result = {
        "tokenizer": str(tokenizer),
        "train": {"images": len(labels)},
        "validation": {"images": len(answers), "classes": classes},
        "scores": scores,
        "codes": use.facts(),
        "classifier": verdicts,
    }
    if json is not None:
        write_text(Path(json).expanduser(), jsonlib.dumps(result, indent=2) + "\n")
    return result


def extractors_of(tokenizer: Tokenizer) -> dict[str, Extractor]:
    """What stands for an image: its codes in two ways, and, of RGB images, its pixels to compare with."""

    def vectors(images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B E"]:
        return tokenizer.embed(tokenizer.codes(as_fractions(images))).float().mean(1)

    def histogram(images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        codes = tokenizer.codes(as_fractions(images))
        ones = torch.ones(codes.shape, device=codes.device)
        counts = ones.new_zeros(len(codes), tokenizer.vocabulary).scatter_add_(1, codes, ones)
        return counts / codes.shape[1]

    known: dict[str, Extractor] = {"mean of the codes' vectors": vectors, "histogram of codes": histogram}
    return known | ({"pixels": pixels} if tokenizer.channels == 3 else {})


@torch.inference_mode()
def _looked_at(
    tokenizer: Tokenizer, loader: EvaluationLoader, classifier: str | None, classes: int, *, device: str
) -> tuple[CodeCount, Mapping[str, Any] | None]:
    """How the codes of images are used, and what a classifier says of what they decode to."""
    use = CodeCount(tokenizer.vocabulary)
    asked = None if classifier is None or tokenizer.channels != 3 else _classifier(classifier)
    network = None if asked is None else asked[0].to(device).eval()
    same, right, wrong_size, seen = 0, [0, 0], False, 0
    for images, labels, _indices in watched(loader, len(loader.source), None):
        shown = as_fractions(images.to(device))
        codes = tokenizer.codes(shown)
        use.add(codes)
        decoded = None if network is None else tokenizer.decode(codes)
        if decoded is None or asked is None or network is None:
            continue
        said = [network(_as_seen(picture, *asked[1:])) for picture in (shown, decoded)]
        wrong_size = said[0].shape[1] != classes
        answers = [logits.argmax(1).cpu() for logits in said]
        same += int((answers[0] == answers[1]).sum())
        seen += len(images)
        if labels is not None:
            right = [count + int((one == labels).sum()) for count, one in zip(right, answers, strict=True)]
    if not seen:
        return use, None
    shares = {"original": right[0] / seen, "reconstruction": right[1] / seen}
    return use, {"name": classifier, "same": same / seen} | ({} if wrong_size else shares)


def _as_seen(
    images: Float[Tensor, "B C H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "B C h w"]:
    resized = F.interpolate(images.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True)
    return normalise(resized.clamp(0, 1), mean, std)


def _classifier(name: str) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    """A network with its classes, and what its images are normalised with.

    Raises:
        UserError: there is none of this name, or its weights cannot be fetched.
    """
    if name == LITE0:
        return efficientnet_lite0(), MEAN, STD
    published = timm.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    if published is None or not published.has_weights:
        raise UserError(f"--classifier {name}: timm has no weights of that name; {LITE0} needs no connection")
    try:
        return timm.create_model(name, pretrained=True), published.mean, published.std
    except Exception as error:  # what hub clients raise without a network differs between versions
        raise UserError(
            f"--classifier {name}: its weights are not on this machine and cannot be fetched "
            f"({type(error).__name__}); {LITE0} needs no connection"
        ) from error
