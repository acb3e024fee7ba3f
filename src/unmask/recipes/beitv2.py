"""BEiT v2's published runs on ImageNet-1K (Peng et al. 2022; official code)."""

from unmask.recipes import beit
from unmask.recipes.base import Choice, Recipe


def default(encoder: str | None = None) -> Recipe:
    """A run on one's own images.

    Source: BEiT's default, with the second moment of Adam forgotten faster, as in the run of 300 epochs.
    """
    return _with_beitv2(beit.default(encoder))


def small() -> Recipe:
    """A run on a few thousand images of one's own, also without a GPU.

    Source: BEiT's recipe for small data; not searched for itself.
    """
    return _with_beitv2(beit.small())


def _with_beitv2(run: Recipe) -> Recipe:
    optim = run.optim.model_copy(update={"betas": (0.9, 0.98)})
    return run.model_copy(update={"name": "beitv2", "method": Choice(name="beitv2"), "optim": optim})


def _published(size: str, epochs: int) -> Recipe:
    long = epochs > 300
    return beit.published(
        f"beitv2_vit_{size}_{epochs}ep",
        Choice(name="beitv2", head_init="pytorch"),
        size,
        drop_path_rate=0.1 if long else 0.0,
        crop_scale=(0.2, 1.0),
        betas=(0.9, 0.999) if long else (0.9, 0.98),
        epochs=epochs,
    )


def beitv2_vit_base_300ep() -> Recipe:
    """ViT-B/16, 300 epochs.

    Source: official code; the tokenizer is VQ-KD with CLIP-B/16 as its teacher and a decoder of 3 blocks.
    Command: unmask pretrain beitv2_vit_base_300ep --data imagenet/train --out runs/beitv2-b
    Published: 85.0 % fine-tuned, 80.1 % linear on the class token; ADE20K 52.7 mIoU.
    Cost: 17.6 GMACs an image forward, as much for the tokenizer, and 3 for the second prediction (computed).
    Reproduced by us: not yet.
    """
    return _published("base", 300)


def beitv2_vit_base_1600ep() -> Recipe:
    """ViT-B/16, 1600 epochs: the released weights.

    Source: official code; the tokenizer is VQ-KD with CLIP-B/16 as its teacher and a decoder of 3 blocks.
    Command: unmask pretrain beitv2_vit_base_1600ep --data imagenet/train --out runs/beitv2-b
    Published: 85.5 % fine-tuned; ADE20K 53.1 mIoU.
    Cost: five times the run of 300 epochs and more.
    Reproduced by us: not yet.
    """
    return _published("base", 1600)


def beitv2_vit_large_300ep() -> Recipe:
    """ViT-L/16, 300 epochs.

    Source: official code; the tokenizer is VQ-KD with CLIP-B/16 as its teacher. LayerScale starts at 1e-5.
    Command: unmask pretrain beitv2_vit_large_300ep --data imagenet/train --out runs/beitv2-l
    Published: 86.6 % fine-tuned.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published("large", 300)


def beitv2_vit_large_1600ep() -> Recipe:
    """ViT-L/16, 1600 epochs: the released weights.

    Source: official code; the tokenizer is VQ-KD with CLIP-B/16 as its teacher. LayerScale starts at 1e-5.
    Command: unmask pretrain beitv2_vit_large_1600ep --data imagenet/train --out runs/beitv2-l
    Published: 87.3 % fine-tuned; ADE20K 56.7 mIoU.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published("large", 1600)
