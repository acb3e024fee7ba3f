"""CMAE: a masked autoencoder that also tells images apart, by a contrast with a moving average of itself.

Contrastive Masked Autoencoders are Stronger Vision Learners. Zhicheng Huang, Xiaojie Jin, Chengze Lu, Qibin
Hou, Ming-Ming Cheng, Dongmei Fu, Xiaohui Shen, Jiashi Feng. TPAMI 2023, arXiv 2207.13532.

An MAE predicts the hidden pixels. A second, shallow decoder completes the features of the hidden patches, so
that their mean speaks of the whole image; a projection of it must be closest, among the images of the batch,
to that of the same image in a slowly moving average of the encoder, which sees all patches of a view that is
shifted by some pixels and changed in colour.

Loss, over the batch of B images, with q the predicted and k the target's projection, both of length 1::

    L = w_r L_MAE + w_c 2 t / B  sum_i  -log( exp(q_i k_i / t) / sum_j exp(q_i k_j / t) )

Differences from the official code:

* the batch of all processes is gathered before the projections, so that their BatchNorms and the contrast see
  all of it; there BatchNorms exchange their statistics, and the keys are gathered: the same numbers;
* the views are cut from a canvas of 224 + 31 pixels, not of 256, whose last row and column no view shows;
* visible patches enter the encoder in raster order, not shuffled; `rounding` as in MAE;
* colours are changed of RGB images only, others are blurred; a `queue` of earlier keys can make up for a
  small batch, as in MoCo.
"""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unmask.data.colour import ColourChange
from unmask.data.views import View
from unmask.decoders import ViTDecoder
from unmask.encoders.base import Encoder, Features, require_dropping
from unmask.encoders.initialise import xavier_linear
from unmask.masking import Mask, RandomMask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.processes import gathered
from unmask.targets.average import MovingAverage
from unmask.targets.patches import PatchPixels

BLUR = ColourChange(blur=0.5, sigma=(0.1, 2.0))
COLOUR = replace(BLUR, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, grey=0.2)
SHIFT, SHIFTED = 31, 224  # pixels, of a side of so many


class CMAE(Method):
    """Huang et al. 2023.

    Args:
        encoder: a ViT or HiViT: one that can leave patches out.
        mask_ratio: share of squares to remove.
        mask_size: pixels along the side of a square, a multiple of the patch size.
        norm_target: predict each patch normalised by its own mean and variance.
        decoder_dim: width of both decoders.
        decoder_depth: blocks of the decoder of pixels.
        decoder_heads: attention heads of both decoders.
        feature_depth: blocks of the decoder of features.
        projection_dim: width of what is contrasted.
        projection_hidden: width of the hidden layer before it.
        temperature: t.
        reconstruction_weight: w_r.
        contrast_weight: w_c.
        momentum: of the target, a moving average.
        shift: pixels by which the target's view is moved down and right, at most; None is the official 31 of
            224, in proportion to the image.
        colour: change colours of the target's view; None is yes for images of three channels.
        queue: keys of earlier batches that images are also told from (MoCo); 0 is none.
        rounding: how many squares a ratio is; "mae_official" is the official code's floating-point floor.
    """

    card = Card(
        title="CMAE",
        target="pixels, and the image's projection by an EMA of the encoder, of a shifted view",
        normalisation="mean and deviation of each patch; length 1",
        student="visible patches only (ViT, HiViT)",
        head="Transformer, 8 blocks of width 512; of features 2 blocks and two MLPs",
        loss="L2, hidden patches, + InfoNCE, images of the batch",
        masking="random squares of 32 pixels, 65 %",
    )

    queue: Float[Tensor, "Q P"]

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float = 0.65,  # official code; the paper has 0.75 (recalled, unverified)
        mask_size: int = 32,  # official code
        norm_target: bool = True,  # official code
        decoder_dim: int = 512,  # official code
        decoder_depth: int = 8,  # official code
        decoder_heads: int = 16,  # official code
        feature_depth: int = 2,  # official code
        projection_dim: int = 256,  # official code
        projection_hidden: int = 1536,  # official code
        temperature: float = 0.07,  # official code
        reconstruction_weight: float = 1.0,  # official code
        contrast_weight: float = 1.0,  # official code
        momentum: float = 0.996,  # official code
        shift: int | None = None,  # official code
        colour: bool | None = None,  # official code
        queue: int = 0,
        rounding: Literal["nearest", "mae_official"] = "nearest",
    ) -> None:
        super().__init__()
        if min(reconstruction_weight, contrast_weight, queue) < 0 or not temperature > 0:
            raise ValueError(
                "weights and queue must not be negative and the temperature must be positive, not "
                f"{reconstruction_weight}, {contrast_weight}, {queue} and {temperature}"
            )
        self.encoder = require_dropping(encoder, by="CMAE")
        self.masking = RandomMask(ratio=mask_ratio, unit=_unit(encoder, mask_size), rounding=rounding)
        self.masking.check(encoder.grid)
        self.temperature, self.weights = temperature, (reconstruction_weight, contrast_weight)
        self.pixels = PatchPixels.of(encoder, normalised=norm_target)
        self.decoder, self.feature_decoder = (
            ViTDecoder.of(encoder, dim=decoder_dim, depth=depth, heads=decoder_heads, first="row")
            for depth in (decoder_depth, feature_depth)
        )
        self.head = nn.Linear(decoder_dim, self.pixels.outputs)
        self.feature_head = nn.Linear(decoder_dim, encoder.dim)
        for head in (self.head, self.feature_head):
            head.apply(xavier_linear)
        self.projector = Projection(encoder.dim, projection_hidden, projection_dim)
        self.predictor = Projection(projection_dim, projection_hidden, projection_dim)
        self.target = MovingAverage(encoder, momentum=momentum)
        self.target_projector = MovingAverage(self.projector, momentum=momentum, batch_statistics=True)
        self.register_buffer("queue", F.normalize(torch.randn(queue, projection_dim), dim=1))
        self.views = {"images": View(), "target_images": _target_view(encoder, shift, colour)}

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        target_images: Float[Tensor, "B C H W"],
        *,
        mask: Mask | None = None,
    ) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        seen = self.encoder.visible(images, mask)
        # predict
        prediction = self.head(self.decoder(seen, mask, hidden_only=True))
        query = self.query(seen, mask)
        # target
        target, key = mask.masked(self.pixels.encode(images)), self.key(target_images)
        # compare
        reconstruction = (prediction.float() - target).square().mean()
        contrast = 2 * self.temperature * self.confusion(query, key)
        loss = self.weights[0] * reconstruction + self.weights[1] * contrast
        return {"loss": loss, "reconstruction": reconstruction, "contrast": contrast}

    def query(self, seen: Features, mask: Mask) -> Float[Tensor, "G P"]:
        """What is predicted of the target's projection, of the images of all processes."""
        # The mean before the last layer, which is linear, and not after it: the same for less.
        completed = self.feature_head(self.feature_decoder(seen, mask).mean(1))
        return self.predictor(self.projector(self.shared(completed.float())))

    @torch.no_grad()
    def key(self, target_images: Float[Tensor, "B C H W"]) -> Float[Tensor, "G P"]:
        """The target's projection of the images of all processes; the target's encoder has no final norm."""
        (tokens,) = self.target(target_images, take=(-1,)).taps
        return self.target_projector(self.shared(tokens[:, self.encoder.prefix :].float().mean(1)))

    def shared(self, rows: Float[Tensor, "B D"]) -> Float[Tensor, "G D"]:
        """In training, as in a BatchNorm: the rows of the whole batch, of which every process has a part."""
        return gathered(rows) if self.training else rows

    def confusion(self, query: Float[Tensor, "G P"], key: Float[Tensor, "G P"]) -> Float[Tensor, ""]:
        """The cross-entropy of finding each image among all; its keys join the queue."""
        # In full precision: a small temperature enlarges rounding errors.
        with torch.autocast(query.device.type, enabled=False):
            key = F.normalize(key.float(), dim=1)
            others = torch.cat([key, self.queue])
            similarity = F.normalize(query.float(), dim=1) @ others.T / self.temperature
            loss = F.cross_entropy(similarity, torch.arange(len(key), device=key.device))
        if len(self.queue) and self.training:
            # Not those of a step that diverged: they would stay for many steps.
            self.queue.copy_(torch.where(key.isfinite().all(), others[: len(self.queue)], self.queue))
        return loss

    def after_step(self, step: int, total: int) -> None:
        self.target.follow(self.encoder)
        self.target_projector.follow(self.projector)

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"]:
        prediction = self.head(self.decoder(self.encoder.visible(images, mask), mask)).float()
        return self.pixels.picture(prediction, images, mask)


class Projection(nn.Module):
    """Linear, BatchNorm, ReLU, linear without bias."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.norm = nn.BatchNorm1d(hidden, eps=1e-6)
        self.last = nn.Linear(hidden, outputs, bias=False)

    def forward(self, rows: Float[Tensor, "B D"]) -> Float[Tensor, "B P"]:
        return self.last(F.relu(self.norm(self.hidden(rows))))


def _unit(encoder: Encoder, mask_size: int) -> int:
    """Patches along the side of a square."""
    if mask_size < 1 or mask_size % encoder.patch_size:
        raise ValueError(
            f"mask_size={mask_size} pixels is no multiple of the encoder's patches of {encoder.patch_size}; "
            f"take for instance method.mask_size={2 * encoder.patch_size}"
        )
    return mask_size // encoder.patch_size


def _target_view(encoder: Encoder, shift: int | None, colour: bool | None) -> View:
    """Shifted, blurred, and changed in colour."""
    if shift is None:
        shift = round(min(encoder.image_size) * SHIFT / SHIFTED)
    coloured = encoder.channels == 3 if colour is None else colour
    return View(shift=shift, colour=COLOUR if coloured else BLUR)
