"""Training a tokenizer: nothing is hidden, what counts is how the codes are used."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import reduce
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unmask.codes.pictures import round_trip_strip
from unmask.codes.statistics import CodeCount
from unmask.data import Subset
from unmask.data.views import as_fractions
from unmask.engine.files import put
from unmask.engine.kinds.base import Kind, Read
from unmask.errors import UserError
from unmask.export.tokenizer import save_tokenizer
from unmask.recipes.base import TokenizerRecipe
from unmask.recipes.build import build_tokenizer
from unmask.recipes.trained import WEIGHTS
from unmask.runs import read_log
from unmask.tokenizers import Tokenizer

if TYPE_CHECKING:
    from unmask.engine.setup import Job

SHOWN = 2000  # images, of which the codes are drawn


class Tokenizers(Kind[Tokenizer]):
    """All of them."""

    weights = WEIGHTS
    best = None  # accuracies of probes are not what a tokenizer is for

    def build(
        self,
        recipe: TokenizerRecipe,
        folder: Path,
        *,
        checkpointing: bool,
        parts: Mapping[str, object] | None = None,
    ) -> Tokenizer:
        return build_tokenizer(recipe)

    def width(self, learner: Tokenizer) -> int:
        return 0

    def inputs(self, recipe: TokenizerRecipe, folder: Path) -> dict[str, str]:
        return {}

    def losses(self, learner: Tokenizer, views: Mapping[str, Float[Tensor, "B C H W"]]) -> dict[str, Any]:
        first = next(iter(views.values()))
        loss = float(learner.forward(**views)["loss"])
        return {"probe_loss": loss, "trivial": {}, "chance": None} | reconstruction_errors(learner, first)

    def look(
        self, job: "Job", learner: Tokenizer, pixels: Shaped[Tensor, "n C H W"], *, batch: int
    ) -> tuple[Float[Tensor, "n D"], dict[str, Any]]:
        use = CodeCount(learner.vocabulary)
        parts = []
        for part in pixels.split(batch):
            if len(part):
                codes = learner.codes(as_fractions(part.to(job.accelerator.device)))
                use.add(codes)
                parts.append(learner.embed(codes).float().mean(1))
        if not parts:
            return torch.empty(0, 1), {}
        return torch.cat(parts), {"codes": use.facts()}

    def picture(self, job: "Job", learner: Tokenizer, read: Read) -> Image.Image | None:
        training = learner.training
        learner.eval()
        try:
            with torch.no_grad():
                return round_trip_strip(learner, as_fractions(read(learner.image_size)))
        finally:
            learner.train(training)

    def conclude(self, job: "Job", learner: Tokenizer, step: int) -> None:
        """What each code stands for: `images/codes_XXXXXXXX.png`, of some images, evenly spread."""
        # Imported late: it comes with torchmetrics, which takes two seconds.
        from unmask.codes.atlas import PATCHES, atlas, sample_places

        count = min(SHOWN, len(job.source))
        source = Subset(job.source, [index * len(job.source) // count for index in range(count)])
        bits, workers = job.recipe.data.depth, job.environment["workers"]
        with suppress(UserError):  # nothing can be read: that was said before
            sample = sample_places(learner.eval(), source, bits=bits, workers=workers)
            path = job.folder / "images" / f"codes_{step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            put(path, lambda unfinished: atlas(sample, patches=PATCHES).save(unfinished, "PNG"))

    def hand_over(self, job: "Job", learner: Tokenizer, file: str, *, made_by: dict[str, Any]) -> None:
        use = read_log(job.folder / "log.jsonl").last("probe").get("codes")
        save_tokenizer(
            learner,
            job.folder,
            choice=job.recipe.learner,
            bits=job.recipe.data.depth,
            use=use,
            made_by={**made_by, "steps": job.total},
            file=file,
        )


@torch.no_grad()
def reconstruction_errors(
    tokenizer: Tokenizer, images: Float[Tensor, "B C H W"]
) -> dict[str, dict[str, float]]:
    """Mean squared errors, of pixels in [0, 1]: of what the codes decode to, and of pictures that need no
    tokenizer; nothing for tokenizers whose codes stand for features."""
    decoded = tokenizer.decode(tokenizer.codes(images))
    if decoded is None:
        return {}
    flat = reduce(images, "b c h w -> b c 1 1", "mean").expand_as(images)
    cells = F.avg_pool2d(images, tokenizer.stride)
    mosaic = F.interpolate(cells, scale_factor=tokenizer.stride)
    pictures = {"tokenizer": decoded.float(), "mean colour": flat, "mean colour of every place": mosaic}
    errors = {name: float(F.mse_loss(picture, images)) for name, picture in pictures.items()}
    return {"reconstruction": errors}
