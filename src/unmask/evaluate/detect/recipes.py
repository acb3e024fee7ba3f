"""Settings of a detector's training: a small one for a CPU, and the published ones on COCO.

Each published recipe says where its numbers come from. What differs from all of them here: the boxes' loss is
torchvision's smooth L1, pictures lie on a fixed square canvas (whose side is the longest one that the paper
allows, rounded up to a multiple of 32), and statistics of batches (SyncBN) are layer norms, as in ViTDet.
"""

import difflib
from collections.abc import Callable
from typing import Any, Literal

from unmask.errors import UserError
from unmask.evaluate.detect.detector import Heads
from unmask.evaluate.detect.recipe import Data, DetectRecipe, Start
from unmask.recipes.base import Schedule
from unmask.recipes.tasks import TaskOptim, Validation

POSITIONS = ("pos_embed", "position_bias", "token")  # never decayed, beside norms and biases

# The shorter side of a picture; the longer one at most 1333.
MULTI_SCALE = Data(image_size=(1344, 1344), jitter="none", short_side=(480, 800))


def small() -> DetectRecipe:
    """A run on a few hundred pictures of one's own, also on one core of a CPU: the default.

    Source: our choice, tried in a few short runs and not searched. What differs from ViTDet: narrow heads,
        small anchors for a small canvas, a few hundred steps of a large learning rate.
    """
    return DetectRecipe(
        name="small",
        data=Data(image_size=(192, 192), jitter="none", scale=(0.7, 1.2)),
        heads=Heads(
            width=64,
            box_convolutions=1,
            box_dim=128,
            mask_convolutions=2,
            proposal_convolutions=1,
            anchor_scale=4.0,
            anchor_samples=128,
            box_samples=64,
            proposals=200,
        ),
        optim=TaskOptim(
            batch_size=4, lr=1e-3, weight_decay=0.05, layer_decay=0.8, clip=1.0, no_decay=POSITIONS
        ),
        schedule=Schedule(epochs=12, warmup_epochs=1, final_lr=0.01),
        validation=Validation(batch_size=16),
    )


def _on_coco(
    name: str,
    *,
    heads: Heads,
    data: Data,
    drop_path_rate: float,
    epochs: int,
    milestones: tuple[float, ...],
    warmup_steps: int,
    **optim: Any,
) -> DetectRecipe:
    return DetectRecipe(
        name=name,
        start=Start(drop_path_rate=drop_path_rate),
        data=data,
        heads=heads,
        optim=TaskOptim(no_decay=POSITIONS, **optim),
        schedule=Schedule(
            epochs=epochs,
            kind="multistep",
            milestones=milestones,
            decay=0.1,
            warmup_epochs=0,
            warmup_steps=warmup_steps,
        ),
        validation=Validation(batch_size=8),
    )


def _vitdet(
    size: str, *, layer_decay: float, drop_path_rate: float, kind: Literal["single", "cascade"]
) -> DetectRecipe:
    cascade = "_cascade" if kind == "cascade" else ""
    return _on_coco(
        f"vitdet_{size}{cascade}",
        heads=Heads(kind=kind, neck="simple", window=14, global_blocks=4),
        data=Data(image_size=(1024, 1024), jitter="large_scale"),
        drop_path_rate=drop_path_rate,
        epochs=100,
        milestones=(163_889 / 184_375 * 100, 177_546 / 184_375 * 100),
        warmup_steps=250,
        batch_size=64,
        lr=1e-4,
        weight_decay=0.1,
        layer_decay=layer_decay,
    )


def vitdet_base() -> DetectRecipe:
    """ViT-B/16 by MAE, Mask R-CNN, 100 epochs at 1024 pixels.

    Source: detectron2's projects/ViTDet, configuration and README; learning rate, weight decay and what is
        not decayed from its common optimiser settings. What differs: no relative positions in the backbone,
        and a class token that sees every window.
    Command: unmask evaluate detect runs/mae-b --recipe vitdet_base --data coco/train2017 \
        --annotations coco/annotations/instances_train2017.json --val-data coco/val2017 \
        --val-annotations coco/annotations/instances_val2017.json --out runs/vitdet-b
    Published: 51.6 box AP, 45.9 mask AP.
    Cost: 184,375 steps of 64 images.
    Reproduced by us: not yet.
    """
    return _vitdet("base", layer_decay=0.7, drop_path_rate=0.1, kind="single")


def vitdet_base_cascade() -> DetectRecipe:
    """ViT-B/16 by MAE, Cascade Mask R-CNN.

    Source: as vitdet_base; the cascade's thresholds and weights from the same project.
    Command: as vitdet_base.
    Published: 54.0 box AP, 46.7 mask AP.
    Cost: 184,375 steps of 64 images, each with three box heads.
    Reproduced by us: not yet.
    """
    return _vitdet("base", layer_decay=0.7, drop_path_rate=0.1, kind="cascade")


def vitdet_large() -> DetectRecipe:
    """ViT-L/16 by MAE, Mask R-CNN, 100 epochs at 1024 pixels.

    Source: as vitdet_base.
    Command: as vitdet_base.
    Published: 55.5 box AP, 49.2 mask AP.
    Cost: 184,375 steps of 64 images.
    Reproduced by us: not yet.
    """
    return _vitdet("large", layer_decay=0.8, drop_path_rate=0.4, kind="single")


def cae_base() -> DetectRecipe:
    """ViT-B/16 by CAE or of BEiT's kind, Mask R-CNN, 12 epochs ("1x"), multi-scale.

    Source: configuration of the official CAE code. What differs: smooth L1 in the place of GIoU with weight
        10. Warm-up and a batch of two images for each of its 16 GPUs are recalled, unverified.
    Command: as vitdet_base.
    Published: 50.0 box AP, 44.0 mask AP, by the comparison in iTPN's README (a picture).
    Cost: 12 epochs.
    Reproduced by us: not yet.
    """
    return _on_coco(
        "cae_base",
        heads=Heads(neck="deconvolution"),
        data=MULTI_SCALE,
        drop_path_rate=0.2,
        epochs=12,
        milestones=(9, 11),
        warmup_steps=500,
        batch_size=32,
        lr=3e-4,
        weight_decay=0.05,
        layer_decay=0.75,
    )


def itpn_base() -> DetectRecipe:
    """iTPN-B by pixels, Mask R-CNN on its pre-trained pyramid, 12 epochs ("1x"), multi-scale.

    Source: configuration of the official iTPN code; the batch of 64 follows from its README. What differs:
        the map for the largest objects is sub-sampled, not averaged; smooth L1 in the place of GIoU with
        weight 10; no second branch of crops.
    Command: as vitdet_base, with an iTPN run; `heads.neck=native` is the ablation without its pyramid.
    Published: 53.0 box AP, 46.5 mask AP (a picture in its README).
    Cost: 12 epochs.
    Reproduced by us: not yet.
    """
    return _on_coco(
        "itpn_base",
        heads=Heads(),
        data=MULTI_SCALE,
        drop_path_rate=0.05,
        epochs=12,
        milestones=(9, 11),
        warmup_steps=500,
        batch_size=64,
        lr=2e-4,
        weight_decay=0.05,
        layer_decay=0.9,
    )


def itpn_base_cascade() -> DetectRecipe:
    """iTPN-B by pixels, Cascade Mask R-CNN on its pre-trained pyramid, 36 epochs ("3x"), multi-scale.

    Source: as itpn_base.
    Command: as itpn_base.
    Published: 56.0 box AP, 48.5 mask AP (a picture in its README, which says 3x; the README's caption says
        1x).
    Cost: 36 epochs.
    Reproduced by us: not yet.
    """
    return _on_coco(
        "itpn_base_cascade",
        heads=Heads(kind="cascade"),
        data=MULTI_SCALE,
        drop_path_rate=0.2,
        epochs=36,
        milestones=(27, 33),
        warmup_steps=500,
        batch_size=64,
        lr=1e-4,
        weight_decay=0.05,
        layer_decay=0.9,
    )


def hivit_base() -> DetectRecipe:
    """HiViT-B by MAE, Mask R-CNN, 36 epochs ("3x"), multi-scale.

    Source: configuration of the official HiViT code. What differs: every block sees all of the image
        (there, of 20 blocks, all but four see windows of 14 x 14). Batch, weight decay and warm-up are not
        said there: those of itpn_base, by the same authors.
    Command: as vitdet_base.
    Published: 51.2 box AP, 44.2 mask AP, by the comparison in iTPN's README (a picture); HiViT's own README
        says 53.3 box AP, of another run.
    Cost: 36 epochs.
    Reproduced by us: not yet.
    """
    return _on_coco(
        "hivit_base",
        heads=Heads(neck="native"),
        data=MULTI_SCALE,
        drop_path_rate=0.2,
        epochs=36,
        milestones=(27, 33),
        warmup_steps=500,
        batch_size=64,
        lr=1e-4,
        weight_decay=0.05,
        layer_decay=0.9,
    )


def swin_tiny_cascade() -> DetectRecipe:
    """Swin-T, Cascade Mask R-CNN, 36 epochs ("3x"), multi-scale.

    Source: README of the official code for the results; the settings are the paper's (recalled, unverified),
        stochastic depth and warm-up too.
    Command: as vitdet_base, with swin_tiny_patch4_window7_224.
    Published: 50.4 box AP, 43.7 mask AP from supervised weights.
    Cost: 36 epochs.
    Reproduced by us: not yet.
    """
    return _on_coco(
        "swin_tiny_cascade",
        heads=Heads(kind="cascade", neck="native"),
        data=MULTI_SCALE,
        drop_path_rate=0.2,
        epochs=36,
        milestones=(27, 33),
        warmup_steps=500,
        batch_size=16,
        lr=1e-4,
        weight_decay=0.05,
    )


RECIPES: dict[str, Callable[[], DetectRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        small,
        vitdet_base,
        vitdet_base_cascade,
        vitdet_large,
        cae_base,
        itpn_base,
        itpn_base_cascade,
        hivit_base,
        swin_tiny_cascade,
    )
}


def find_recipe(name: str) -> DetectRecipe:
    """
    Raises:
        UserError: an unknown name.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"no recipe of a detector is called {name!r}; {hint}There are {', '.join(RECIPES)}.")
    return RECIPES[name]()
