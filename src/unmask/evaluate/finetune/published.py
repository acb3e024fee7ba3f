"""The fine-tuning recipes of the papers, for ImageNet-1K, and of ours for few images.

All of the papers share: AdamW with betas 0.9 and 0.999, weight decay 0.05, cosine, random crops of 8 to
100 %, RandAugment m9, random erasing 0.25, mixup 0.8, cutmix 1.0, label smoothing 0.1. Numbers are of the
official code or its instructions unless a docstring says otherwise. Reproduced by us: not yet, any of them.
"""

from collections.abc import Callable
from typing import Any

from unmask.evaluate.finetune.recipe import FinetuneData, FinetuneOptions, FinetuneRecipe, Pool
from unmask.recipes.base import Choice, Schedule
from unmask.recipes.tasks import LayerDecayConvention, TaskOptim

LEAST_LR = 1e-6  # at the end, all of the papers'


def _run(
    name: str,
    *,
    epochs: int,
    warmup: float,
    layer_decay: float,
    drop_path: float,
    base_lr: float | None = None,
    lr: float | None = None,
    batch_size: int = 1024,
    lr_per: int = 256,
    convention: LayerDecayConvention = "per_layer",
    pool: Pool = "mean_norm",
    mixed: bool = True,
    first_lr: float = 0.0,
    **optim: Any,
) -> FinetuneRecipe:
    """A paper's recipe; the learning rate is meant for `batch_size` (`lr`) or for `lr_per` (`base_lr`) images
    a step, and is scaled to any other batch."""
    peak = lr if lr is not None else (base_lr or 0.0) * batch_size / lr_per
    rate: dict[str, Any] = {"base_lr": base_lr, "lr_per": lr_per}
    if lr is not None:
        rate = {"base_lr": lr, "lr_per": batch_size}
    return FinetuneRecipe(
        name=name,
        task=FinetuneOptions(pool=pool) if mixed else FinetuneOptions(pool=pool, mixup=0.0, cutmix=0.0),
        encoder=Choice(name="", drop_path_rate=drop_path),
        data=FinetuneData(),
        optim=TaskOptim(
            batch_size=batch_size,
            layer_decay=layer_decay,
            layer_decay_convention=convention,
            **rate,
            **optim,
        ),
        schedule=Schedule(
            epochs=epochs, warmup_epochs=warmup, warmup_lr=first_lr / peak, final_lr=LEAST_LR / peak
        ),
    )


def mae(size: str, *, blocks: int = 12) -> FinetuneRecipe:
    """MAE (He et al. 2022): FINETUNE.md of the official code; 83.6 % (B), 85.9 % (L), 86.9 % (H) there.

    On HiViT-B (Zhang et al. 2023): layer decay 0.85, drop path 0.2; 84.6 %.
    """
    if size == "hivit":
        return _run(
            "mae_hivit", epochs=100, warmup=5, base_lr=5e-4, layer_decay=0.85, drop_path=0.2, pool="auto"
        )
    epochs, rate, decay, drop = {
        "base": (100, 5e-4, 0.65, 0.1),
        "large": (50, 1e-3, 0.75, 0.2),
        "huge": (50, 1e-3, 0.75, 0.3),
    }[size]
    return _run(f"mae_{size}", epochs=epochs, warmup=5, base_lr=rate, layer_decay=decay, drop_path=drop)


def simmim(size: str) -> FinetuneRecipe:
    """SimMIM (Xie et al. 2022): configs of the official code. Swin-B after 800 epochs: 84.0 % (its 100 epochs
    have layer decay 0.9), Swin-L 85.4 %, ViT-B 83.8 %."""
    decay, drop, pool = {
        "swin_base": (0.8, 0.1, "auto"),
        "swin_large": (0.7, 0.2, "auto"),
        "swinv2_base": (0.75, 0.1, "auto"),
        "vit_base": (0.65, 0.1, "mean_norm"),
    }[size]
    return _run(
        f"simmim_{size}",
        epochs=100,
        warmup=20,
        base_lr=1.25e-3,
        lr_per=512,
        batch_size=2048,
        layer_decay=decay,
        drop_path=drop,
        pool=pool,  # type: ignore[arg-type]
        first_lr=1e-6,
        clip=5.0,
    )


def beit(size: str) -> FinetuneRecipe:
    """BEiT (Bao et al. 2022): get_started of the official code, weights of self-supervised training only.
    PeCo follows it (recalled, unverified)."""
    if size == "large":
        return _run("beit_large", epochs=50, warmup=5, lr=1e-3, layer_decay=0.75, drop_path=0.2)
    return _run("beit_base", epochs=100, warmup=20, lr=4e-3, layer_decay=0.65, drop_path=0.1)


def beit_again(size: str) -> FinetuneRecipe:
    """BEiT after intermediate fine-tuning on ImageNet-22K: the official code's second step."""
    decay, drop = (0.9, 0.4) if size == "large" else (0.85, 0.1)
    options: dict[str, Any] = {"batch_size": 512, "weight_decay": 1e-8, "mixed": False}
    return _run(
        f"beit_{size}_again", epochs=30, warmup=5, lr=2e-5, layer_decay=decay, drop_path=drop, **options
    )


def beitv2(size: str) -> FinetuneRecipe:
    """BEiT v2 (Peng et al. 2022): official code, weights of 1600 epochs: 85.5 % (B), 87.3 % (L). After 300
    epochs B has layer decay 0.65 and drop path 0.1, L a learning rate of 5e-4. Its warm-up of 20 epochs (B)
    is documented for weights that were fine-tuned on ImageNet-21K."""
    if size == "large":
        return _run("beitv2_large", epochs=50, warmup=5, lr=2e-4, layer_decay=0.8, drop_path=0.2)
    return _run("beitv2_base", epochs=100, warmup=20, lr=5e-4, layer_decay=0.6, drop_path=0.2)


def beitv2_again(size: str) -> FinetuneRecipe:
    """BEiT v2 after intermediate fine-tuning on ImageNet-21K; its warm-up is documented for B only."""
    if size == "large":
        return _run(
            "beitv2_large_again", epochs=20, warmup=5, lr=7e-5, layer_decay=0.8, drop_path=0.25, mixed=False
        )
    return _run(
        "beitv2_base_again", epochs=30, warmup=20, lr=5e-5, layer_decay=0.75, drop_path=0.1, mixed=False
    )


def mask_distill(size: str) -> FinetuneRecipe:
    """MaskDistill (Peng et al. 2022): "like BEiT v2", layer decay 0.65, by a third party; no code was
    released (unverified)."""
    large = {"epochs": 50, "warmup": 5, "layer_decay": 0.8, "drop_path": 0.2}
    base = {"epochs": 100, "warmup": 20, "layer_decay": 0.65, "drop_path": 0.1}
    return _run(f"mask_distill_{size}", lr=5e-4, **(large if size == "large" else base))  # type: ignore[arg-type]


def milan(size: str) -> FinetuneRecipe:
    """MILAN (Hou et al. 2022): official code; 85.4 % (B). Its warm-up is not known to us: MAE's."""
    decay, drop = (0.75, 0.2) if size == "large" else (0.65, 0.1)
    return _run(f"milan_{size}", epochs=100, warmup=5, base_lr=1e-4, layer_decay=decay, drop_path=drop)


def cae(size: str) -> FinetuneRecipe:
    """CAE (Chen et al. 2023): official code; its batch for L is not known to us: that of B."""
    options: dict[str, Any] = {"batch_size": 4096, "warmup": 5}
    if size == "large":
        return _run("cae_large", epochs=50, lr=2e-3, layer_decay=0.75, drop_path=0.2, **options)
    return _run("cae_base", epochs=100, lr=8e-3, layer_decay=0.65, drop_path=0.1, **options)


def cmae(size: str) -> FinetuneRecipe:
    """CMAE (Huang et al. 2023): official code, ViT-B; 84.7 % after 1600 epochs."""
    return _run("cmae_base", epochs=100, warmup=5, base_lr=2.5e-4, layer_decay=0.65, drop_path=0.1)


def itpn(size: str) -> FinetuneRecipe:
    """iTPN from pixels (Tian et al. 2023): official code; 85.5 % (B, 1600 epochs), 86.7 % (L)."""
    own: dict[str, Any] = {"convention": "equivalent_12_layers", "pool": "auto", "warmup": 5}
    if size == "large":
        return _run("itpn_large", epochs=50, base_lr=1e-3, layer_decay=0.55, drop_path=0.2, **own)
    return _run("itpn_base", epochs=100, base_lr=4e-4, layer_decay=0.6, drop_path=0.15, **own)


def itpn_teacher(size: str) -> FinetuneRecipe:
    """iTPN from CLIP: official code; 86.2 % (B, 800 epochs), 87.8 % (L/16). Its warm-up for L is not known to
    us: 5 epochs."""
    own: dict[str, Any] = {"convention": "equivalent_12_layers", "pool": "auto"}
    if size == "large":
        return _run(
            "itpn_teacher_large", epochs=50, warmup=5, lr=2e-4, layer_decay=0.55, drop_path=0.25, **own
        )
    return _run("itpn_teacher_base", epochs=100, warmup=20, lr=5e-4, layer_decay=0.6, drop_path=0.1, **own)


def revcolv2(size: str) -> FinetuneRecipe:
    """RevColV2 (Han et al. 2023): no recipe was published; this is MAE's with a milder layer decay, as there
    are more blocks: a decision of ours."""
    drop = 0.2 if size == "large" else 0.1
    return _run(
        f"revcolv2_{size}", epochs=100, warmup=5, base_lr=5e-4, layer_decay=0.8, drop_path=drop, pool="auto"
    )


def few(method: str, width: int) -> FinetuneRecipe:
    """Ours, for fewer than 20,000 images, without a GPU: short, little mixing, no RandAugment.

    Found on 3,068 photos with encoders of width 192, 5 to 15 epochs (docs/finetune.md#recipes). That wider
    encoders want a rate lower in proportion is a rule of thumb, not measured.

    Args:
        method: that pre-trained the encoder.
        width: of its last maps.
    """
    decay, convention = FEW_DECAYS.get(method, (0.75, "per_layer"))
    recipe = _run(
        f"{method}_few",
        epochs=50,
        warmup=5,
        lr=FEW_LR * min(1.0, FEW_WIDTH / width),
        batch_size=64,
        layer_decay=decay,
        convention=convention,
        drop_path=0.05,
        clip=1.0,
    )
    task = FinetuneOptions(pool="mean_norm", mixup=0.2, cutmix=0.0, mix_probability=0.5)
    data = FinetuneData(crop_scale=(0.25, 1.0), augment=None, erase=0.1)
    return recipe.model_copy(update={"task": task, "data": data})


FEW_LR, FEW_WIDTH = 3e-3, 192  # the rate for encoders of this width
FEW_DECAYS: dict[str, tuple[float, LayerDecayConvention]] = {
    "simmim": (0.85, "per_layer"),
    "itpn": (0.7, "equivalent_12_layers"),
    "itpn_teacher": (0.7, "equivalent_12_layers"),
    "revcolv2": (0.85, "per_layer"),
}

PUBLISHED: dict[str, Callable[[], FinetuneRecipe]] = {
    "mae_base": lambda: mae("base"),
    "mae_large": lambda: mae("large"),
    "mae_huge": lambda: mae("huge"),
    "mae_hivit": lambda: mae("hivit"),
    "simmim_swin_base": lambda: simmim("swin_base"),
    "simmim_swin_large": lambda: simmim("swin_large"),
    "simmim_swinv2_base": lambda: simmim("swinv2_base"),
    "simmim_vit_base": lambda: simmim("vit_base"),
    "beit_base": lambda: beit("base"),
    "beit_large": lambda: beit("large"),
    "beit_base_again": lambda: beit_again("base"),
    "beit_large_again": lambda: beit_again("large"),
    "beitv2_base": lambda: beitv2("base"),
    "beitv2_large": lambda: beitv2("large"),
    "beitv2_base_again": lambda: beitv2_again("base"),
    "beitv2_large_again": lambda: beitv2_again("large"),
    "mask_distill_base": lambda: mask_distill("base"),
    "mask_distill_large": lambda: mask_distill("large"),
    "milan_base": lambda: milan("base"),
    "milan_large": lambda: milan("large"),
    "cae_base": lambda: cae("base"),
    "cae_large": lambda: cae("large"),
    "cmae_base": lambda: cmae("base"),
    "itpn_base": lambda: itpn("base"),
    "itpn_large": lambda: itpn("large"),
    "itpn_teacher_base": lambda: itpn_teacher("base"),
    "itpn_teacher_large": lambda: itpn_teacher("large"),
    "revcolv2_base": lambda: revcolv2("base"),
    "revcolv2_large": lambda: revcolv2("large"),
}
