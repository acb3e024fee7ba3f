"""MILAN's published runs on ImageNet-1K (Hou et al. 2022; scripts of the official code)."""

from unmask.recipes import mae
from unmask.recipes.base import Choice, Recipe
from unmask.recipes.teachers import AT_HAND, CLIP_BASE


def default(encoder: str = "vit_small_patch16_224") -> Recipe:
    """A run on one's own images.

    Source: MAE's default for data, optimiser and schedule, which MILAN's published runs share. What differs:
        the teacher is one that needs no connection and has no class token, so patches are hidden evenly;
        `method.teacher` names a better one.
    """
    run = mae.default(encoder)
    method = Choice(name="milan", teacher=AT_HAND, **run.method.options)
    return run.model_copy(update={"name": "milan", "method": method})


def small() -> Recipe:
    """A run on a few thousand images of one's own, also without a GPU.

    Source: MAE's recipe for small data; not searched for itself.
    """
    run = mae.small()
    method = Choice(name="milan", teacher=AT_HAND, **run.method.options)
    return run.model_copy(update={"name": "milan", "method": method})


def _published(size: str) -> Recipe:
    """Data, schedule and decoder are those of MAE's published runs."""
    run = mae.mae_vit_base_800ep()
    method = {"mask_ratio": 0.75, "sampling": "attention", "rounding": "mae_official", "teacher": CLIP_BASE}
    decoder = {"decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16}
    return run.model_copy(
        update={
            "name": f"milan_vit_{size}_400ep",
            "method": Choice(name="milan", **method, **decoder),
            "encoder": Choice(name=f"vit_{size}_patch16_224", position="sincos", init="mae"),
            "schedule": run.schedule.model_copy(update={"epochs": 400, "warmup_epochs": 40}),
        }
    )


def milan_vit_base_400ep() -> Recipe:
    """ViT-B/16, 400 epochs, CLIP ViT-B/16 as teacher.

    Source: README and scripts of the official code.
    Command: unmask pretrain milan_vit_base_400ep --data imagenet/train --out runs/milan-b
    Published: 85.4 % fine-tuned, 78.9 % linear; ADE20K 52.7 mIoU.
    Cost: about 39 hours on 8 A100 GPUs of 40 GB (official code).
    Reproduced by us: not yet.
    """
    return _published("base")


def milan_vit_large_400ep() -> Recipe:
    """ViT-L/16, 400 epochs, CLIP ViT-B/16 as teacher.

    Source: scripts of the official code.
    Command: unmask pretrain milan_vit_large_400ep --data imagenet/train --out runs/milan-l
    Published: no figure that we could check.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published("large")
