"""timm backbones behind one interface."""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm.layers import PatchEmbed
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from unmask.encoders.base import DroppingEncoder, Encoder, Features, require_dropping
from unmask.encoders.fast_itpn import FastITPN
from unmask.encoders.hivit import HiViT
from unmask.encoders.hivit_encoder import HiViTEncoder
from unmask.encoders.initialise import initialise
from unmask.encoders.published import require_weights
from unmask.encoders.revcol import RevCol
from unmask.encoders.revcol_encoder import RevColEncoder
from unmask.encoders.revcolv2 import RevColViT
from unmask.encoders.revcolv2_encoder import RevColViTEncoder
from unmask.encoders.swin import SwinEncoder, fitting_window
from unmask.encoders.vit import EvaEncoder, ViTEncoder, beit_encoder
from unmask.errors import UserError

__all__ = [
    "ENCODERS",
    "DroppingEncoder",
    "Encoder",
    "Features",
    "create_encoder",
    "rebuilt",
    "require_dropping",
]

# timm class -> adapter, and how the model is built so that its final norm sees every token.
ENCODERS: dict[type[nn.Module], tuple[Callable[..., Encoder], dict[str, Any]]] = {
    VisionTransformer: (ViTEncoder, {"global_pool": "avg", "fc_norm": False, "dynamic_img_size": False}),
    Eva: (EvaEncoder, {"global_pool": "avg", "use_fc_norm": False, "dynamic_img_size": False}),
    Beit: (beit_encoder, {"global_pool": "token"}),
    SwinTransformer: (SwinEncoder, {}),
    SwinTransformerV2: (SwinEncoder, {}),
    HiViT: (HiViTEncoder, {}),
    FastITPN: (HiViTEncoder, {}),
    RevCol: (RevColEncoder, {}),
    RevColViT: (RevColViTEncoder, {}),
}
# Families by the timm module that defines them.
_MODULES = {
    "vision_transformer": VisionTransformer,
    "deit": VisionTransformer,
    "eva": Eva,
    "beit": Beit,
    "swin_transformer": SwinTransformer,
    "swin_transformer_v2": SwinTransformerV2,
    "hivit": HiViT,
    "fast_itpn": FastITPN,
    "revcol": RevCol,
    "revcolv2": RevColViT,
}


def list_encoders(pattern: str = "") -> list[str]:
    """Names of all timm models that can be an encoder."""
    names = [name for module in _MODULES for name in timm.list_models(module=module)]
    return sorted(name for name in names if pattern in name and "distilled" not in name)


def create_encoder(
    name: str,
    *,
    image_size: tuple[int, int] = (224, 224),
    channels: int = 3,
    pretrained: bool = False,
    position: str = "learned",
    init: str | None = None,
    drop_path_rate: float = 0.0,
    **options: Any,
) -> Encoder:
    """A timm model as an encoder.

    Args:
        name: timm's, for instance "vit_base_patch16_224", "beit_base_patch16_224",
            "swin_base_patch4_window7_224".
        image_size: height and width in pixels, multiples of the encoder's stride.
        channels: of the input images.
        pretrained: start from timm's weights of that name (fetched from the Hugging Face hub if not cached).
        position: "learned" or "sincos", for models that are not pretrained: plain ViTs (MAE's table), and
            BEiT-style ones with a table of positions and no relative ones (CAE's).
        init: "mae", "beit" or "cae", the papers' initial weights unless pretrained; None is timm's own.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        options: passed on to timm (`embed_dim`, `window_size`, `init_values`, `reg_tokens`, ...).

    Raises:
        UserError: unknown name or option, or a combination that cannot be built.
    """
    family = _family(name)
    adapter, fixed = ENCODERS[family]
    if not 0 <= drop_path_rate < 1:
        raise UserError(f"encoder.drop_path_rate={drop_path_rate} must be at least 0 and less than 1")
    arguments: dict[str, Any] = {
        "img_size": list(image_size),
        "in_chans": channels,
        "num_classes": 0,
        **fixed,
        **_fitted(family, name, image_size, options),
    }
    try:
        if pretrained:
            require_weights(name)
        model = timm.create_model(name, pretrained=pretrained, drop_path_rate=drop_path_rate, **arguments)
    except TypeError as error:
        raise _unknown_option(name, family, options, error) from error
    except Exception as error:
        if pretrained:  # what hub clients raise without a network differs between versions
            raise UserError(
                f"the published weights of {name} are not on this machine and could not be fetched: "
                f"{type(error).__name__}. Go online once, name a model that has weights, or start from "
                "random ones (encoder.pretrained=false)."
            ) from error
        if not isinstance(error, AssertionError | ValueError | ZeroDivisionError | RuntimeError):
            raise
        raise UserError(f"timm cannot build {name} with {options or 'these options'}: {error}") from error
    if type(model) is not family or not isinstance(model.patch_embed, PatchEmbed):
        raise UserError(
            f"{name} cannot be masked patch by patch: it is a {type(model).__name__} with a "
            f"{type(model.patch_embed).__name__} stem. Use a plain ViT, BEiT, EVA, Swin, SwinV2, HiViT, "
            "Fast-iTPN or RevCol."
        )
    architecture = {"model_name": name.split(".")[0], **arguments}
    # Published weights bring their own positions and values.
    placed = {} if position == "learned" or pretrained else {"position": position}
    if placed and adapter not in (ViTEncoder, beit_encoder):
        raise UserError(f"encoder.position={position} is for plain ViTs; {name} has positions of its own")
    try:
        encoder = adapter(model, architecture=architecture, **placed)
        if init is not None and not pretrained:
            initialise(encoder, init)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    return encoder


def rebuilt(
    architecture: Mapping[str, Any],
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    drop_path_rate: float = 0.0,
) -> Encoder:
    """An encoder from `Encoder.architecture`, with random weights of timm's.

    Args:
        image_size: height and width in pixels; None is the architecture's, and so for `channels`.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.

    Raises:
        UserError: as `create_encoder`.
    """
    own = ("model_name", "img_size", "in_chans", "num_classes")
    options = {name: value for name, value in architecture.items() if name not in own}
    return create_encoder(
        architecture["model_name"],
        image_size=image_size or tuple(architecture["img_size"]),
        channels=channels or architecture["in_chans"],
        drop_path_rate=drop_path_rate,
        **options,
    )


def _family(name: str) -> type[nn.Module]:
    plain = name.split(".")[0]
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, list_encoders(), n=3, cutoff=0.6)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"no encoder is called {name!r}{hint} `unmask list encoders` shows all names.")
    module = timm.model_entrypoint(plain).__module__.rsplit(".", 1)[-1]
    if module not in _MODULES:
        raise UserError(
            f"{name} is a timm model of a family ({module}) that cannot be masked. Use a plain ViT, "
            "BEiT, EVA, Swin, SwinV2, HiViT, Fast-iTPN or RevCol model; `unmask list encoders` shows them."
        )
    return _MODULES[module]


def _fitted(
    family: type[nn.Module], name: str, image_size: tuple[int, int], options: dict[str, Any]
) -> dict[str, Any]:
    """Options with a window that tiles the image, if none is given."""
    named = re.search(r"window(?:\d+to)?(\d+)", name)  # "window12to16": pre-trained with 12, built with 16
    if family not in (SwinTransformer, SwinTransformerV2) or "window_size" in options or not named:
        return options
    patch_size = options.get("patch_size", 4)
    grid = image_size[0] // patch_size, image_size[1] // patch_size
    stages = len(options.get("depths", (0, 0, 0, 0)))
    return {**options, "window_size": fitting_window(grid, stages, int(named[1]))}


def _unknown_option(
    name: str, family: type[nn.Module], options: dict[str, Any], error: TypeError
) -> UserError:
    known = [key for key in inspect.signature(family).parameters if key not in ("device", "dtype")]
    wrong = [key for key in options if key not in known]
    if not wrong:
        return UserError(f"timm cannot build {name} with {options}: {error}")
    near = difflib.get_close_matches(wrong[0], known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"{name} has no option {wrong[0]!r}{hint} Options: {', '.join(known)}.")
