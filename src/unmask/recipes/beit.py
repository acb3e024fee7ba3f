"""BEiT's published runs on ImageNet-1K (Bao et al. 2022; official code), and what its descendants share."""

from typing import Any

from unmask.recipes.base import Choice, Data, Optim, Recipe, Schedule

# BEiT-style models have names of two sizes in timm; this is the size of a ViT-S.
SMALL_SIZE = {"embed_dim": 384, "num_heads": 6}


def encoder_of(name: str | None) -> Choice:
    """The encoder of a run on one's own images: BEiT's in the size of a ViT-S if none is named."""
    if name is None:
        return _beit("beit_base_patch16_224", **SMALL_SIZE)
    return _beit(name) if name.startswith("beit") else Choice(name=name)


def _beit(name: str, **options: Any) -> Choice:
    """BEiT's encoder in pre-training: one table of relative positions for all blocks."""
    return Choice(name=name, init="beit", use_rel_pos_bias=False, use_shared_rel_pos_bias=True, **options)


def default(encoder: str | None = None) -> Recipe:
    """A run on one's own images.

    Source: the published runs below. What differs: epochs and batch follow from the size of the data
        (`resolve`); the learning rate is four times theirs at the same batch, up to their peak, since runs
        on little data have few steps; colours are left alone, since images may have other channels.
    """
    return Recipe(
        name="beit",
        method=Choice(name="beit"),
        encoder=encoder_of(encoder),
        data=Data(crop_scale=(0.2, 1.0), interpolation="bicubic"),
        optim=Optim(
            batch_size=256,
            base_lr=7.5e-4,
            lr_per=256,
            max_lr=1.5e-3,
            betas=(0.9, 0.999),
            weight_decay=0.05,
            clip=3.0,
        ),
        schedule=Schedule(epochs=400, warmup_epochs=20),
    )


def small() -> Recipe:
    """A run on a few thousand images of one's own, also without a GPU.

    Source: MAE's recipe for small data, with an encoder of the same size; not searched for itself.
    """
    return Recipe(
        name="beit",
        method=Choice(name="beit"),
        encoder=_beit("beit_base_patch16_224", patch_size=8, embed_dim=192, depth=6, num_heads=3),
        data=Data(image_size=(64, 64), crop_scale=(0.4, 1.0), interpolation="bicubic"),
        optim=Optim(
            batch_size=64,
            base_lr=1e-3,
            lr_per=64,
            max_lr=1.5e-3,
            betas=(0.9, 0.999),
            weight_decay=0.05,
            clip=3.0,
        ),
        schedule=Schedule(epochs=100, warmup_epochs=5),
    )


def published(
    name: str,
    method: Choice,
    size: str,
    *,
    drop_path_rate: float,
    crop_scale: tuple[float, float],
    betas: tuple[float, float],
    epochs: int,
) -> Recipe:
    """The run of BEiT's official code, which PeCo, BEiT v2 and CAE took over in large parts."""
    encoder = _beit(f"beit_{size}_patch16_224", use_abs_pos_emb=False, drop_path_rate=drop_path_rate)
    return Recipe(
        name=name,
        method=method,
        encoder=encoder,
        data=Data(
            image_size=(224, 224), crop_scale=crop_scale, jitter=(0.4, 0.4, 0.4, 0.0), interpolation="bicubic"
        ),
        optim=Optim(
            batch_size=2048,
            lr=1.5e-3,  # not scaled by the batch
            betas=betas,
            weight_decay=0.05,
            # The official grouping decays the mask token and the relative position table.
            no_decay=("cls_token", "pos_embed"),
            clip=3.0,
        ),
        schedule=Schedule(epochs=epochs, warmup_epochs=10, warmup_lr=0.0, final_lr=1e-5 / 1.5e-3),
    )


def _beit_run(size: str, epochs: int) -> Recipe:
    return published(
        f"beit_vit_{size}_{epochs}ep",
        Choice(name="beit", official_masks=True),
        size,
        drop_path_rate=0.1,
        crop_scale=(0.08, 1.0),
        betas=(0.9, 0.999),
        epochs=epochs,
    )


def beit_vit_base_300ep() -> Recipe:
    """ViT-B/16, 300 epochs.

    Source: official code; the tokenizer is DALL-E's dVAE. Images are normalised by ImageNet's mean and
        standard deviation, as its README says for ImageNet-1K; the weights released for ImageNet-22K by .5
        and .5 (data.mean, data.std).
    Command: unmask pretrain beit_vit_base_300ep --data imagenet/train --out runs/beit-b
    Published: 82.9 % fine-tuned (quoted in BEiT v2); at the end a loss of 6.30 and 4.96 % of the codes right
        (authors' log).
    Cost: 17.6 GMACs an image forward, and 26.1 for DALL-E's encoder at 112 pixels (computed).
    Reproduced by us: not yet.
    """
    return _beit_run("base", 300)


def beit_vit_base_800ep() -> Recipe:
    """ViT-B/16, 800 epochs.

    Source: abstract and official code; the tokenizer is DALL-E's dVAE.
    Command: unmask pretrain beit_vit_base_800ep --data imagenet/train --out runs/beit-b
    Published: 83.2 % fine-tuned.
    Cost: about 5 days on 16 V100 GPUs (recalled, unverified).
    Reproduced by us: not yet.
    """
    return _beit_run("base", 800)


def beit_vit_large_800ep() -> Recipe:
    """ViT-L/16, 800 epochs.

    Source: official code; the tokenizer is DALL-E's dVAE. LayerScale starts at 1e-5.
    Command: unmask pretrain beit_vit_large_800ep --data imagenet/train --out runs/beit-l
    Published: 86.3 % fine-tuned at 384 pixels; 85.2 % at 224 (recalled, unverified).
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _beit_run("large", 800)
