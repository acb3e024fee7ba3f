"""Masked image modelling on your own images: pre-train, evaluate, export.

The public names are fetched when they are first used, so that `import unmask` needs no torch.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.attention import attention
    from unmask.check import check
    from unmask.codes.atlas import codes
    from unmask.codes.evaluation import evaluate_codes
    from unmask.colours import colours
    from unmask.compare import compare
    from unmask.convert import convert
    from unmask.embed import embed
    from unmask.encoders import ENCODERS
    from unmask.engine.first_stage import train_tokenizer
    from unmask.engine.pretrain import pretrain
    from unmask.evaluate import evaluate
    from unmask.evaluate.detect import detect, load_detector
    from unmask.evaluate.finetune import finetune
    from unmask.evaluate.segment import load_segmenter, segment
    from unmask.export import export
    from unmask.load import load_backbone, load_encoder, load_pyramid
    from unmask.masks import masks
    from unmask.methods import METHODS
    from unmask.recipes import RECIPES
    from unmask.recipes.trained import load_tokenizer
    from unmask.shrink import shrink
    from unmask.tokenizers import TOKENIZERS
    from unmask.visualize import reconstruct

__version__ = "0.1.0"
__all__ = [
    "ENCODERS",
    "METHODS",
    "RECIPES",
    "TOKENIZERS",
    "attention",
    "check",
    "codes",
    "colours",
    "compare",
    "convert",
    "detect",
    "embed",
    "evaluate",
    "evaluate_codes",
    "export",
    "finetune",
    "load_backbone",
    "load_detector",
    "load_encoder",
    "load_pyramid",
    "load_segmenter",
    "load_tokenizer",
    "masks",
    "pretrain",
    "reconstruct",
    "segment",
    "shrink",
    "train_tokenizer",
]

_HOMES = {
    "ENCODERS": "unmask.encoders",
    "METHODS": "unmask.methods",
    "RECIPES": "unmask.recipes",
    "TOKENIZERS": "unmask.tokenizers",
    "attention": "unmask.attention",
    "check": "unmask.check",
    "codes": "unmask.codes.atlas",
    "colours": "unmask.colours",
    "compare": "unmask.compare",
    "convert": "unmask.convert",
    "detect": "unmask.evaluate.detect",
    "embed": "unmask.embed",
    "evaluate": "unmask.evaluate",
    "evaluate_codes": "unmask.codes.evaluation",
    "export": "unmask.export",
    "finetune": "unmask.evaluate.finetune",
    "load_backbone": "unmask.load",
    "load_detector": "unmask.evaluate.detect",
    "load_encoder": "unmask.load",
    "load_pyramid": "unmask.load",
    "load_segmenter": "unmask.evaluate.segment",
    "load_tokenizer": "unmask.recipes.trained",
    "masks": "unmask.masks",
    "pretrain": "unmask.engine.pretrain",
    "reconstruct": "unmask.visualize",
    "segment": "unmask.evaluate.segment",
    "shrink": "unmask.shrink",
    "train_tokenizer": "unmask.engine.first_stage",
}


class _Package(ModuleType):
    """`evaluate`, `export`, `embed`, ... are submodules and functions; as attributes, always the functions.

    Python sets a submodule as an attribute of its package when it is imported, whoever imports it.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'unmask' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
