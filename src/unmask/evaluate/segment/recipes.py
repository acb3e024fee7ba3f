"""Recipes of semantic segmentation with UPerNet: a small one for one's own data, and the published ones.

All published ones are of ADE20K: crops of 512 x 512 pixels (640 where it says so), 160,000 steps of 16
pictures, polynomial decay, no test-time augmentation. None has been reproduced by us yet.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from unmask.evaluate.segment.head import Norm
from unmask.necks import NeckName
from unmask.recipes.base import Fraction, PositiveInt, Schedule, Section, Strength
from unmask.recipes.tasks import TaskOptim, TaskRecipe, Validation

ADE20K_STEPS, ADE20K_WARMUP = 160_000, 1_500
Positive = Annotated[float, Field(gt=0)]
DropRate = Annotated[float, Field(ge=0, lt=1)]


class SegmentData(Section):
    """How a picture and its mask become a sample."""

    image_size: tuple[PositiveInt, PositiveInt] | None = None  # of a crop; None is the encoder's own
    short_side: PositiveInt | Literal["crop", "as_it_is"] = "crop"
    # pixels that a picture's shorter side is scaled to, in training and tests; "crop": the crop's own
    scale: tuple[Positive, Positive] = (0.5, 2.0)  # random factor on it, in training
    largest_class: Fraction = 0.75  # share of a crop that one class may fill
    flip: bool = True
    jitter: tuple[Strength, Strength, Strength, Strength] = (0.125, 0.5, 0.5, 0.05)
    # of brightness, contrast, saturation and hue, for half of the samples; RGB of 8 bits only
    classes: str | None = None  # file with a name a line; None: see the data
    reduce_zero_label: bool = False  # index 0 of the masks is no class, and 1 is the first
    stride: Fraction = 2 / 3  # share of a window between two windows, in tests

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(
                f"scale must run from a low to a high factor, not from {self.scale[0]} to {self.scale[1]}"
            )
        return self


class Network(Section):
    """What is built on the encoder."""

    neck: NeckName = "auto"  # see `unmask.necks`; auto: deconvolution for plain ViTs, else the natural one
    neck_width: PositiveInt | None = None  # of all four maps; None is the neck's own
    width: PositiveInt = 64  # of UPerNet
    dropout: DropRate = 0.1
    norm: Norm = "layer"
    auxiliary_width: Annotated[int, Field(ge=0)] = 32  # of the plain head on the third map; 0 for none
    auxiliary_weight: Strength = 0.4
    drop_path_rate: DropRate = 0.1
    random: bool = False  # start from random weights: the baseline


class SegmentRecipe(TaskRecipe):
    """One run of segmentation."""

    kind: Literal["segment"] = "segment"
    start: str = ""  # the encoder, as it was named
    data: SegmentData = SegmentData()
    network: Network = Network()
    validation: Validation = Validation(batch_size=8)  # windows at a time


def default() -> SegmentRecipe:
    """One's own data, also without a GPU.

    Source: ours, for small data and few steps; crops, losses and schedule are those of the published runs
        below. What differs: UPerNet of width 64 and layer norms instead of 512 or 768 and batch norms,
        batches of 8, a higher learning rate, because a short run starts with a head that knows nothing.
    """
    return SegmentRecipe(
        name="default",
        optim=TaskOptim(batch_size=8, lr=1e-3, weight_decay=0.05, layer_decay=0.8, clip=1.0),
        schedule=Schedule(kind="poly", epochs=50, warmup_epochs=2),
    )


def _ade20k(
    name: str,
    *,
    lr: float,
    layer_decay: float = 1.0,
    drop_path_rate: float,
    neck: NeckName = "auto",
    width: int = 768,
    crop: int = 512,
    steps: int = ADE20K_STEPS,
    batch_size: int = 16,
    **optim: Any,
) -> SegmentRecipe:
    return SegmentRecipe(
        name=name,
        data=SegmentData(image_size=(crop, crop), reduce_zero_label=True),
        network=Network(
            neck=neck, width=width, norm="batch", auxiliary_width=256, drop_path_rate=drop_path_rate
        ),
        optim=TaskOptim(
            **{"weight_decay": 0.05, **optim}, batch_size=batch_size, lr=lr, layer_decay=layer_decay
        ),
        schedule=Schedule(kind="poly", epochs=None, steps=steps, warmup_steps=ADE20K_WARMUP, warmup_epochs=0),
    )


def mae_vit_base_ade20k() -> SegmentRecipe:
    """MAE, ViT-B, after pre-training.

    Source: a re-implementation of MAE's segmentation (mae_segmentation). It adds relative positions to every
        block and factors of 1 to its branches, which are not here.
    Command: unmask evaluate segment runs/mae-b --recipe mae_vit_base_ade20k --data ade20k --out runs/ade
    Published: 48.1 mIoU (paper), 48.15 (the re-implementation).
    Cost: 8 GPUs of 2 crops each (the usual setting).
    Reproduced by us: not yet.
    """
    return _ade20k("mae_vit_base_ade20k", lr=1e-4, layer_decay=0.65, drop_path_rate=0.1, neck="deconvolution")


def beit_base_ade20k() -> SegmentRecipe:
    """BEiT-B, after pre-training.

    Source: configuration of the official code.
    Command: unmask evaluate segment runs/beit-b --recipe beit_base_ade20k --data ade20k --out runs/ade
    Published: 47.1 mIoU (as iTPN's table lists it).
    Cost: as mae_vit_base_ade20k.
    Reproduced by us: not yet.
    """
    return _ade20k("beit_base_ade20k", lr=7e-4, layer_decay=0.65, drop_path_rate=0.1, neck="deconvolution")


def beitv2_base_ade20k() -> SegmentRecipe:
    """BEiT v2-B.

    Source: configuration of the official code.
    Command: unmask evaluate segment runs/beitv2-b --recipe beitv2_base_ade20k --data ade20k --out runs/ade
    Published: not noted.
    Cost: as mae_vit_base_ade20k.
    Reproduced by us: not yet.
    """
    return _ade20k("beitv2_base_ade20k", lr=5e-5, layer_decay=0.75, drop_path_rate=0.15, neck="deconvolution")


def beitv2_large_ade20k() -> SegmentRecipe:
    """BEiT v2-L.

    Source: configuration of the official code.
    Command: unmask evaluate segment runs/beitv2-l --recipe beitv2_large_ade20k --data ade20k --out runs/ade
    Published: not noted.
    Cost: as mae_vit_base_ade20k, and about three times the arithmetic of the encoder.
    Reproduced by us: not yet.
    """
    return _ade20k("beitv2_large_ade20k", lr=4e-5, layer_decay=0.9, drop_path_rate=0.2, neck="deconvolution")


def itpn_base_ade20k() -> SegmentRecipe:
    """iTPN-B with its pre-trained pyramid beside the backbone's scales.

    Source: configuration of the official code, whose layer decay is rescaled by a formula of its own:
        0.90 ^ (13 / 26) a block; `equivalent_12_layers` has 13 / 31 there. Whether the numbers start from the
        pre-trained or the fine-tuned weights is not known.
    Command: unmask evaluate segment runs/itpn-b --recipe itpn_base_ade20k --data ade20k --out runs/ade
    Published: 53.5 mIoU (pixels), 54.7 (CLIP as teacher).
    Cost: as mae_vit_base_ade20k.
    Reproduced by us: not yet.
    """
    return _itpn("itpn_base_ade20k", layer_decay=0.90, drop_path_rate=0.1)


def itpn_large_ade20k() -> SegmentRecipe:
    """iTPN-L, as itpn_base_ade20k.

    Source: configuration of the official code, as of itpn_base_ade20k.
    Command: unmask evaluate segment runs/itpn-l --recipe itpn_large_ade20k --data ade20k --out runs/ade
    Published: 56.1 mIoU (pixels), 57.7 (CLIP as teacher).
    Cost: as beitv2_large_ade20k.
    Reproduced by us: not yet.
    """
    return _itpn("itpn_large_ade20k", layer_decay=0.95, drop_path_rate=0.2)


def _itpn(name: str, *, layer_decay: float, drop_path_rate: float) -> SegmentRecipe:
    return _ade20k(
        name,
        lr=3e-5,
        layer_decay=layer_decay,
        layer_decay_convention="equivalent_12_layers",
        drop_path_rate=drop_path_rate,
        neck="joined",
    )


def hivit_base_ade20k() -> SegmentRecipe:
    """HiViT-B, after fine-tuning on ImageNet-1K: give the run of `unmask evaluate finetune`.

    Source: configuration of the official code: crops of 640, 80,000 steps of 32 pictures, width 1024. Its
        figure is of several scales and flips, which are not here.
    Command: unmask evaluate segment runs/hivit-ft --recipe hivit_base_ade20k --data ade20k --out runs/ade
    Published: 52.8 mIoU (multi-scale).
    Cost: crops of 640 x 640, 1.6 times the pixels of the others.
    Reproduced by us: not yet.
    """
    return _ade20k(
        "hivit_base_ade20k",
        lr=1e-3,
        layer_decay=0.75,
        drop_path_rate=0.1,
        neck="native",
        width=1024,
        crop=640,
        steps=80_000,
        batch_size=32,
    )


def swin_base_ade20k() -> SegmentRecipe:
    """Swin-B, also one that SimMIM pre-trained.

    Source: Swin's recipe (recalled, unverified): learning rate, weight decay, stochastic depth, width 512.
    Command: unmask evaluate segment runs/simmim --recipe swin_base_ade20k --data ade20k --out runs/ade
    Published: 52.8 mIoU (SimMIM's Swin-B, as HiViT's and iTPN's tables list it).
    Cost: as mae_vit_base_ade20k.
    Reproduced by us: not yet.
    """
    return _ade20k(
        "swin_base_ade20k", lr=6e-5, weight_decay=0.01, drop_path_rate=0.3, neck="native", width=512
    )


def revcolv2_ade20k() -> SegmentRecipe:
    """RevColV2 with all of its levels.

    Source: nothing is known of RevColV2's own; learning rate, layer decay and crops of 640 are those of
        RevCol-L (first version), the rest is the others'.
    Command: unmask evaluate segment runs/revcolv2 --recipe revcolv2_ade20k --data ade20k --out runs/ade
    Published: 58.6 mIoU (L, after ImageNet-22K, UPerNet).
    Cost: crops of 640 x 640.
    Reproduced by us: not yet.
    """
    return _ade20k("revcolv2_ade20k", lr=4e-5, layer_decay=0.9, drop_path_rate=0.1, neck="levels", crop=640)


RECIPES: dict[str, Callable[[], SegmentRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        default,
        mae_vit_base_ade20k,
        beit_base_ade20k,
        beitv2_base_ade20k,
        beitv2_large_ade20k,
        itpn_base_ade20k,
        itpn_large_ade20k,
        hivit_base_ade20k,
        swin_base_ade20k,
        revcolv2_ade20k,
    )
}
