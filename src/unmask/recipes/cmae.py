"""CMAE's published runs on ImageNet-1K (Huang et al. 2023; configurations of the official code)."""

from unmask.recipes import mae
from unmask.recipes.base import Choice, Optim, Recipe


def default(encoder: str = "vit_small_patch16_224") -> Recipe:
    """A run on one's own images.

    Source: MAE's default for data, optimiser and schedule, which CMAE's published runs share.
    """
    run = mae.default(encoder)
    return run.model_copy(update={"name": "cmae", "method": Choice(name="cmae", **run.method.options)})


def small() -> Recipe:
    """A run on a few thousand images of one's own, also without a GPU.

    Source: MAE's recipe for small data; squares of two patches, as in the published runs, and narrower
        projections. Not searched for itself.
    """
    run = mae.small()
    narrow = {"mask_size": 16, "feature_depth": 1, "projection_dim": 64, "projection_hidden": 384}
    method = Choice(name="cmae", **narrow, **run.method.options)
    return run.model_copy(update={"name": "cmae", "method": method})


def _published(epochs: int) -> Recipe:
    """Data, schedule and decoder of pixels are those of MAE's published runs."""
    run = mae.mae_vit_base_800ep()
    decoders = {"decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16, "feature_depth": 2}
    contrast = {"temperature": 0.07, "momentum": 0.996, "shift": 31}
    mask = {"mask_ratio": 0.65, "mask_size": 32, "rounding": "mae_official"}
    undecayed = Optim.model_fields["no_decay"].default  # tokens and positions too
    return run.model_copy(
        update={
            "name": f"cmae_vit_base_{epochs}ep",
            "method": Choice(name="cmae", **mask, **decoders, **contrast),
            "optim": run.optim.model_copy(update={"no_decay": undecayed}),
            "schedule": run.schedule.model_copy(update={"epochs": epochs, "warmup_epochs": 40}),
        }
    )


def cmae_vit_base_300ep() -> Recipe:
    """ViT-B/16, 300 epochs.

    Source: configurations and README of the official code.
    Command: unmask pretrain cmae_vit_base_300ep --data imagenet/train --out runs/cmae-b
    Published: 83.8 % fine-tuned.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published(300)


def cmae_vit_base_800ep() -> Recipe:
    """ViT-B/16, 800 epochs.

    Source: configurations of the official code.
    Command: unmask pretrain cmae_vit_base_800ep --data imagenet/train --out runs/cmae-b
    Published: no figure that we could check.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published(800)


def cmae_vit_base_1600ep() -> Recipe:
    """ViT-B/16, 1600 epochs.

    Source: configurations and README of the official code.
    Command: unmask pretrain cmae_vit_base_1600ep --data imagenet/train --out runs/cmae-b
    Published: 84.7 % fine-tuned.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published(1600)
