"""Training a method: masks, reconstructions, an encoder at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from unmask.data import normalise
from unmask.engine.kinds.base import Kind, Read
from unmask.export import save_encoder
from unmask.load import WEIGHTS
from unmask.methods.base import Method
from unmask.recipes.base import Recipe
from unmask.recipes.build import build_method, fingerprints
from unmask.spread import effective_rank, spread
from unmask.trivial import trivial_losses
from unmask.visualize import first_of, picture_views, prediction_strip, shown_statistics

if TYPE_CHECKING:
    from unmask.engine.setup import Job


class Methods(Kind[Method]):
    """All of them."""

    weights = WEIGHTS
    best = "encoder_best.safetensors"

    def build(
        self, recipe: Recipe, folder: Path, *, checkpointing: bool, parts: Mapping[str, object] | None = None
    ) -> Method:
        method = build_method(recipe, folder=folder, parts=parts)
        method.encoder.checkpointing = checkpointing
        return method

    def width(self, learner: Method) -> int:
        return learner.encoder.dim

    def inputs(self, recipe: Recipe, folder: Path) -> dict[str, str]:
        return fingerprints(recipe, folder)

    def losses(self, learner: Method, views: Mapping[str, Float[Tensor, "B C H W"]]) -> dict[str, Any]:
        first = next(iter(views.values()))
        mask = learner.draw(first)
        # Not by calling it: that would compile it once more, for a mask that is given.
        loss = float(learner.forward(**views, mask=mask)["loss"])
        trivial = trivial_losses(learner, first, mask)
        return {"probe_loss": loss, "trivial": trivial, "chance": learner.chance_loss}

    def look(
        self, job: "Job", learner: Method, pixels: Shaped[Tensor, "n C H W"], *, batch: int
    ) -> tuple[Float[Tensor, "n D"], dict[str, Any]]:
        encoder, device = learner.encoder, job.accelerator.device
        parts = [
            encoder(normalise(part.to(device), job.mean, job.std)).pooled("mean").float()
            for part in pixels.split(batch)
            if len(part)
        ]
        return torch.cat(parts) if parts else torch.empty(0, encoder.dim), {}

    def about(self, features: Float[Tensor, "n D"]) -> dict[str, Any]:
        return {"effective_rank": effective_rank(features), "spread": spread(features)}

    def picture(self, job: "Job", learner: Method, read: Read) -> Image.Image | None:
        views = picture_views(learner, read, job.mean, job.std)
        mask = learner.draw(first_of(views))
        mean, std = shown_statistics(job.recipe.data, job.mean, job.std)
        return prediction_strip(learner, views, mask, mean=mean, std=std)

    def hand_over(self, job: "Job", learner: Method, file: str, *, made_by: dict[str, Any]) -> None:
        recipe = job.recipe
        about = {"unmask": made_by["unmask"], "method": recipe.learner.name, **made_by}
        save_encoder(
            learner.encoder,
            job.folder,
            mean=job.mean,
            std=job.std,
            bits=recipe.data.depth,
            made_by=about,
            file=file,
            pyramid=learner.feature_pyramid,
        )
