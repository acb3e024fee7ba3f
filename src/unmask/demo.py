"""`unmask demo`: the whole way on bundled pictures, on a laptop's CPU, without a network."""

from pathlib import Path

from rich.console import Console

from unmask.data import open_splits
from unmask.demo_data import demo_archive
from unmask.engine.pretrain import pretrain
from unmask.evaluate import evaluate
from unmask.evaluate.table import scores_table
from unmask.recipes.base import Checkpoint, Choice, Data, Optim, Recipe, Schedule

EPOCHS = 50  # about three minutes on two cores


def recipe(seed: int = 0) -> Recipe:
    """MAE with a small ViT on 64-pixel pictures, 8 pixels a patch, and a decoder of one block."""
    return Recipe(
        name="demo",
        method=Choice(
            name="mae", mask_ratio=0.75, norm_target=False, decoder_dim=96, decoder_depth=1, decoder_heads=3
        ),
        encoder=Choice(
            name="vit_tiny_patch16_224",
            position="sincos",
            init="mae",
            patch_size=8,
            depth=6,
        ),
        data=Data(image_size=(64, 64), crop_scale=(0.4, 1.0), interpolation="bicubic"),
        optim=Optim(batch_size=64, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Schedule(epochs=EPOCHS, warmup_epochs=EPOCHS / 20),
        checkpoint=Checkpoint(pictures=None),
        seed=seed,
    )


def demo(*, out: Path, overwrite: bool = False, device: str = "auto", seed: int = 0) -> int | None:
    """Pre-train on the bundled pictures, evaluate against random weights and raw pixels, write the report.

    Returns:
        None, or the exit code if Ctrl-C (130) or SIGTERM (143) stopped it.
    """
    train, _ = open_splits(demo_archive())
    run = pretrain(recipe(seed), data=train, out=out, overwrite=overwrite, device=device)
    if run.interrupted is not None:
        return run.interrupted
    results = [
        evaluate(kind, out, data=demo_archive(), baselines=True, device=device) for kind in ("knn", "linear")
    ]
    console = Console()
    console.print(scores_table("pre-trained", results))
    console.print(f"The report: {out / 'report.html'}", highlight=False, soft_wrap=True)
    return None
