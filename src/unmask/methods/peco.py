"""PeCo: BEiT on a codebook that sees images as people do.

PeCo: Perceptual Codebook for BERT Pre-training of Vision Transformers. Xiaoyi Dong, Jianmin Bao, Ting Zhang,
Dongdong Chen, Weiming Zhang, Lu Yuan, Dong Chen, Fang Wen, Nenghai Yu, Baining Guo. AAAI 2023, arXiv
2111.12710.

What masked prediction teaches depends on what the codes stand for. PeCo's tokenizer, a convolutional VQ-VAE,
must not only give back the pixels of an image but also what a frozen network sees in it at several depths, so
that patches share a code when they look alike to people and not when their pixels are near. The second stage,
which is this method, is BEiT's.

Loss, over the set M of hidden patches of the batch, with z_i the code of patch i of the whole image::

    L = - 1 / |M|  sum_{i in M}  log softmax(logits_i)[z_i]

No code was released. Masks and model are taken from BEiT, which the paper builds on; every image hides the
same number of patches.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from unmask.encoders.base import Encoder, require_busy
from unmask.encoders.initialise import mask_token
from unmask.heads import CodeHead
from unmask.masking import BlockMask, Mask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.targets.answers import Coded, Question
from unmask.tokenizers.base import Tokenizer
from unmask.tokenizers.codes import Codes, score_codes


class PeCo(Method):
    """Dong et al. 2023.

    Args:
        encoder: a ViT; the paper's is BEiT's.
        tokenizer: tells the codes; the paper's is `unmask tokenizer peco`.
        mask_ratio: share of patches to hide, BEiT's 75 of 196.
        min_block: patches in the smallest rectangle; None is BEiT's share of the grid, 16 of 196.
        mean: of pixels in [0, 1], a channel, that images are normalised with; None is ImageNet's.
        std: likewise.
    """

    card = Card(
        title="PeCo",
        target="codes of a VQ-VAE with a perceptual loss",
        normalisation="the nearest code",
        student="a token for each hidden patch (ViT)",
        head="one matrix",
        loss="cross-entropy, hidden patches",
        masking="blocks of patches, 38 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        tokenizer: Tokenizer,
        mask_ratio: float = 0.383,  # as BEiT: 75 of 196
        min_block: int | None = None,  # as BEiT: 16 of 196
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = require_busy(encoder, by="PeCo")
        self.masking = BlockMask(ratio=mask_ratio, min_block=min_block)
        self.masking.check(encoder.grid)
        self.codes = Codes.per_patch(tokenizer, encoder, by="PeCo", mean=mean, std=std)
        self.views = self.codes.views
        self.token = mask_token(encoder)
        self.head = CodeHead(encoder.dim, self.codes.outputs)

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
        seen = self.encoder.hidden(images, mask, self.token)
        # predict
        logits = self.head(mask.masked(seen))
        # target
        codes = mask.masked(self.codes.encode(token_images))
        # compare
        return score_codes(logits, codes)

    @property
    def questions(self) -> Mapping[str, Question]:
        return self.codes.questions

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"] | None:
        logits = self.head(self.encoder.hidden(images, mask, self.token))
        return self.codes.picture(logits.argmax(-1), images, mask)

    @property
    def chance_loss(self) -> float:
        return self.codes.chance_loss
