"""What fine-tuning is told: everything that can change its result, as plain frozen data."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unmask.data.arrays import Bits, Interpolation
from unmask.recipes.base import Choice, Fraction, PositiveInt, Section, Strength
from unmask.recipes.tasks import TaskRecipe

Share = Annotated[float, Field(ge=0, le=1)]
Pool = Literal["auto", "mean", "mean_norm", "cls"]
LARGE_IMAGE = 384  # pixels; from here on nothing is cut off when images are judged (MAE, BEiT)


class Start(Section):
    """What fine-tuning starts from; known before the recipe is chosen, and no setting."""

    name: str  # as given: a run, a file, a timm name
    method: str | None = None  # that trained it; None where that is not known
    random: bool = False  # the same architecture with the weights that its training began with


class FinetuneOptions(Section):
    """The classifier and what it learns from."""

    pool: Pool = "auto"
    # mean of the patches after the final norm; mean_norm: mean, then a fresh norm (MAE, BEiT); cls: the class
    # token after the norm; auto: mean where timm's model can, else what it has
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    mixup: Strength = 0.8  # alpha of the Beta distribution that mixes two images; 0 is none
    cutmix: Strength = 1.0  # alpha for patches pasted from another image; 0 is none
    mix_probability: Share = 1.0  # of a batch to be mixed
    head_std: Annotated[float, Field(gt=0)] = 2e-5
    # of the classifier's first weights (MAE; BEiT's scaling by 0.001 is the same)

    @property
    def mixes(self) -> bool:
        return bool(self.mix_probability and (self.mixup or self.cutmix))


class FinetuneData(Section):
    """How an image becomes an input."""

    image_size: tuple[PositiveInt, PositiveInt] = (224, 224)  # height, width
    channels: PositiveInt = 3
    bits: Bits = 8  # of a channel, 32: floating point
    mean: tuple[float, ...] | None = (
        None  # a channel, of pixels in [0, 1] unless bits is 32; None: ImageNet's
    )
    std: tuple[float, ...] | None = None
    fraction: Fraction = 1.0  # of the training images, the same share of every class
    crop_scale: tuple[Fraction, Fraction] = (0.08, 1.0)  # share of the picture's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip: bool = True
    augment: str | None = "rand-m9-mstd0.5-inc1"  # timm's RandAugment; needs RGB of 8 bits
    erase: Share = 0.25  # probability that a rectangle of the image becomes noise
    interpolation: Interpolation = "bicubic"
    crop_fraction: Fraction | None = None  # of the shorter side that is judged; None: 0.875, from 384 px on 1

    @property
    def judged_fraction(self) -> float:
        if self.crop_fraction is not None:
            return self.crop_fraction
        return 1.0 if min(self.image_size) >= LARGE_IMAGE else 0.875

    @property
    def has_colours(self) -> bool:
        """Whether changes of colour are defined."""
        return self.channels == 3 and self.bits == 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.augment is not None and not self.has_colours:
            raise ValueError(
                f"augment={self.augment} needs RGB pictures of 8 bits, and these have {self.channels} "
                f"channels of {self.bits}; data.augment=none is none"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values for images of {self.channels} channels")
        return self


class FinetuneRecipe(TaskRecipe):
    """One fine-tuning run.

    Attributes:
        encoder: timm's name and what is asked of the model beyond its architecture: drop_path_rate, ...
        classes: what is told apart, in the order of the logits.
    """

    kind: Literal["finetune"] = "finetune"
    start: Start = Start(name="")
    task: FinetuneOptions = FinetuneOptions()
    encoder: Choice = Choice(name="")
    data: FinetuneData = FinetuneData()
    classes: tuple[str, ...] = ()
