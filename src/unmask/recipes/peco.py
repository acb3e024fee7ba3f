"""PeCo's published runs on ImageNet-1K (Dong et al. 2023), which follow BEiT's."""

from unmask.recipes import beit
from unmask.recipes.base import Choice, Recipe


def default(encoder: str | None = None) -> Recipe:
    """A run on one's own images.

    Source: BEiT's default; only the tokenizer is another one.
    """
    return _with_peco(beit.default(encoder))


def small() -> Recipe:
    """A run on a few thousand images of one's own, also without a GPU.

    Source: BEiT's recipe for small data; not searched for itself.
    """
    return _with_peco(beit.small())


def _with_peco(run: Recipe) -> Recipe:
    return run.model_copy(update={"name": "peco", "method": Choice(name="peco")})


def _published(epochs: int) -> Recipe:
    return beit.published(
        f"peco_vit_base_{epochs}ep",
        Choice(name="peco"),
        "base",
        drop_path_rate=0.1,
        crop_scale=(0.08, 1.0),
        betas=(0.9, 0.999),
        epochs=epochs,
    )


def peco_vit_base_300ep() -> Recipe:
    """ViT-B/16, 300 epochs.

    Source: the paper follows BEiT's pre-training; no code was released, so that all numbers are BEiT's.
    Command: unmask pretrain peco_vit_base_300ep --data imagenet/train --out runs/peco-b
    Published: 84.1 % fine-tuned.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published(300)


def peco_vit_base_800ep() -> Recipe:
    """ViT-B/16, 800 epochs.

    Source: the paper follows BEiT's pre-training; no code was released, so that all numbers are BEiT's.
    Command: unmask pretrain peco_vit_base_800ep --data imagenet/train --out runs/peco-b
    Published: 84.5 % fine-tuned.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published(800)
