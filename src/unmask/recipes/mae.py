"""MAE's published runs on ImageNet-1K (He et al. 2022, appendix A.1; PRETRAIN.md of the official code)."""

from typing import Any

from unmask.recipes.base import Choice, Data, Optim, Recipe, Schedule


def default(encoder: str = "vit_small_patch16_224") -> Recipe:
    """A run on one's own images.

    Source: the published runs below. What differs: epochs and batch follow from the size of the data
        (`resolve`); the learning rate is four times theirs at the same batch, up to their peak, since runs
        on little data have few steps; encoders narrower than ViT-B get a decoder of 4 blocks of width 256,
        because the paper's is larger than such an encoder, and fine-tuning hardly depends on it (tables 1a
        and 1b).
    """
    narrow = any(size in encoder for size in ("tiny", "small", "little"))
    decoder = {"decoder_dim": 256, "decoder_depth": 4, "decoder_heads": 8} if narrow else {}
    # Learned tables and rotary positions come with their own start; a plain ViT gets the paper's.
    plain = encoder.startswith(("vit_", "deit")) and not any(part in encoder for part in ("rope", "dinov3"))
    options = {"position": "sincos", "init": "mae"} if plain else {}
    return Recipe(
        name="mae",
        method=Choice(name="mae", **decoder),
        encoder=Choice(name=encoder, **options),
        data=Data(crop_scale=(0.2, 1.0), interpolation="bicubic"),
        optim=Optim(
            batch_size=256, base_lr=6e-4, lr_per=256, max_lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05
        ),
        schedule=Schedule(epochs=400, warmup_epochs=20),
    )


def small() -> Recipe:
    """A run on a few thousand images of one's own, also without a GPU.

    Source: measured, see docs/small-data.md. What differs from `default`: 64 pixels in patches of 8, a narrow
        ViT of six blocks, a decoder of one, weaker crops, and batches of 64, because a short run needs many
        steps.
    """
    return Recipe(
        name="mae",
        method=Choice(name="mae", decoder_dim=96, decoder_depth=1, decoder_heads=3),
        encoder=Choice(name="vit_tiny_patch16_224", position="sincos", init="mae", patch_size=8, depth=6),
        data=Data(image_size=(64, 64), crop_scale=(0.4, 1.0), interpolation="bicubic"),
        optim=Optim(
            batch_size=64, base_lr=1e-3, lr_per=64, max_lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05
        ),
        schedule=Schedule(epochs=100, warmup_epochs=5),
    )


def _published(size: str, encoder: str, epochs: int) -> Recipe:
    method: dict[str, Any] = {"mask_ratio": 0.75, "norm_target": True, "rounding": "mae_official"}
    return Recipe(
        name=f"mae_vit_{size}_{epochs}ep",
        method=Choice(name="mae", **method, decoder_dim=512, decoder_depth=8, decoder_heads=16),
        encoder=Choice(name=encoder, position="sincos", init="mae"),
        data=Data(image_size=(224, 224), crop_scale=(0.2, 1.0), interpolation="bicubic"),
        optim=Optim(
            batch_size=4096,
            base_lr=1.5e-4,
            lr_per=256,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            no_decay=(),  # the official grouping also decays class and mask token
        ),
        schedule=Schedule(epochs=epochs, warmup_epochs=40, warmup_lr=0.0, final_lr=0.0),
    )


def mae_vit_base_800ep() -> Recipe:
    """ViT-B/16, 800 epochs.

    Source: PRETRAIN.md of the official code.
    Command: unmask pretrain mae_vit_base_800ep --data imagenet/train --out runs/mae-b
    Published: 83.3 % fine-tuned, 65.1 % linear (re-run by MMSelfSup; the authors give 1600 epochs).
    Cost: 9.8 GMACs an image forward, of which 5.4 in the decoder (computed).
    Reproduced by us: not yet.
    """
    return _published("base", "vit_base_patch16_224", 800)


def mae_vit_base_1600ep() -> Recipe:
    """ViT-B/16, 1600 epochs: the released weights.

    Source: PRETRAIN.md and README of the official code.
    Command: unmask pretrain mae_vit_base_1600ep --data imagenet/train --out runs/mae-b
    Published: 83.66 % fine-tuned, 67.8 % linear (68.0 % in the paper).
    Cost: 9.8 GMACs an image forward (computed).
    Reproduced by us: not yet.
    """
    return _published("base", "vit_base_patch16_224", 1600)


def mae_vit_large_800ep() -> Recipe:
    """ViT-L/16, 800 epochs: the ablation setting of the paper.

    Source: table 1 and PRETRAIN.md of the official code.
    Command: unmask pretrain mae_vit_large_800ep --data imagenet/train --out runs/mae-l
    Published: 85.4 % fine-tuned; 73.9 % linear (recalled from table 1d, unverified).
    Cost: about 42 hours on 64 V100 GPUs (official code).
    Reproduced by us: not yet.
    """
    return _published("large", "vit_large_patch16_224", 800)


def mae_vit_large_1600ep() -> Recipe:
    """ViT-L/16, 1600 epochs: the released weights.

    Source: PRETRAIN.md and README of the official code.
    Command: unmask pretrain mae_vit_large_1600ep --data imagenet/train --out runs/mae-l
    Published: 85.95 % fine-tuned, 76.0 % linear (75.8 % in the paper).
    Cost: twice the run of 800 epochs.
    Reproduced by us: not yet.
    """
    return _published("large", "vit_large_patch16_224", 1600)


def mae_vit_huge_1600ep() -> Recipe:
    """ViT-H/14, 1600 epochs: the released weights.

    Source: README of the official code.
    Command: unmask pretrain mae_vit_huge_1600ep --data imagenet/train --out runs/mae-h
    Published: 86.93 % fine-tuned, 77.2 % linear (76.6 % in the paper); 87.8 % fine-tuned at 448 pixels.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published("huge", "vit_huge_patch14_224", 1600)


def mae_hivit_base_1600ep() -> Recipe:
    """HiViT-B, 1600 epochs.

    Source: README and get_started of HiViT's official code (Zhang et al. 2023).
    Command: unmask pretrain mae_hivit_base_1600ep --data imagenet/train --out runs/mae-hivit-b
    Published: 84.6 % fine-tuned; COCO 53.3 box AP, ADE20K 52.8 mIoU.
    Cost: 7.9 GMACs an image forward (computed).
    Reproduced by us: not yet.
    """
    run = _published("base", "vit_base_patch16_224", 1600)
    method = {**run.method.model_dump(), "decoder_depth": 6}
    return run.model_copy(
        update={
            "name": "mae_hivit_base_1600ep",
            "method": Choice(**method),
            "encoder": Choice(name="hivit_base_patch16_224"),
            "optim": run.optim.model_copy(update={"base_lr": 1e-4}),
        }
    )
