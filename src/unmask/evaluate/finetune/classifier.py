"""The network that is fine-tuned: an ordinary timm model with a classifier, started from an encoder."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unmask.encoders import ENCODERS, Encoder, rebuilt
from unmask.errors import UserError
from unmask.evaluate.finetune.recipe import Pool
from unmask.evaluate.idle import freeze_idle

# What tells the timm models that can pool in several ways whether the norm comes after the mean.
_NORM_AFTER: dict[type[nn.Module], str] = {
    VisionTransformer: "fc_norm",
    Eva: "use_fc_norm",
    Beit: "use_fc_norm",
}
NEW = ("head.", "fc_norm.")
_GROWN = ".relative_position_bias_table"  # starts at zero, which changes nothing
SAID_ELSEWHERE = {
    "model_name": "what is fine-tuned",
    "img_size": "--image-size",
    "in_chans": "what is fine-tuned",
    "num_classes": "the classes in the data",
    "global_pool": "task.pool",
    **dict.fromkeys(_NORM_AFTER.values(), "task.pool"),
}


def classifier_architecture(
    encoder: Encoder, *, classes: int, pool: Pool, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What `timm.create_model` builds the classifier of an encoder from.

    Args:
        options: of the model, beside those that the encoder was built with: drop_path_rate, ...

    Raises:
        UserError: a pooling that this architecture does not have; an option that is said elsewhere.
    """
    for name in options:
        if (meant := SAID_ELSEWHERE.get(name)) is not None:
            raise UserError(f"encoder.{name} cannot be set here: it follows from {meant}")
    return {**encoder.architecture, "num_classes": classes, **_pooling(encoder, pool), **options}


def build_classifier(
    encoder: Encoder, architecture: Mapping[str, Any], *, head_std: float, known: Mapping[str, Tensor]
) -> nn.Module:
    """The classifier with the weights of an encoder, and new ones in its head.

    New weights are drawn from torch's default generator; those of the head are small, so that the first
    answers are about even. Weights that no answer depends on do not learn.

    Args:
        known: of a classifier that was trained before, its head and the norm in front of it.

    Raises:
        UserError: options that the model does not have, or that its weights do not fit.
    """
    arguments = dict(architecture)
    try:
        model = timm.create_model(**arguments)
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(
            f"timm cannot build {arguments.pop('model_name')} with these options: {error}"
        ) from error
    head: Any = model.get_classifier()  # type: ignore[operator]
    nn.init.trunc_normal_(head.weight, std=head_std)
    nn.init.zeros_(head.bias)
    own = model.state_dict().keys()
    further = {name: tensor for name, tensor in known.items() if name in own}
    _take(model, {**encoder.model.state_dict(), **further})
    freeze_idle(model, lambda: model(torch.zeros(1, encoder.channels, *encoder.image_size)))
    return model


def _take(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a classifier the weights of an encoder; what belongs to its head keeps its first values.

    Raises:
        UserError: other weights are missing or left over, or their shapes differ.
    """
    try:
        found = model.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        raise UserError(f"the weights do not fit these encoder settings: {error}") from error
    missing = [name for name in found.missing_keys if not name.startswith(NEW) and _GROWN not in name]
    left = [name for name in found.unexpected_keys if not name.startswith("norm.")]
    if missing or left:
        both = ", ".join([*missing, *left][:4])
        raise UserError(f"the weights do not fit these encoder settings: {both} are on one side only")


def bare_encoder(model: nn.Module, architecture: Mapping[str, Any], encoder: Encoder) -> Encoder:
    """The encoder inside a trained classifier, on the CPU.

    Where the classifier normalises after pooling, that norm becomes the encoder's own.

    Args:
        encoder: that training began with.
    """
    fixed = ENCODERS[type(encoder.model)][1]
    pooling = (*fixed, "global_pool", *_NORM_AFTER.values(), "drop_path_rate", "drop_rate")
    bare = rebuilt({name: value for name, value in architecture.items() if name not in pooling})
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(NEW)}
    wanted = bare.model.state_dict().keys()
    for name in wanted - kept.keys():
        kept[name] = tensors[name.replace("norm.", "fc_norm.", 1)]
    bare.model.load_state_dict(kept, strict=True)
    return bare.eval()


def pools_freely(encoder: Encoder) -> bool:
    """Whether `Pool` is a choice, and not a matter of the architecture."""
    return type(encoder.model) in _NORM_AFTER


def _pooling(encoder: Encoder, pool: Pool) -> dict[str, Any]:
    kind = type(encoder.model)
    if kind not in _NORM_AFTER:
        if pool not in ("auto", "mean"):
            raise UserError(f"task.pool={pool}: a {kind.__name__} has the mean of its features only")
        return {"global_pool": "avg"}
    if pool == "cls" and not encoder.has_cls:
        raise UserError(f"task.pool=cls: this {kind.__name__} has no class token")
    return {"global_pool": "token" if pool == "cls" else "avg", _NORM_AFTER[kind]: pool == "mean_norm"}
