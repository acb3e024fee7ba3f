"""The codes of a frozen tokenizer, as BEiT and its descendants predict them."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unmask.data.views import View, imagenet_statistics
from unmask.encoders.base import Encoder
from unmask.masking import Grid, Mask
from unmask.targets.answers import Coded, Question
from unmask.targets.frozen import Frozen, fingerprint
from unmask.tokenizers.base import Tokenizer


class Codes(nn.Module):
    """Every place of an image as one of K codes, by a tokenizer that is frozen.

    Args:
        tokenizer: taken over; not trained, and no part of checkpoints.
        encoder: whose features are to tell the codes: one code a feature, or several (a Swin).
        mean: of pixels in [0, 1], a channel, that images are normalised with; None is ImageNet's.
        std: likewise.

    Attributes:
        grid: rows and columns of codes.
        cell: pixels of the encoder's images along the side of what one code stands for.
        patch_size: pixels along the side of what can be hidden.
        outputs: K, logits for a code.
        chance_loss: log K, the cross-entropy of guessing evenly.
        views: of a method that predicts them: its images, and `token_images` for the tokenizer.

    Raises:
        ValueError: codes, features and patches do not lie over each other, or other channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder: Encoder,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.cell = _cell(tokenizer, encoder)
        self.tokenizer = Frozen(tokenizer)
        self.grid: Grid = tokenizer.grid
        self.patch_size = encoder.patch_size
        self.outputs = tokenizer.vocabulary
        self.chance_loss = math.log(tokenizer.vocabulary)
        self.views: Mapping[str, View] = {"images": View(), "token_images": tokenizer.view(encoder)}
        for name, values in zip(
            ("mean", "std"), imagenet_statistics(encoder.channels, mean, std), strict=True
        ):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    @classmethod
    def per_patch(
        cls,
        tokenizer: Tokenizer,
        encoder: Encoder,
        *,
        by: str,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Codes":
        """One code for every patch.

        Args:
            by: the method that needs it.

        Raises:
            ValueError: there is another number of codes, or of features.
        """
        if encoder.stride != encoder.patch_size:
            raise ValueError(
                f"{by} predicts the code of every patch from its own feature, but a "
                f"{type(encoder.model).__name__} has features of {encoder.stride} pixels for patches of "
                f"{encoder.patch_size}; use a ViT, or SimMIM with method.target=codes"
            )
        return cls(tokenizer, encoder, mean=mean, std=std)

    @torch.no_grad()
    def encode(self, token_images: Float[Tensor, "B C h w"] | Coded) -> Int[Tensor, "B N"]:
        """The code of every place, in raster order of `grid`.

        Args:
            token_images: the view of that name, pixels in [0, 1]; or their codes, if they are known.
        """
        return token_images.codes if isinstance(token_images, Coded) else self._ask(token_images).codes

    @property
    def questions(self) -> Mapping[str, Question]:
        """Of a method that predicts them."""
        tokenizer = self.tokenizer.network
        network = {"weights": fingerprint(tokenizer), "image_size": tokenizer.image_size}
        # As printed it says what no weights tell: strides, activations.
        return {"token_images": Question(network=network | {"parts": repr(tokenizer)}, ask=self._ask)}

    def _ask(self, token_images: Float[Tensor, "B C h w"]) -> Coded:
        return Coded(codes=self.tokenizer.network.codes(token_images))

    def error(
        self, prediction: Float[Tensor, "B K h w"], codes: Int[Tensor, "B N"]
    ) -> Float[Tensor, "B 1 h w"]:
        """The cross-entropy of every place, from a map of logits."""
        target = rearrange(codes, "b (h w) -> b h w", h=self.grid[0])
        return F.cross_entropy(prediction, target, reduction="none")[:, None]

    def hidden(self, mask: Mask) -> Bool[Tensor, "B N"]:
        """The places of which at least a part is hidden."""
        side = self.cell // self.patch_size
        layout = "b (h p w q) -> b (h w) (p q)"
        return rearrange(mask.hidden, layout, h=self.grid[0], w=self.grid[1], p=side, q=side).any(-1)

    @torch.no_grad()
    def picture(
        self, predicted: Int[Tensor, "B N"], images: Float[Tensor, "B C H W"], mask: Mask
    ) -> Float[Tensor, "B C H W"] | None:
        """Codes as normalised images: the predicted ones where something is hidden, elsewhere those of
        `images`; None if codes do not stand for pixels.

        Tokenizers look beyond a patch, so that codes of visible places may tell of hidden pixels. They are
        therefore taken of an image without them: first with the mean colour of the visible pixels in their
        place, then with the picture that comes out.
        """
        tokenizer, gaps, hidden = self.tokenizer.network, mask.pixels(self.patch_size), self.hidden(mask)
        pixels = images * self.std + self.mean
        shown = (~gaps).float()
        filling = (pixels * shown).sum((2, 3), keepdim=True) / shown.sum((2, 3), keepdim=True)
        for _ in range(2):
            filled = _resized(torch.where(gaps, filling, pixels), tokenizer.image_size)
            decoded = tokenizer.decode(torch.where(hidden, predicted, tokenizer.codes(filled)))
            if decoded is None:
                return None
            filling = _resized(decoded, images.shape[-2:])
        return (filling - self.mean) / self.std


def score_codes(logits: Float[Tensor, "*P K"], codes: Int[Tensor, "*P"]) -> dict[str, Tensor]:
    """The mean cross-entropy over all places ("loss"), and the share of codes that are the most probable ones
    ("accuracy")."""
    loss = F.cross_entropy(logits.float().flatten(0, -2), codes.flatten())
    return {"loss": loss, "accuracy": (logits.argmax(-1) == codes).float().mean()}


def _cell(tokenizer: Tokenizer, encoder: Encoder) -> int:
    """Pixels of the encoder's images along the side of what a code stands for."""
    if tokenizer.channels != encoder.channels:
        raise ValueError(
            f"the tokenizer takes images of {tokenizer.channels} channels, but the encoder of "
            f"{encoder.channels}; train a tokenizer on these images"
        )
    (rows, columns), (height, width) = tokenizer.grid, encoder.image_size
    cell = height // rows
    fits = (rows * cell, columns * cell) == (height, width)
    if fits and encoder.stride % cell == 0 and cell % encoder.patch_size == 0:
        return cell
    own, stride = encoder.feature_grid, tokenizer.stride
    raise ValueError(
        f"the tokenizer has {rows} x {columns} codes for an image, but the encoder's features are "
        f"{own[0]} x {own[1]}, of patches of {encoder.patch_size} pixels: there must be one code for each, "
        f"or several that patches fit into. Train a tokenizer for images of {own[0] * stride} x "
        f"{own[1] * stride} pixels (each of its codes stands for {stride} x {stride} of them), or choose "
        "another data.image_size or encoder"
    )


def _resized(images: Float[Tensor, "B C _ _"], size: Sequence[int]) -> Float[Tensor, "B C _ _"]:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True)
