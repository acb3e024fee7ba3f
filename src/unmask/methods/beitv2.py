"""BEiT v2: BEiT on the codes of a semantic tokenizer, with a class token that must know the whole image.

BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers. Zhiliang Peng, Li Dong, Hangbo Bao,
Qixiang Ye, Furu Wei. 2022, arXiv 2208.06366.

The codes come from a tokenizer that was trained to tell the features of a teacher (VQ-KD on CLIP), so that
they stand for meaning and not for texture. Beside BEiT's prediction there is a second one: two further blocks
get the patches as they are after an early block and the class token of the last. They can make up for the
unfinished patches only by what the class token brings, which is thus made to gather the image.

Loss, over the set M of hidden patches of the batch, with z_i the code of patch i of the whole image::

    L = CE(logits, z) + CE(logits of the second prediction, z)         CE: the mean over M, as in BEiT

Both predictions share the final norm and the linear layer (`shared_head`).

Differences from the official code:

* the matrices of the further blocks are drawn as those of the encoder; the official ones keep PyTorch's
  default, by the order in which they are made (`head_init="pytorch"`);
* any tokenizer with one code for every patch; BEiT-style or plain ViTs with a class token; rectangular
  images, any number of channels.
"""

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.encoders.base import Encoder
from unmask.encoders.initialise import mask_token, narrow_linear, shrink_outputs
from unmask.encoders.vit import BeitEncoder, ViTEncoder
from unmask.heads import CodeHead
from unmask.masking import BlockMask, Mask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.targets.answers import Coded, Question
from unmask.tokenizers.base import Tokenizer
from unmask.tokenizers.codes import Codes, score_codes

AFTER_EARLY = 3  # blocks of the encoder after the early one: 9 of 12, 21 of 24


class BEiTv2(Method):
    """Peng et al. 2022.

    Args:
        encoder: a ViT with a class token; the paper's has relative positions and LayerScale.
        tokenizer: tells the codes; the paper's is VQ-KD, taught by CLIP.
        mask_ratio: share of patches to hide, 75 of 196.
        min_block: patches in the smallest rectangle; None is the paper's share of the grid, 16 of 196.
        head_depth: further blocks of the second prediction; 0 leaves it out.
        early_depth: blocks after which patches go to the second prediction; None is the paper's, three
            before the last.
        shared_head: one norm and linear layer for both predictions.
        head_init: how the matrices of the further blocks are drawn.
        mean: of pixels in [0, 1], a channel, that images are normalised with; None is ImageNet's.
        std: likewise.
    """

    card = Card(
        title="BEiT v2",
        target="codes of VQ-KD, a tokenizer that is taught by CLIP",
        normalisation="the nearest code",
        student="a token for each hidden patch (ViT)",
        head="one matrix; again behind 2 blocks that get the class token of the last layer",
        loss="cross-entropy twice, hidden patches",
        masking="blocks of patches, 38 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        tokenizer: Tokenizer,
        mask_ratio: float = 0.383,  # official code: 75 of 196
        min_block: int | None = None,  # official code: 16 of 196
        head_depth: int = 2,  # official code
        early_depth: int | None = None,  # official code: 9 of 12, 21 of 24
        shared_head: bool = True,  # official code
        head_init: Literal["beit", "pytorch"] = "beit",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, BeitEncoder | ViTEncoder) or not encoder.has_cls:
            raise ValueError(
                f"BEiT v2 needs a BEiT or a plain ViT with a class token, but got a "
                f"{type(encoder.model).__name__}; use for instance beit_base_patch16_224, or method beit"
            )
        self.encoder: BeitEncoder | ViTEncoder = encoder
        self.masking = BlockMask(ratio=mask_ratio, min_block=min_block)
        self.masking.check(encoder.grid)
        self.codes = Codes.per_patch(tokenizer, encoder, by="BEiT v2", mean=mean, std=std)
        self.views = self.codes.views
        self.token = mask_token(encoder)
        self.head = CodeHead(encoder.dim, self.codes.outputs)
        self.early_depth = max(1, encoder.depth - AFTER_EARLY) if early_depth is None else early_depth
        _require_inside(self.early_depth, encoder.depth, head_depth)
        self.further = _further_blocks(encoder, self.early_depth, head_depth, head_init)
        separate = head_depth > 0 and not shared_head
        self.further_norm = copy.deepcopy(encoder.model.norm) if separate else None
        self.further_head = CodeHead(encoder.dim, self.codes.outputs) if separate else None

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        token_images: Float[Tensor, "B C h w"] | Coded,
        *,
        mask: Mask | None = None,
    ) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        seen = self.encoder(images, mask, self.token, take=(self.early_depth - 1, -1))
        # predict
        logits = self.head(mask.masked(seen.patches))
        early, last = seen.taps
        second = self.second_prediction(early, last, mask) if len(self.further) else None
        # target
        codes = mask.masked(self.codes.encode(token_images))
        # compare
        main = score_codes(logits, codes)
        if second is None:
            return main
        aggregated = score_codes(second, codes)["loss"]
        return main | {"loss": main["loss"] + aggregated, "patches": main["loss"], "cls": aggregated}

    def second_prediction(
        self, early: Float[Tensor, "B P D"], last: Float[Tensor, "B P D"], mask: Mask
    ) -> Float[Tensor, "B M K"]:
        """Logits of the hidden patches from the class token of the last block and patches of an early one."""
        tokens = torch.cat([last[:, :1], early[:, self.encoder.prefix :]], dim=1)
        tokens = self.encoder.through(self.further, tokens)
        norm = self.encoder.model.norm if self.further_norm is None else self.further_norm
        head = self.head if self.further_head is None else self.further_head
        return head(mask.masked(norm(tokens)[:, 1:]))

    @property
    def questions(self) -> Mapping[str, Question]:
        return self.codes.questions

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"] | None:
        logits = self.head(self.encoder.hidden(images, mask, self.token))
        return self.codes.picture(logits.argmax(-1), images, mask)

    @property
    def chance_loss(self) -> float:
        return self.codes.chance_loss * (2 if len(self.further) else 1)


def _require_inside(early_depth: int, depth: int, head_depth: int) -> None:
    if head_depth < 0:
        raise ValueError(f"head_depth={head_depth}: there can be 0 further blocks, or more")
    if not 0 < early_depth < depth:
        raise ValueError(
            f"early_depth={early_depth}: patches can be taken after block 1 to {depth - 1} of this encoder"
        )


def _further_blocks(
    encoder: BeitEncoder | ViTEncoder, early_depth: int, head_depth: int, init: str
) -> nn.ModuleList:
    """Blocks like those that follow the early one, with their stochastic depth, and fresh matrices."""
    draw = nn.Linear.reset_parameters if init == "pytorch" else narrow_linear
    blocks = nn.ModuleList()
    for number in range(early_depth, early_depth + head_depth):
        block = copy.deepcopy(encoder.model.blocks[min(number, encoder.depth - 1)])
        for module in block.modules():
            if isinstance(module, nn.Linear):
                draw(module)
        shrink_outputs(block, number + 1)
        blocks.append(block)
    return blocks
