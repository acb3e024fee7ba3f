"""How training images vary: crops and flips, timm's RandAugment, random erasing, mixup and cutmix.

The parts of timm draw from the global generators of Python and NumPy. Here these are set for as long as such
a part is at work, from the generator that the engine hands out, and put back.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64, Shaped
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn import functional as F

from unmask.data import Augment, View, make_views
from unmask.data.arrays import FILTERS, Picture
from unmask.data.views import imagenet_statistics
from unmask.errors import UserError
from unmask.evaluate.finetune.recipe import FinetuneData, FinetuneOptions

SEEDS = 2**32  # NumPy's old generator takes no larger ones
VIEWS = {"images": View()}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of Python and NumPy start from `seed` here, and go on as before afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  timm draws from this one
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


class Variation:
    """What becomes of a training picture before it is a tensor of a batch.

    Args:
        data: of the recipe.
    """

    def __init__(self, data: FinetuneData) -> None:
        try:
            self._crop = Augment(
                image_size=data.image_size,
                crop_scale=data.crop_scale,
                crop_ratio=data.crop_ratio,
                flip=data.flip,
                interpolation=data.interpolation,
                channels=data.channels,
                bits=data.bits,
            )
        except ValueError as error:
            raise UserError(f"data: {error}") from error
        self._policy = _rand_augment(data)

    def __call__(self, picture: Picture, generator: np.random.Generator) -> Shaped[Tensor, "C H W"]:
        """One view of a picture, in its own depth; all randomness comes from the generator.

        Raises:
            DecodeError: the picture is broken.
        """
        view = make_views(picture, VIEWS, self._crop, generator)["images"]
        if self._policy is None:
            return view
        image = Image.fromarray(rearrange(view, "c h w -> h w c").numpy())
        with seeded(int(generator.integers(SEEDS))):
            varied = self._policy(image)
        return rearrange(torch.from_numpy(np.array(varied)), "h w c -> c h w").contiguous()


def _rand_augment(data: FinetuneData) -> Callable[[Image.Image], Image.Image] | None:
    """timm's RandAugment with what `timm.data.create_transform` tells it of the images."""
    if data.augment is None:
        return None
    mean, _ = imagenet_statistics(data.channels, data.mean, data.std)
    about = {
        "translate_const": int(min(data.image_size) * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in mean),
        "interpolation": FILTERS[data.interpolation],
    }
    try:
        return rand_augment_transform(data.augment, about)
    except (AssertionError, ValueError, KeyError) as error:
        raise UserError(
            f"data.augment={data.augment} is no RandAugment of timm: it is written like rand-m9-mstd0.5-inc1 "
            "(magnitude 9, its deviation 0.5, increasing), or none"
        ) from error


class Mixing:
    """What becomes of a normalised batch: erased rectangles, mixed pairs, and labels to go with these.

    Args:
        classes: to be told apart.
    """

    def __init__(self, options: FinetuneOptions, data: FinetuneData, classes: int) -> None:
        self._smoothing, self._erase = options.label_smoothing, data.erase
        self._mix = None
        if options.mixes:
            self._mix = Mixup(
                mixup_alpha=options.mixup,
                cutmix_alpha=options.cutmix,
                prob=options.mix_probability,
                label_smoothing=options.label_smoothing,
                num_classes=classes,
            )

    def __call__(
        self,
        images: Float[Tensor, "B C H W"],
        labels: Int64[Tensor, " B"],
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "B C H W"], Tensor]:
        """The batch, changed in place, and its labels: mixed ones are shares of the classes [B, K].

        The noise of erased rectangles comes from the default generator of the device.
        """
        with seeded(int(torch.randint(SEEDS, (), generator=generator))):
            if self._erase:
                images = RandomErasing(self._erase, mode="pixel", device=images.device)(images)
            return (images, labels) if self._mix is None else self._mix(images, labels)

    def loss(self, logits: Float[Tensor, "B K"], labels: Tensor) -> Float[Tensor, ""]:
        """Cross-entropy; mixed labels are smoothed already."""
        smoothing = self._smoothing if self._mix is None else 0.0
        return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
