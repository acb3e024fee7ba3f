"""SimMIM: replace random squares by a token, regress their pixels with one linear layer.

SimMIM: A Simple Framework for Masked Image Modeling. Zhenda Xie, Zheng Zhang, Yue Cao, Yutong Lin, Jianmin
Bao, Zhuliang Yao, Qi Dai, Han Hu. CVPR 2022, arXiv 2111.09886.

Squares of 32 x 32 pixels are hidden: the embeddings of their patches become one learned vector, and an
unmodified encoder (ViT, Swin, SwinV2) sees all of them. One linear layer predicts the pixels that each output
feature stands for. Because no token is left out it works with windowed and hierarchical encoders.

Loss, over the set M of hidden pixels of the batch, with C channels::

    L = 1 / (C |M|)  sum_{i in M}  | prediction_i - x_i |_1

Every choice that the paper compares is an option: masks (table 1), heads (table 2), resolutions of the
target (table 3), classes of colours or a tokenizer's codes instead of pixels, losses, and all pixels instead
of the hidden ones.

Differences from the official code:

* the mean divides by |M|, the official one by |M| + 1e-5; rectangular images, any number of channels;
* `local_window` normalises targets as in the follow-up ("On Data Scaling in Masked Image Modeling", arXiv
  2206.04664; 47 there), with the variance in float64: in float32 the official formula turns a constant image
  into noise;
* codes of a tokenizer: one or several for every feature (of a Swin 2 x 2 of 16 pixels each), which the paper
  does not describe; of codes that are hidden in part the error counts by that part;
* only random masks, the linear head, full resolution and L1 on hidden pixels were released; all else follows
  the paper's text, which leaves some of it open: see the docstrings of the parts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unmask.data.views import imagenet_statistics
from unmask.encoders.base import Encoder, ImageSize, height_and_width, require_busy
from unmask.encoders.initialise import mask_token
from unmask.heads import LOCAL_HEADS, HeadName, create_head
from unmask.masking import Mask, MaskName, create_masking
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.patches import normalise_locally, visible_statistics
from unmask.targets import Cells, Target, create_target
from unmask.targets.answers import Coded, Question
from unmask.targets.pixels import LossName
from unmask.tokenizers.base import Tokenizer
from unmask.tokenizers.codes import Codes

MOST_CLASSES = 2**15  # scored for one feature: with 1024 channels, a matrix of 34 million
NEEDS = {  # options that mean something only beside a choice
    "mask_ratio": "mask=random or mask=block (of a square, mask_size decides the share)",
    "min_block": "mask=block",
    "local_window": "target=pixels",
    "bins": "target=bins",
    "colours": "target=clusters",
    "tokenizer": "target=codes",
    "target_size": "target=pixels, bins or clusters (the tokenizer decides where its codes lie)",
    "loss": "target=pixels (classes have the cross-entropy)",
}


class SimMIM(Method):
    """Xie et al. 2022.

    Args:
        encoder: any encoder.
        mask: squares at random places of a grid; one square at any place; or rectangles until enough is
            hidden (BEiT's), table 1.
        mask_ratio: share to hide, of "random" rounded up, table 1.
        mask_size: pixels, a multiple of the encoder's patch size: side of a random square, of the one square,
            or of the units that rectangles consist of, table 1.
        min_block: units in the smallest rectangle of "block"; None is BEiT's share of the grid, 16 of 196.
        head: one matrix, two with a GELU between, or a decoder built as a reversed Swin, table 2.
        target: what a hidden pixel is predicted as: numbers; a class for each channel; a class for all of
            them, the nearest of `colours`; or, instead of colours, a tokenizer's codes.
        target_size: height and width in pixels that images are averaged down to, table 3; None is their own.
        local_window: normalise target pixels by the window of so many pixels around each; None does not.
        bins: classes of a channel, of equal width (the paper tries 8 and 256).
        colours: table of colours, a file that `unmask colours` wrote (or .npy, .safetensors: `read_colours`).
        tokenizer: tells the codes.
        loss: of the difference of pixels; classes have the cross-entropy.
        scope: score hidden pixels (prediction), or all (reconstruction, which the paper finds worse).
        mean: of pixels in [0, 1], a channel, that images are normalised with; None is ImageNet's.
        std: likewise.
    """

    card = Card(
        title="SimMIM",
        target="pixels",
        normalisation="none",
        student="a token for each hidden patch (any encoder)",
        head="one matrix",
        loss="L1, hidden pixels",
        masking="random squares of 32 pixels, 60 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask: MaskName = "random",  # table 1
        mask_ratio: float = 0.6,  # table 1
        mask_size: int = 32,  # table 1
        min_block: int | None = None,
        head: HeadName = "linear",  # table 2
        target: Literal["pixels", "bins", "clusters", "codes"] = "pixels",
        target_size: ImageSize | None = None,  # table 3
        local_window: int | None = None,
        bins: int = 8,
        colours: Path | None = None,
        tokenizer: Tokenizer | None = None,
        loss: LossName = "l1",
        scope: Literal["hidden", "all"] = "hidden",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        _refuse_idle(
            mask_ratio=mask == "square" and mask_ratio != 0.6,
            min_block=mask != "block" and min_block is not None,
            local_window=target != "pixels" and local_window is not None,
            bins=target != "bins" and bins != 8,
            colours=target != "clusters" and colours is not None,
            tokenizer=target != "codes" and tokenizer is not None,
            target_size=target == "codes" and target_size is not None,
            loss=target != "pixels" and loss != "l1",
        )
        if local_window is not None and (local_window < 3 or local_window % 2 == 0):
            raise ValueError(f"local_window must be an odd number of at least 3 pixels, not {local_window}")
        self.encoder = require_busy(encoder, by="SimMIM")
        self.masking = create_masking(
            mask,
            encoder.grid,
            encoder.patch_size,
            ratio=mask_ratio,
            size=mask_size,
            min_block=min_block,
        )
        self.local_window = local_window
        self.scope = scope
        statistics = imagenet_statistics(encoder.channels, mean, std)
        self.colours: Target | Codes
        if target == "codes":
            self.colours = codes = _codes(tokenizer, encoder, *statistics)
            self.cells, self.views = Cells(codes.cell, encoder.patch_size), codes.views
        else:
            size = None if target_size is None else height_and_width(target_size)
            self.cells = Cells.fitting(encoder, size)
            self.colours = create_target(
                target, loss=loss, bins=bins, colours=colours, mean=statistics[0], std=statistics[1]
            )
        _require_few(self.colours, encoder, self.cells)
        self.token = mask_token(encoder)
        self.local_head = head in LOCAL_HEADS
        self.head = create_head(head, encoder, outputs=self.colours.outputs, cell=self.cells.size)

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        token_images: Float[Tensor, "B C h w"] | Coded | None = None,
        *,
        mask: Mask | None = None,
    ) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        seen = self.encode(images, mask)
        # predict
        prediction = self.head(seen)
        # target
        target = self.target(images, mask) if token_images is None else self.codes_of(token_images)
        # compare
        return {"loss": self.average(self.colours.error(prediction.float(), target), mask)}

    def encode(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B N D"]:
        """Features of all patches; or of the hidden ones, where no others are scored or looked at."""
        if self.local_head and self.scope == "hidden":
            return self.encoder.hidden(images, mask, self.token)
        return self.encoder(images, mask, self.token).patches

    def target(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Shaped[Tensor, "B c h w"]:
        """What every cell should be predicted as; of one that is partly hidden, its hidden pixels."""
        pixels = images if self.local_window is None else normalise_locally(images, self.local_window)
        return self.colours.encode(self.cells.colours(pixels, mask if self.scope == "hidden" else None))

    def codes_of(self, token_images: Float[Tensor, "B C h w"] | Coded) -> Int[Tensor, "B N"]:
        """The same where the tokenizer tells, for it looks at images of its own."""
        assert isinstance(self.colours, Codes)
        return self.colours.encode(token_images)

    @property
    def questions(self) -> Mapping[str, Question]:
        return self.colours.questions if isinstance(self.colours, Codes) else {}

    def average(self, error: Float[Tensor, "B c h w"], mask: Mask) -> Float[Tensor, ""]:
        """Mean error over all pixels that are scored."""
        per_patch = self.cells.per_patch(error)
        return mask.mean(per_patch) if self.scope == "hidden" else per_patch.mean()

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"] | None:
        prediction = self.head(self.encoder(images, mask, self.token).patches).float()
        if isinstance(self.colours, Codes):
            return self.colours.picture(prediction.argmax(1).flatten(1), images, mask)
        picture = self.cells.enlarge(self.colours.decode(prediction))
        if self.local_window is None:
            return picture
        hidden = mask.pixels(self.encoder.patch_size)
        mean, deviation = visible_statistics(images, hidden, self.local_window)
        return picture * deviation + mean

    def loss_of(
        self, picture: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"], mask: Mask
    ) -> Float[Tensor, ""] | None:
        if self.chance_loss is not None:
            return None
        return self.average(self.colours.error(self.target(picture, mask), self.target(images, mask)), mask)

    @property
    def chance_loss(self) -> float | None:
        return self.colours.chance_loss


def _refuse_idle(**idle: bool) -> None:
    """Options that were given and would do nothing are mistakes."""
    for option, given in idle.items():
        if given:
            raise ValueError(f"method.{option} needs method.{NEEDS[option]}; choose that, or leave it out")


def _codes(
    tokenizer: Tokenizer | None, encoder: Encoder, mean: tuple[float, ...], std: tuple[float, ...]
) -> Codes:
    if tokenizer is None:
        raise ValueError(
            "method.target=codes needs a tokenizer: train one on your images by `unmask tokenizer dvae "
            "--data DIR --out runs/tokenizer`, then give method.tokenizer=runs/tokenizer"
        )
    return Codes(tokenizer, encoder, mean=mean, std=std)


def _require_few(colours: Target | Codes, encoder: Encoder, cells: Cells) -> None:
    """Refuse so many classes that no machine should be asked to hold them."""
    places = (encoder.stride // cells.size) ** 2
    if colours.chance_loss is not None and colours.outputs * places > MOST_CLASSES:
        raise ValueError(
            f"{colours.outputs:,} classes for each of {places:,} places are {colours.outputs * places:,} of "
            f"one feature, more than {MOST_CLASSES:,}; use a coarser method.target_size, or fewer classes"
        )
