"""MaskDistill: masked image modelling as distillation, with every part a choice.

A Unified View of Masked Image Modeling. Zhiliang Peng, Li Dong, Hangbo Bao, Qixiang Ye, Furu Wei. TMLR 2023,
arXiv 2210.10615.

A teacher T says what every patch of the whole image is, a normalisation N makes it comparable, a student S
with a head H says it of a corrupted image, a loss L compares them where something was hidden: BEiT, MAE and
SimMIM are choices of these five. The paper's own: CLIP's features, a layer norm without weights, a ViT that
gets a mask token for 40 % of the patches, one linear layer, smooth L1.

Loss, over the set M of hidden patches of the batch::

    L = 1 / |M|  sum_{i in M}  l( H(S(masked x))_i,  N(T(x)_i) )

There is no official code. Where the paper is not known to us the choices are those of public
re-implementations, and ours (marked *): CLIP's features are what the last block hands on, without the final
norm (`teacher=NAME@resid`); smooth L1 with beta 1, the mean over hidden patches and channels, no class token;
the teacher's images are normalised as it was trained (*); of students of several scales (Swin) whole features
are hidden, and the target lies on their grid (*); the share to hide is exact, 78 of 196 patches.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_

from unmask.data.views import View
from unmask.decoders import ViTDecoder
from unmask.encoders.base import Encoder, Features, require_busy, require_dropping
from unmask.encoders.initialise import mask_token
from unmask.masking import Mask, MaskName, create_masking
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.targets.answers import Coded, Question, Taught
from unmask.targets.features import DistanceName, NormName, distance, normalise
from unmask.targets.patches import PatchPixels
from unmask.targets.teacher import Teacher, require_grid
from unmask.tokenizers.base import Tokenizer
from unmask.tokenizers.codes import Codes, score_codes

HEAD_WIDTH = 32  # channels of an attention head of the decoder, as in MAE's: 512 and 16


class MaskDistill(Method):
    """Peng et al. 2023.

    The target is what `teacher` says, the codes of `tokenizer` (by cross-entropy), or, of neither, pixels.

    Args:
        encoder: any; with head "vit" one that can leave patches out.
        teacher: a frozen network with a feature for each of the encoder's.
        tokenizer: a frozen tokenizer with a code for each of the encoder's features.
        mask: rectangles, squares at random places of a grid, or one square.
        mask_ratio: share to hide.
        mask_size: pixels along the side of the units that are hidden; None is one feature.
        head: "fc": hidden patches enter the encoder as a token, and one matrix predicts; "vit": the encoder
            sees visible patches only, and a small ViT fills in the others, as in MAE.
        target_norm: of the target's vectors, see `normalise`.
        loss: of their difference, see `distance`.
        beta: of smooth L1, where it turns from a square into a line.
        scope: score hidden features, or all.
        decoder_dim: width of the head "vit", a multiple of 32; a head of attention has 32 channels.
        decoder_depth: blocks of the head "vit".
        mean, std: of pixels in [0, 1], a channel, that images are normalised with; None is ImageNet's.
    """

    card = Card(
        title="MaskDistill",
        target="features of CLIP, or of another teacher; or pixels, or codes of a tokenizer",
        normalisation="mean and deviation of each feature",
        student="a token for each hidden patch (any encoder)",
        head="one matrix",
        loss="smooth L1, hidden patches",
        masking="blocks of patches, 40 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        teacher: Teacher | None = None,
        tokenizer: Tokenizer | None = None,
        mask: MaskName = "block",  # paper
        mask_ratio: float = 0.4,  # paper
        mask_size: int | None = None,
        head: Literal["fc", "vit"] = "fc",  # paper
        target_norm: NormName = "layer",  # paper
        loss: DistanceName = "smooth_l1",  # paper
        beta: float = 1.0,  # re-implementations; the paper's is not known
        scope: Literal["hidden", "all"] = "hidden",  # paper
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if teacher is not None and tokenizer is not None:
            raise ValueError("the target is what a teacher or what a tokenizer says: set one of them to none")
        if tokenizer is not None and (target_norm, loss) != ("layer", "smooth_l1"):
            raise ValueError("codes have the cross-entropy: leave method.loss and method.target_norm out")
        if beta <= 0 or (beta != 1 and (loss != "smooth_l1" or tokenizer is not None)):
            raise ValueError("method.beta is a positive number, and belongs to method.loss=smooth_l1")
        self.encoder = encoder if head == "vit" else require_busy(encoder, by="MaskDistill")
        self.side, size = encoder.stride // encoder.patch_size, mask_size or encoder.stride
        self.masking = create_masking(mask, encoder.grid, encoder.patch_size, ratio=mask_ratio, size=size)
        if self.side > 1 and (mask == "square" or size % encoder.stride):
            raise ValueError(
                f"a {type(encoder.model).__name__} has features of {encoder.stride} pixels, which must be "
                f"hidden as a whole: method.mask_size must be a multiple of {encoder.stride}, and "
                "method.mask random or block"
            )
        self.teacher, self.codes, self.views = None, None, {"images": View()}
        if teacher is not None:
            self.teacher = require_grid(teacher, encoder, by="MaskDistill")
            self.views["teacher_images"] = teacher.view(encoder)
        if tokenizer is not None:
            self.codes = Codes.per_patch(tokenizer, encoder, by="MaskDistill", mean=mean, std=std)
            self.views = self.codes.views
        self.pixels = PatchPixels(encoder.stride, encoder.feature_grid, encoder.channels, normalised=False)
        self.target_norm, self.loss, self.beta, self.scope = target_norm, loss, beta, scope
        self.token = None if head == "vit" else mask_token(encoder)
        self.decoder = None
        if head == "vit":
            dropping = require_dropping(encoder, by="MaskDistill with method.head=vit")
            heads = max(1, decoder_dim // HEAD_WIDTH)
            self.decoder = ViTDecoder.of(dropping, dim=decoder_dim, depth=decoder_depth, heads=heads)
        outputs = teacher.dim if teacher is not None else (self.codes or self.pixels).outputs
        self.head = nn.Linear(encoder.dim if self.decoder is None else decoder_dim, outputs)
        trunc_normal_(self.head.weight, std=0.02)
        zeros_(self.head.bias)
        # Predictions of hidden features alone: where no others come about, and of codes, which have many.
        self.hidden_only = scope == "hidden" and (head == "vit" or tokenizer is not None)

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        teacher_images: Float[Tensor, "B C _ _"] | Taught | None = None,
        token_images: Float[Tensor, "B C _ _"] | Coded | None = None,
        *,
        mask: Mask | None = None,
    ) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        seen = self.encode(images, mask, hidden_only=self.scope == "hidden")
        # predict
        prediction = self.predict(seen, mask, hidden_only=self.hidden_only)
        # target
        target = self.target(images, teacher_images, token_images)
        # compare
        return self.compare(prediction.float(), target, mask)

    def encode(self, images: Float[Tensor, "B C H W"], mask: Mask, *, hidden_only: bool) -> Features:
        """All features of a corrupted image, or the hidden ones; visible patches, if a decoder follows."""
        if self.token is None:
            return self.encoder.visible(images, mask)
        if hidden_only:
            return Features(patches=self.encoder.hidden(images, mask, self.token))
        return self.encoder(images, mask, self.token)

    def predict(self, seen: Features, mask: Mask, *, hidden_only: bool) -> Float[Tensor, "*n E"]:
        """What the head says of all features, or of the hidden ones."""
        if self.decoder is not None:
            prediction = self.head(self.decoder(seen, mask, hidden_only=hidden_only))
        else:
            places = mask.coarser(self.side)
            prediction = self.head(places.masked(seen.patches) if hidden_only else seen.patches)
        if self.teacher is not None or self.codes is not None:
            return prediction
        # SimMIM's head has the order of PixelShuffle, targets that of MAE.
        size = self.encoder.stride
        return rearrange(prediction, "b n (c p q) -> b n (p q c)", p=size, q=size)

    @torch.no_grad()
    def target(
        self, images: Tensor, teacher_images: Tensor | Taught | None, token_images: Tensor | Coded | None
    ) -> Shaped[Tensor, "B N *E"]:
        """What every feature should be predicted as."""
        if self.codes is not None:
            assert token_images is not None
            return self.codes.encode(token_images)
        if self.teacher is None:
            return normalise(self.pixels.encode(images), self.target_norm)
        assert teacher_images is not None
        return normalise(self.teacher.about(teacher_images).patches.float(), self.target_norm)

    @property
    def questions(self) -> Mapping[str, Question]:
        if self.teacher is not None:
            return {"teacher_images": self.teacher.question()}
        return {} if self.codes is None else self.codes.questions

    def compare(
        self, prediction: Float[Tensor, "*n E"], target: Shaped[Tensor, "B N *E"], mask: Mask
    ) -> dict[str, Tensor]:
        """The mean over all features that are scored."""
        places = mask.coarser(self.side)
        target = places.masked(target) if self.hidden_only else target
        if self.codes is not None:
            return score_codes(prediction, target)
        error = distance(prediction, target, self.loss, beta=self.beta)
        some = self.scope == "hidden" and not self.hidden_only
        return {"loss": places.mean(error) if some else error.mean()}

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"] | None:
        if self.teacher is not None or self.target_norm == "l2" or self.loss == "cosine":
            return None
        seen = self.encode(images, mask, hidden_only=False)
        prediction = self.predict(seen, mask, hidden_only=False).float()
        if self.codes is not None:
            return self.codes.picture(prediction.argmax(-1), images, mask)
        pixels = replace(self.pixels, normalised=self.target_norm != "none")
        return pixels.picture(prediction, images, mask.coarser(self.side))

    @torch.no_grad()
    def predict_features(
        self,
        images: Tensor,
        teacher_images: Tensor | None = None,
        token_images: Tensor | None = None,
        *,
        mask: Mask,
    ) -> tuple[Float[Tensor, "B N E"], Float[Tensor, "B N E"]] | None:
        """Normalised as they are learned; a feature stands at all patches that it consists of."""
        if self.teacher is None:
            return None
        seen = self.encode(images, mask, hidden_only=False)
        prediction = self.predict(seen, mask, hidden_only=False).float()
        every_patch = partial(repeat, pattern="b (h w) e -> b (h p w q) e", p=self.side, q=self.side)
        rows = self.encoder.feature_grid[0]
        return every_patch(prediction, h=rows), every_patch(self.target(images, teacher_images, None), h=rows)

    def loss_of(
        self, picture: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"], mask: Mask
    ) -> Float[Tensor, ""] | None:
        if len(self.views) > 1:
            return None
        guess, target = self.target(picture, None, None), self.target(images, None, None)
        guess = mask.coarser(self.side).masked(guess) if self.hidden_only else guess
        return self.compare(guess, target, mask)["loss"]

    @property
    def chance_loss(self) -> float | None:
        return None if self.codes is None else self.codes.chance_loss
