"""VQ-KD: codes that a teacher's features can be told from; BEiT v2's tokenizer.

BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers. Peng, Dong, Bao, Ye, Wei. 2022, arXiv
2208.06366.

A vision transformer turns every patch into a vector of length 1, the nearest of K code vectors takes its
place, and a shallow transformer predicts from the codes alone what a teacher (CLIP, DINO) says of every
patch. Codes that allow that stand for meanings, not for colours. The codebook follows its vectors as a moving
average, so that no loss is needed for it.

    loss = mean over patches of (1 - cos(prediction, teacher's features))
           + commitment * mean over patches and elements of (vector - its code)^2

Differences from the official code: the codebook is the same on all processes; evaluation changes no
statistics; the k-means start follows the first step instead of preceding it, with samples of all processes;
codes that die move to vectors of the batch (`Quantizer`). As in the official code, the mean over elements
makes the second term weaker than the paper's squared distance, as many times as a code has dimensions.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.encoders import Encoder, create_encoder
from unmask.targets.answers import Question, Taught
from unmask.targets.teacher import Teacher
from unmask.tokenizers.base import Tokenizer, require_places
from unmask.tokenizers.quantizer import CosineQuantizer


class VQKD(Tokenizer):
    """The tokenizer of BEiT v2.

    Args:
        image_size: height and width in pixels, multiples of the patch size.
        channels: of the images.
        teacher: whose features the codes should tell; its grid must be that of the patches. None makes a
            tokenizer that can be used but not trained, without a decoder.
        vocabulary: K.
        code_dim: dimensions of a code.
        patch_size: pixels along the side of a patch, for which one code stands.
        dim: width of both transformers.
        depth: blocks of the encoder.
        heads: attention heads of both.
        decoder_depth: blocks of the decoder; the deeper, the better the prediction and the worse the codes
            (paper). The 1-block file uses all of its codes, the 3-block file 97 % (official code).
        commitment: weight of the second term.
        decay: of the codebook's moving average.
        kmeans_start: begin with k-means of the first step.
        revive_after: steps without use after which a code moves; None never.
    """

    training_only = ("teacher", "decoder", "to_teacher")

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        channels: int = 3,
        teacher: Teacher | None,
        vocabulary: int = 8192,  # official code
        code_dim: int = 32,  # official code
        patch_size: int = 16,  # official code
        dim: int = 768,  # official code
        depth: int = 12,  # official code
        heads: int = 12,  # official code
        decoder_depth: int = 3,  # official code, the tokenizer of the published BEiT v2
        commitment: float = 1.0,  # official code
        decay: float = 0.99,  # official code
        kmeans_start: bool = True,  # official code
        revive_after: int | None = 100,
    ) -> None:
        super().__init__()
        require_places(image_size, patch_size)
        self.image_size, self.stride = image_size, patch_size
        self.channels, self.vocabulary = channels, vocabulary
        if teacher is not None and teacher.grid != self.grid:
            raise ValueError(
                f"the teacher's grid is {teacher.grid[0]} x {teacher.grid[1]}, but images of "
                f"{image_size[0]} x {image_size[1]} pixels have {self.grid[0]} x {self.grid[1]} patches of "
                f"{patch_size}; every patch needs one of the teacher's features"
            )
        shape = {"embed_dim": dim, "num_heads": heads}
        self.encoder = _transformer(image_size, channels, patch_size=patch_size, depth=depth, **shape)
        self.to_code = _task_layers(dim, code_dim)
        self.quantizer = CosineQuantizer(
            vocabulary, code_dim, decay=decay, kmeans_start=kmeans_start, revive_after=revive_after
        )
        self.commitment = commitment
        self.teacher = teacher
        if teacher is None:
            return
        self.decoder = _transformer(self.grid, code_dim, patch_size=1, depth=decoder_depth, **shape)
        self.to_teacher = _task_layers(dim, teacher.dim)
        self.views = {**self.views, "teacher_images": teacher.view(self.encoder)}

    def forward(
        self, images: Float[Tensor, "B C H W"], teacher_images: Float[Tensor, "B C h w"] | Taught
    ) -> dict[str, Tensor]:
        if self.teacher is None:
            raise ValueError("VQ-KD learns from a teacher, and this one was built without")
        quantized = self.quantizer(self.vectors(images))
        prediction = self.predict(quantized.vectors)
        target = self.teacher.about(teacher_images).patches
        distance = 1 - F.cosine_similarity(prediction, target.float(), dim=-1).mean()
        return {
            "loss": distance + self.commitment * quantized.commitment,
            "distance": distance,
            "commitment": quantized.commitment,
            **quantized.figures,
        }

    @property
    def questions(self) -> Mapping[str, Question]:
        return {} if self.teacher is None else {"teacher_images": self.teacher.question()}

    def vectors(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N E"]:
        """What is quantised, before it gets length 1."""
        return _in_full(self.to_code, self.encoder(2 * images - 1).patches)

    def predict(self, vectors: Float[Tensor, "B N E"]) -> Float[Tensor, "B N D"]:
        """The teacher's features from the codes' vectors."""
        return _in_full(self.to_teacher, self.decoder(self.as_map(vectors)).patches)

    def after_step(self, step: int, total: int) -> None:
        self.quantizer.settle(step)

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B N"]:
        return self.quantizer.codes(self.vectors(images))

    def embed(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N E"]:
        return self.quantizer.embed(codes)


def _transformer(
    image_size: tuple[int, int], channels: int, *, depth: int, patch_size: int, **shape: Any
) -> Encoder:
    """A plain ViT in BEiT's manner: learned positions, no key bias, no LayerScale (official code)."""
    return create_encoder(
        "beit_base_patch16_224",
        image_size=image_size,
        channels=channels,
        patch_size=patch_size,
        depth=depth,
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        init_values=0.0,
        init="beit",
        **shape,
    )


def _task_layers(dim: int, out: int) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, out))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return layers


def _in_full(layers: nn.Module, features: Float[Tensor, "B N D"]) -> Float[Tensor, "B N E"]:
    """In float32 whatever the autocast (official code)."""
    with torch.autocast(features.device.type, enabled=False):
        return layers(features.float())
