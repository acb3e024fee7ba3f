"""CAE's published runs on ImageNet-1K (Chen et al. 2022; official code)."""

from typing import Any

from unmask.recipes import beit
from unmask.recipes.base import Choice, Recipe


def default(encoder: str = "vit_small_patch16_224") -> Recipe:
    """A run on one's own images.

    Source: BEiT's default. What differs: an encoder that can leave patches out, with MAE's positions and
        start.
    """
    plain = encoder.startswith(("vit_", "deit")) and not any(part in encoder for part in ("rope", "dinov3"))
    options = {"position": "sincos", "init": "mae"} if plain else {}
    return _with_cae(beit.default(), Choice(name=encoder, **options))


def small() -> Recipe:
    """A run on a few thousand images of one's own, also without a GPU.

    Source: BEiT's recipe for small data, with MAE's encoder, and two narrow blocks in regressor and decoder;
        not searched for itself.
    """
    narrow: dict[str, Any] = {
        "regressor_depth": 2,
        "decoder_depth": 2,
        "decoder_dim": 96,
        "decoder_heads": 3,
    }
    encoder = Choice(name="vit_tiny_patch16_224", position="sincos", init="mae", patch_size=8, depth=6)
    return _with_cae(beit.small(), encoder, **narrow)


def _with_cae(run: Recipe, encoder: Choice, **method: Any) -> Recipe:
    return run.model_copy(update={"name": "cae", "method": Choice(name="cae", **method), "encoder": encoder})


def _published(size: str, epochs: int, warmup_epochs: int) -> Recipe:
    run = beit.published(
        f"cae_vit_{size}_{epochs}ep",
        # Of both sizes the released scripts leave regressor and decoder as wide as ViT-B.
        Choice(name="cae", lagging_target=True, decoder_dim=768, decoder_heads=12),
        size,
        drop_path_rate=0.1,
        crop_scale=(0.08, 1.0),
        betas=(0.9, 0.999),
        epochs=epochs,
    )
    encoder = Choice(
        name=run.encoder.name,
        position="sincos",
        init="cae",
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        drop_path_rate=0.1,
    )
    return run.model_copy(
        update={
            "encoder": encoder,
            "data": run.data.model_copy(update={"jitter": (0.0, 0.0, 0.0, 0.0)}),
            "schedule": run.schedule.model_copy(update={"warmup_epochs": warmup_epochs}),
        }
    )


def cae_vit_base_300ep() -> Recipe:
    """ViT-B/16, 300 epochs.

    Source: official code; the tokenizer is DALL-E's dVAE.
    Command: unmask pretrain cae_vit_base_300ep --data imagenet/train --out runs/cae-b
    Published: 83.6 % fine-tuned, 64.5 % linear, 74.0 % attentive; ADE20K 48.1 mIoU, COCO 48.3 box AP.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published("base", 300, 10)


def cae_vit_base_800ep() -> Recipe:
    """ViT-B/16, 800 epochs.

    Source: official code; the tokenizer is DALL-E's dVAE.
    Command: unmask pretrain cae_vit_base_800ep --data imagenet/train --out runs/cae-b
    Published: 83.8 % fine-tuned, 68.9 % linear, 75.9 % attentive; ADE20K 49.7 mIoU, COCO 49.9 box AP.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published("base", 800, 20)


def cae_vit_base_1600ep() -> Recipe:
    """ViT-B/16, 1600 epochs.

    Source: official code; the tokenizer is DALL-E's dVAE.
    Command: unmask pretrain cae_vit_base_1600ep --data imagenet/train --out runs/cae-b
    Published: 83.9 % fine-tuned, 70.3 % linear, 77.2 % attentive; ADE20K 50.3 mIoU, COCO 50.3 box AP.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published("base", 1600, 40)


def cae_vit_large_1600ep() -> Recipe:
    """ViT-L/16, 1600 epochs.

    Source: official code; the tokenizer is DALL-E's dVAE. LayerScale starts at 1e-5. A missing backslash in
        the released script leaves regressor and decoder at the size of ViT-B, which is taken over here.
    Command: unmask pretrain cae_vit_large_1600ep --data imagenet/train --out runs/cae-l
    Published: 86.2 % fine-tuned, 77.8 % linear, 81.2 % attentive; ADE20K 54.9 mIoU, COCO 54.5 box AP.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published("large", 1600, 40)
