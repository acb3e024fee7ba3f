"""Encoders read back: from a run, from an export, from timm by name."""

import json
import os
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor

from unmask.encoders import ENCODERS, Encoder, create_encoder, rebuilt
from unmask.encoders.base import ImageSize, height_and_width
from unmask.encoders.itpn import Pyramid
from unmask.encoders.swin import SwinEncoder
from unmask.errors import UserError
from unmask.necks import Backbone, NeckName, create_backbone

FORMAT = 1
WEIGHTS = "encoder.safetensors"
PYRAMID = "pyramid.safetensors"
RANDOM = "random:"


def load_encoder(
    path_or_name: str | Path,
    *,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    drop_path_rate: float = 0.0,
) -> Encoder:
    """An encoder in eval mode, on the CPU.

    Args:
        path_or_name: a run folder, any folder with `encoder.safetensors` and `encoder.json`, or such a
            `.safetensors` file; a timm name such as "vit_base_patch16_224.mae", with its published weights
            (fetched from the Hugging Face hub unless cached); or "random:NAME", that timm model with random
            weights, drawn from torch's global generator.
        image_size: height and width in pixels; None is what it was trained with. Position embeddings and
            relative position biases are interpolated to another size.
        channels: of the input images; None is what it was trained with. The patch embedding of three channels
            is summed for one, repeated for others.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0, for training it further.

    Raises:
        UserError: nothing there, an unknown name, damaged or foreign weights, weights that cannot be fetched.
    """
    if image_size is not None:
        image_size = height_and_width(image_size)
    if not is_path(path_or_name):
        return _named(str(path_or_name), image_size, channels, drop_path_rate)
    weights, card = read_card(path_or_name)
    encoder = rebuilt(
        card["architecture"],
        image_size=tuple(card["image_size"]),
        channels=channels or card["channels"],
        drop_path_rate=drop_path_rate,
    )
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise UserError(f"{weights} is damaged or not a safetensors file ({error}).") from error
    if encoder.channels != card["channels"]:
        tensors = _with_channels(tensors, encoder.channels, weights)
    check_weights(tensors, encoder.model.state_dict(), weights)
    encoder.model.load_state_dict(tensors, strict=True)
    if image_size is not None and image_size != encoder.image_size:
        encoder = resized(encoder, image_size)
    return encoder.eval()


def with_drop_path(encoder: Encoder, rate: float) -> Encoder:
    """The same encoder with another rate of stochastic depth, its weights copied, in training mode.

    Args:
        rate: of the last block, rising linearly from 0.
    """
    new = rebuilt(encoder.architecture, drop_path_rate=rate)
    new.model.load_state_dict(encoder.model.state_dict(), strict=True)
    learned = dict(encoder.model.named_parameters())
    for name, parameter in new.model.named_parameters():
        parameter.requires_grad = learned[name].requires_grad
    new.checkpointing = encoder.checkpointing
    return new


def load_backbone(
    path_or_name: str | Path,
    *,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    neck: NeckName = "auto",
    width: int | None = None,
    drop_path_rate: float = 0.0,
) -> Backbone:
    """An encoder as four maps at strides 4, 8, 16 and 32, in eval mode, on the CPU.

    A feature pyramid that was trained together with the encoder (iTPN) is its neck, with its weights; other
    necks start from random ones, drawn from torch's global generator.

    Args:
        path_or_name: as of `load_encoder`, and so are `image_size`, `channels` and `drop_path_rate`.
        neck: see `unmask.necks`; "native" does without a pyramid that was trained.
        width: of all maps, see `unmask.necks.create_backbone`.

    Raises:
        UserError: as `load_encoder`, or a neck that does not go with the encoder.
    """
    encoder = load_encoder(
        path_or_name, image_size=image_size, channels=channels, drop_path_rate=drop_path_rate
    )
    pyramid = load_pyramid(path_or_name) if is_path(path_or_name) else None
    try:
        return create_backbone(encoder, neck=neck, pyramid=pyramid, width=width).eval()
    except ValueError as error:
        raise UserError(f"{path_or_name}: {error}") from error


def load_pyramid(path: str | Path) -> Pyramid | None:
    """The feature pyramid that was trained together with an encoder, in eval mode, on the CPU; None if there
    is none.

    `pyramid.maps(encoder(images).pyramid)` are its maps [B, D, h, w] at strides 4, 8 and 16.

    Args:
        path: a run folder, any folder with `encoder.safetensors`, such a file, or the pyramid's own file.

    Raises:
        UserError: nothing there, or damaged or foreign weights.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"There is no {path}. Give a run folder or an encoder.safetensors.")
    file = path / PYRAMID if path.is_dir() else beside_encoder(path)
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            architecture = json.loads((opened.metadata() or {})["architecture"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        pyramid = Pyramid(**architecture)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{file} is damaged or holds no feature pyramid ({error!r}).") from error
    check_weights(tensors, pyramid.state_dict(), file)
    pyramid.load_state_dict(tensors, strict=True)
    return pyramid.eval()


def beside_encoder(weights: Path) -> Path:
    """The file of the pyramid that belongs to an encoder's file: `encoder_best` has `pyramid_best`."""
    stem = weights.stem
    if stem.startswith("pyramid"):
        return weights
    own = stem.replace("encoder", "pyramid", 1) if "encoder" in stem else f"pyramid_{stem}"
    return weights.with_name(f"{own}.safetensors")


def read_card(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """(weights, card) of a run folder, a folder with an encoder, or a `.safetensors` file beside its card.

    Raises:
        UserError: one of them is missing or cannot be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(
            f"There is no {path}. Give a run folder, an encoder.safetensors, a timm name such as "
            "vit_base_patch16_224, or random:NAME; check the spelling."
        )
    weights = path / WEIGHTS if path.is_dir() else path
    card_path = weights.with_suffix(".json")
    for needed in (weights, card_path):
        if not needed.is_file():
            unfinished = path.is_dir() and (path / "recipe.json").is_file()
            pair = "an encoder is a pair of files, NAME.safetensors and NAME.json, as runs and exports write"
            reason = "the run has not finished; continue it with --resume" if unfinished else pair
            raise UserError(f"{path} has no {needed.name}: {reason}.")
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise UserError(
                f"{card_path} has format {card['format']}; this version reads {FORMAT}. Update unmask."
            )
        if missing := {"architecture", "image_size", "channels", "mean", "std"} - card.keys():
            raise KeyError(*sorted(missing))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{card_path} is not an encoder's card ({error!r}).") from error
    return weights, card


def is_path(path_or_name: str | Path) -> bool:
    """Whether this is meant as a file or folder, and not as the name of a timm model."""
    if isinstance(path_or_name, Path) or Path(path_or_name).expanduser().exists():
        return True
    if path_or_name.startswith(RANDOM) or timm.is_model(path_or_name.split(".")[0]):
        return False
    return "/" in path_or_name or os.sep in path_or_name or path_or_name.endswith((".safetensors", ".json"))


def _named(
    name: str, image_size: tuple[int, int] | None, channels: int | None, drop_path_rate: float
) -> Encoder:
    plain = name.removeprefix(RANDOM)
    published = timm.get_pretrained_cfg(plain) if timm.is_model(plain.split(".")[0]) else None
    if image_size is None:
        image_size = published.input_size[1:] if published is not None else (224, 224)
    pretrained = plain == name
    if pretrained and published is not None and not published.has_weights:
        raise UserError(f"timm has no weights for {name}; with random weights it is {RANDOM}{name}.")
    try:
        encoder = create_encoder(
            plain,
            image_size=image_size,
            channels=channels or 3,
            pretrained=pretrained,
            drop_path_rate=drop_path_rate,
        )
    except Exception as error:
        # What hub clients raise without a network differs between versions; our own complaints are about the
        # name or the size.
        if not pretrained or (isinstance(error, UserError) and not isinstance(error.__cause__, OSError)):
            raise
        raise UserError(
            f"The weights of {name} are not on this machine and cannot be fetched from the Hugging Face hub "
            f"({type(error.__cause__ or error).__name__}). Go online once, or use {RANDOM}{plain} for random "
            "weights."
        ) from error
    return encoder.eval()


def _with_channels(tensors: dict[str, Tensor], channels: int, weights: Path) -> dict[str, Tensor]:
    """Weights whose patch embedding takes another number of channels, by timm's rule for published ones."""
    stem = "patch_embed.proj.weight"
    if tensors[stem].shape[1] != 3:
        raise UserError(
            f"{weights} was trained on {tensors[stem].shape[1]} channels and cannot take {channels}; only "
            "three channels can be turned into others."
        )
    return {**tensors, stem: adapt_input_conv(channels, tensors[stem])}


def resized(encoder: Encoder, image_size: tuple[int, int]) -> Encoder:
    """The encoder for another image size: timm interpolates positions; a Swin keeps its windows."""
    architecture = {**encoder.architecture, "img_size": list(image_size)}
    window = {}
    if isinstance(encoder, SwinEncoder):
        # Without a size timm scales windows with the image; what rebuilds the model has to know them.
        window["window_size"] = architecture.setdefault("window_size", encoder.windows)
    model: Any = encoder.model
    try:
        model.set_input_size(img_size=image_size, **window)
        adapter, _ = ENCODERS[type(model)]
        return adapter(model, architecture=architecture)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"This encoder cannot take images of {image_size[0]} x {image_size[1]} pixels: {error}"
        ) from error


def check_weights(tensors: dict[str, Tensor], expected: dict[str, Tensor], weights: Path) -> None:
    """Require that a file's weights are those of a model, by name and shape."""
    both = tensors.keys() & expected.keys()
    groups = {
        "missing": expected.keys() - tensors.keys(),
        "unexpected": tensors.keys() - expected.keys(),
        "of another shape": {name for name in both if tensors[name].shape != expected[name].shape},
    }
    problems = [
        f"{title} {len(names)} ({', '.join(sorted(names)[:4])}{', ...' if len(names) > 4 else ''})"
        for title, names in groups.items()
        if names
    ]
    if problems:
        raise UserError(
            f"The weights in {weights} do not fit the model of its card: tensors {'; '.join(problems)}. Is "
            "the card from another run?"
        )
