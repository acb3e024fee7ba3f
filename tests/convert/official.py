"""Files as the official code saves them, from the weights of the fixtures."""

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tests.golden.golden import load_case
from tests.golden.official import tensors

GOLDEN = Path(__file__).parents[1] / "golden"
# What the weights of these tiny models do not tell.
SETTINGS: dict[str, dict[str, Any]] = {
    "mae_vit": {"encoder.num_heads": 4, "method.decoder_heads": 4},
    "simmim_vit": {},
    "simmim_swin": {},
    "simmim_swinv2": {},
}


@cache
def case(name: str) -> dict[str, Any]:
    return load_case(GOLDEN / name)


def weights(name: str) -> dict[str, Tensor]:
    return tensors(case(name)["params"])


def settings(name: str) -> Any:
    """What the authors' code keeps of its command line or its configuration."""
    spec = case(name)["info"]["constructor"]
    if name == "mae_vit":
        return Namespace(
            model="mae_vit", mask_ratio=spec["mask_ratio"], norm_pix_loss=spec["normalise_target"]
        )
    window = spec.get("normalise_target_window")
    target = {"ENABLE": window is not None, "PATCH_SIZE": window or 47}
    data = {"MASK_RATIO": spec["mask_ratio"], "MASK_PATCH_SIZE": spec["mask_unit"]}
    return {"DATA": data, "MODEL": {"TYPE": "swin", "SIMMIM": {"NORM_TARGET": target}}}


@contextmanager
def yacs() -> Iterator[type]:
    """`yacs.config.CfgNode` as long as a file is written; it is not there when the file is read."""

    class CfgNode(dict):
        def __init__(self, items: Mapping[str, Any]) -> None:
            nodes = {key: CfgNode(item) if isinstance(item, Mapping) else item for key, item in items.items()}
            super().__init__(nodes)
            self.__dict__["__immutable__"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module = ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    sys.modules |= {"yacs": ModuleType("yacs"), "yacs.config": module}
    try:
        yield CfgNode
    finally:
        del sys.modules["yacs"], sys.modules["yacs.config"]


def save(name: str, path: Path) -> Path:
    """A pre-training file with all that the authors' code puts into it."""
    content: dict[str, Any] = {
        "model": weights(name),
        "epoch": 799,
        "optimizer": {"state": {}, "param_groups": []},
    }
    if name == "mae_vit":
        torch.save({**content, "scaler": {"scale": 65536.0}, "args": settings(name)}, path)
        return path
    with yacs() as node:
        kept = {"lr_scheduler": {"t": 5}, "max_accuracy": 0.0, "config": node(settings(name))}
        torch.save({**content, **kept}, path)
    return path
