"""PeCo's tokenizer: codes of a VQ-VAE that group what looks alike to people.

PeCo: Perceptual Codebook for BERT Pre-training of Vision Transformers. Dong, Bao, Zhang, Chen, Zhang, Yuan,
Chen, Wen, Yu, Guo. AAAI 2023, arXiv 2111.12710.

A convolutional network turns an image into a map of vectors, the nearest of K code vectors takes the place of
each, and another network draws the image from them. The picture must be like the image not only pixel by
pixel but also in what a frozen network computes of both, at several depths: codes then group what looks alike
to people rather than what has the same colours. The codebook follows its vectors as a moving average.

    loss = pixel_weight * mean (image - picture)^2 + commitment * mean (vector - its code)^2
           + perceptual_weight * sum over depths of mean (features of image - features of picture)^2
           [+ an adversary's verdict, scaled to the other terms, late in the run]

over pixels in [-1, 1] and normalised features (`Perceptual`). No official code was published, and of the
paper only the abstract and what others report of it could be read: the architecture is VQGAN's, which the
paper follows, and what no source tells is our choice; the comments beside the defaults say so. The paper's
network is self-supervised (MoCo v3, says BEiT v2).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from unmask.targets.perceptual import Perceptual
from unmask.targets.teacher import Teacher
from unmask.tokenizers.adversary import Adversary, balanced
from unmask.tokenizers.base import Tokenizer, require_places
from unmask.tokenizers.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from unmask.tokenizers.quantizer import EuclideanQuantizer


class PeCo(Tokenizer):
    """The tokenizer of PeCo: a VQ-VAE with a perceptual loss.

    Args:
        image_size: height and width in pixels, multiples of the stride, 2^(levels - 1).
        channels: of the images.
        teacher: the network whose features images and pictures share; None leaves that term out (the paper's
            comparison).
        vocabulary: K.
        code_dim: dimensions of a code.
        width: of the finest of the levels.
        factors: width of every level, from fine to coarse, as a multiple.
        blocks: residual blocks of a level.
        pixel_weight: of the first term.
        commitment: weight of the second.
        perceptual_weight: of the third.
        depths: of the teacher, evenly spread.
        adversarial_weight: length of the adversary's gradient at the picture, as a multiple of that of the
            other terms; 0 has no adversary.
        adversarial_start: share of the run after which the adversary begins to learn and to be heard.
        adversarial_width: of the adversary's first layer.
        decay: of the codebook's moving average.
        kmeans_start: begin with k-means of the first step.
        revive_after: steps without use after which a code moves; None never.
    """

    training_only = ("teacher", "perceptual", "adversary")
    adversarial_factor: Float[Tensor, ""]

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        channels: int = 3,
        teacher: Teacher | None,
        vocabulary: int = 8192,  # paper
        code_dim: int = 256,  # VQGAN
        width: int = 128,  # VQGAN
        factors: Sequence[int] = (1, 1, 2, 2, 4),  # VQGAN
        blocks: int = 2,  # paper (recalled, unverified)
        pixel_weight: float = 1.0,  # our choice
        commitment: float = 0.25,  # VQ-VAE
        perceptual_weight: float = 1.0,  # paper (recalled, unverified)
        depths: int = 4,  # paper (recalled, unverified)
        adversarial_weight: float = 0.0,  # our choice
        adversarial_start: float = 0.5,  # our choice
        adversarial_width: int = 64,  # VQGAN
        decay: float = 0.99,  # VQ-VAE
        kmeans_start: bool = True,  # our choice
        revive_after: int | None = 100,  # our choice
    ) -> None:
        super().__init__()
        if not factors or min(*factors, width, blocks, adversarial_width) < 1:
            raise ValueError(f"width {width}, factors {list(factors)} and {blocks} blocks make no network")
        if min(pixel_weight, commitment, perceptual_weight, adversarial_weight) < 0:
            raise ValueError("weights of a loss must not be negative")
        if not 0 <= adversarial_start <= 1:
            raise ValueError(f"adversarial_start={adversarial_start} is a share of the run, in [0, 1]")
        self.image_size, self.stride = image_size, 2 ** (len(factors) - 1)
        self.channels, self.vocabulary = channels, vocabulary
        require_places(image_size, self.stride)
        self.encoder = ConvolutionalEncoder(channels, code_dim, width=width, factors=factors, blocks=blocks)
        self.quantizer = EuclideanQuantizer(
            vocabulary, code_dim, decay=decay, kmeans_start=kmeans_start, revive_after=revive_after
        )
        self.decoder = ConvolutionalDecoder(code_dim, channels, width=width, factors=factors, blocks=blocks)
        self.perceptual = None if teacher is None else Perceptual(teacher, depths=depths)
        self.adversary = Adversary(channels, width=adversarial_width) if adversarial_weight else None
        self.pixel_weight, self.commitment = pixel_weight, commitment
        self.perceptual_weight, self.adversarial_weight = perceptual_weight, adversarial_weight
        self.adversarial_start = adversarial_start
        self.register_buffer("adversarial_factor", torch.tensor(float(adversarial_start == 0)))

    def forward(self, images: Float[Tensor, "B C H W"]) -> dict[str, Tensor]:
        quantized = self.quantizer(self.vectors(images))
        picture, judged = self.draw(quantized.vectors), None
        if self.adversary is not None:
            picture, judged = balanced(picture, self.adversarial_weight * self.adversarial_factor)
        pixels = F.mse_loss(picture, images.float())
        # Squares of differences are four times as large where pixels span [-1, 1].
        loss = 4 * self.pixel_weight * pixels + self.commitment * quantized.commitment
        losses = {"pixels": pixels, "commitment": quantized.commitment, **quantized.figures}
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(picture, images)
            loss = loss + self.perceptual_weight * losses["perceptual"]
        if self.adversary is not None:
            assert judged is not None
            losses["verdict"] = self.adversary.verdict(2 * judged - 1)
            losses["adversary"] = self.adversary.own_loss(2 * images - 1, 2 * judged - 1)
            loss = loss + self.adversarial_factor * (losses["verdict"] + losses["adversary"])
        return {"loss": loss, **losses}

    def vectors(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N E"]:
        """What is quantised."""
        return rearrange(self.encoder(2 * images - 1), "b e h w -> b (h w) e")

    def draw(self, vectors: Float[Tensor, "B N E"]) -> Float[Tensor, "B C H W"]:
        """The picture, pixels in [0, 1] where they are right, not cut off."""
        return (self.decoder(self.as_map(vectors)).float() + 1) / 2

    def after_step(self, step: int, total: int) -> None:
        self.quantizer.settle(step)
        self.adversarial_factor.fill_(float(step >= self.adversarial_start * total))

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B N"]:
        return self.quantizer.codes(self.vectors(images))

    def embed(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N E"]:
        return self.quantizer.embed(codes)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B C H W"]:
        return self.draw(self.embed(codes)).clamp(0, 1)
