"""Vision transformers of timm: plain (class token, registers), with rotary positions (EVA family),
BEiT-style.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from timm.layers import apply_keep_indices_nlc
from timm.models import beit, vision_transformer
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unmask.encoders.base import DroppingEncoder, Encoder, Features
from unmask.masking import Mask
from unmask.patches import sincos_table

POSITIONS = ("learned", "sincos")
BlockInputs = Iterable[tuple[nn.Module, dict[str, Any]]]


def _geometry(model: VisionTransformer | Eva | Beit) -> dict[str, Any]:
    """What the base class wants to know of a timm transformer."""
    return {
        "image_size": model.patch_embed.img_size,
        "channels": model.patch_embed.proj.in_channels,
        "patch_size": model.patch_embed.patch_size[0],
        "stride": model.patch_embed.patch_size[0],
        "dim": model.embed_dim,
        "token_dim": model.embed_dim,
        "depth": len(model.blocks),
        "prefix": model.num_prefix_tokens,
        "has_cls": model.cls_token is not None,
    }


def _embed(
    model: VisionTransformer | Eva | Beit, images: Tensor, mask: Mask | None, token: Tensor | None
) -> Float[Tensor, "B N D"]:
    """Patch embeddings without positions, hidden ones replaced."""
    patches = model.patch_embed(images)
    if mask is None:
        return patches
    assert token is not None, "a mask needs the token that replaces hidden patches"
    return mask.replace(patches, token)


def _drop_hidden(tokens: Tensor, mask: Mask, prefix: int) -> Float[Tensor, "B P D"]:
    """Prefix tokens and visible patches."""
    return torch.cat([tokens[:, :prefix], mask.visible(tokens[:, prefix:])], dim=1)


def _transform(
    encoder: Encoder, tokens: Tensor, blocks: BlockInputs, norm: nn.Module, take: Sequence[int]
) -> Features:
    """Run the blocks, keep what was asked for, split class token and patches."""
    wanted = encoder._tap_indices(take)
    states = {}
    for index, (block, inputs) in enumerate(blocks):
        tokens = encoder._run(block, tokens, **inputs)
        if index in wanted:
            states[index] = tokens
    tokens = norm(tokens)
    return Features(
        patches=tokens[:, encoder.prefix :],
        cls=tokens[:, 0] if encoder.has_cls else None,
        taps=tuple(states[index] for index in wanted),
    )


def _transform_hidden(
    encoder: "ViTEncoder | BeitEncoder",
    tokens: Float[Tensor, "B P D"],
    mask: Mask,
    attend: Callable[..., tuple[Tensor, Callable[[Tensor], Tensor]]],
    **inputs: Any,
) -> Float[Tensor, "B N D"]:
    """Run the blocks, the last one's MLP and the final norm on hidden patches alone: no block follows that
    would look at the others."""
    *blocks, last = encoder.model.blocks

    def finish(tokens: Tensor, **inputs: Any) -> Float[Tensor, "B M D"]:
        attended, transform = attend(last, tokens, **inputs)
        hidden = mask.masked(attended[:, encoder.prefix :])
        return hidden + transform(hidden)

    for block in blocks:
        tokens = encoder._run(block, tokens, **inputs)
    scored = encoder.model.norm(encoder._run(finish, tokens, **inputs))
    return mask.inverse().restore(scored, scored.new_zeros(1, 1, encoder.dim))


def _attend_vit(block: vision_transformer.Block, tokens: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The first half of a block, and the second one as a function."""
    attended = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
    return attended, lambda x: block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _attend_beit(
    block: beit.Block, tokens: Tensor, *, shared_rel_pos_bias: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The first half of a block, and the second one as a function."""
    first, second = (1 if gamma is None else gamma for gamma in (block.gamma_1, block.gamma_2))
    attended = block.attn(block.norm1(tokens), shared_rel_pos_bias=shared_rel_pos_bias)
    return (
        tokens + block.drop_path1(first * attended),
        lambda x: block.drop_path2(second * block.mlp(block.norm2(x))),
    )


def quarters(depth: int) -> tuple[int, int, int, int]:
    """The blocks after which a quarter, half, three quarters and all of a depth are done."""
    first, second, third, last = (-(-depth * part // 4) - 1 for part in range(1, 5))
    return first, second, third, last


def _normalised_maps(
    encoder: "ViTEncoder | EvaEncoder | BeitEncoder", images: Tensor
) -> tuple[Float[Tensor, "B D h w"], ...]:
    """States of the blocks of `quarters` after the final norm, as maps."""
    states = encoder(images, take=quarters(encoder.depth)).taps
    patches = (encoder.model.norm(state)[:, encoder.prefix :] for state in states)
    return tuple(rearrange(one, "b (h w) d -> b d h w", h=encoder.grid[0]) for one in patches)


class ViTEncoder(DroppingEncoder):
    """timm's `VisionTransformer`: absolute positions, any number of prefix tokens.

    Args:
        model: built with `num_classes=0` and its final norm in place (`fc_norm=False`).
        architecture: what rebuilds it.
        position: "learned", timm's table; "sincos", the fixed table of MAE.
    """

    def __init__(
        self, model: VisionTransformer, *, architecture: dict[str, Any], position: str = "learned"
    ) -> None:
        super().__init__(model, architecture=architecture, **_geometry(model))
        self.model: VisionTransformer = model
        if position not in POSITIONS:
            raise ValueError(f"position {position!r}: possible are 'learned' and 'sincos'")
        if position == "sincos":
            prefix = 0 if model.no_embed_class else self.prefix
            model.pos_embed = nn.Parameter(
                sincos_table(self.grid, self.dim, prefix=prefix), requires_grad=False
            )

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        mask: Mask | None = None,
        token: Float[Tensor, "1 1 D"] | None = None,
        take: Sequence[int] = (),
    ) -> Features:
        return self._encode(self.model._pos_embed(_embed(self.model, images, mask, token)), take)

    def pyramid(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B D h w"], ...]:
        return _normalised_maps(self, images)

    def hidden(
        self, images: Float[Tensor, "B C H W"], mask: Mask, token: Float[Tensor, "1 1 D"]
    ) -> Float[Tensor, "B N D"]:
        # The halves of other blocks are not known here, nor where the hidden patches of a ragged mask end.
        if type(self.model.blocks[-1]) is not vision_transformer.Block or mask.count is None:
            return super().hidden(images, mask, token)
        tokens = self.model.norm_pre(self.model._pos_embed(_embed(self.model, images, mask, token)))
        return _transform_hidden(self, tokens, mask, _attend_vit)

    def visible(self, images: Float[Tensor, "B C H W"], mask: Mask, take: Sequence[int] = ()) -> Features:
        tokens = self.model._pos_embed(_embed(self.model, images, None, None))
        return self._encode(_drop_hidden(tokens, mask, self.prefix), take)

    def through(self, blocks: Iterable[nn.Module], tokens: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """Tokens after further blocks of the encoder's kind."""
        for block in blocks:
            tokens = self._run(block, tokens)
        return tokens

    def _encode(self, tokens: Tensor, take: Sequence[int]) -> Features:
        blocks: BlockInputs = ((block, {}) for block in self.model.blocks)
        return _transform(self, self.model.norm_pre(tokens), blocks, self.model.norm, take)


class EvaEncoder(DroppingEncoder):
    """timm's `Eva`: EVA-02, DINOv3, ViTs with axial or learned ("mixed") rotary positions."""

    def __init__(self, model: Eva, *, architecture: dict[str, Any]) -> None:
        super().__init__(model, architecture=architecture, **_geometry(model))
        self.model: Eva = model
        self.rope_each_block = isinstance(model.rope, nn.Module) and bool(model.rope_mixed)

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        mask: Mask | None = None,
        token: Float[Tensor, "1 1 D"] | None = None,
        take: Sequence[int] = (),
    ) -> Features:
        tokens, rope = self.model._pos_embed(_embed(self.model, images, mask, token))
        return self._encode(tokens, rope, take)

    def pyramid(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B D h w"], ...]:
        return _normalised_maps(self, images)

    def visible(self, images: Float[Tensor, "B C H W"], mask: Mask, take: Sequence[int] = ()) -> Features:
        tokens, rope = self.model._pos_embed(_embed(self.model, images, None, None))
        if rope is not None:
            # Each image keeps other patches, so the rotations get a batch axis: [B, (depth, heads,) V, D'].
            rope = apply_keep_indices_nlc(tokens, rope, mask.visible_index)
            rope = rope.transpose(0, 1) if self.rope_each_block else rope.unsqueeze(1)
        return self._encode(_drop_hidden(tokens, mask, self.prefix), rope, take)

    def _encode(self, tokens: Tensor, rope: Tensor | None, take: Sequence[int]) -> Features:
        ropes = rope if self.rope_each_block and rope is not None else [rope] * self.depth
        blocks = ((block, {"rope": own}) for block, own in zip(self.model.blocks, ropes, strict=True))
        return _transform(self, self.model.norm_pre(tokens), blocks, self.model.norm, take)


class BeitEncoder(Encoder):
    """timm's `Beit`: relative position bias, shared by all blocks or one table each, LayerScale, no key bias.

    The encoder of BEiT, BEiT v2 and of SimMIM's ViT. Its relative positions need the full grid, so it cannot
    leave patches out.
    """

    def __init__(self, model: Beit, *, architecture: dict[str, Any]) -> None:
        super().__init__(model, architecture=architecture, **_geometry(model))
        self.model: Beit = model

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        mask: Mask | None = None,
        token: Float[Tensor, "1 1 D"] | None = None,
        take: Sequence[int] = (),
    ) -> Features:
        return self._encode(self._tokens(images, mask, token), take)

    def pyramid(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B D h w"], ...]:
        return _normalised_maps(self, images)

    def hidden(
        self, images: Float[Tensor, "B C H W"], mask: Mask, token: Float[Tensor, "1 1 D"]
    ) -> Float[Tensor, "B N D"]:
        if mask.count is None:
            return super().hidden(images, mask, token)
        tokens = self._tokens(images, mask, token)
        return _transform_hidden(self, tokens, mask, _attend_beit, shared_rel_pos_bias=self._bias())

    def through(self, blocks: Iterable[nn.Module], tokens: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """Tokens after further blocks of the encoder's kind, which share its relative positions."""
        bias = self._bias()
        for block in blocks:
            tokens = self._run(block, tokens, shared_rel_pos_bias=bias)
        return tokens

    def _encode(self, tokens: Tensor, take: Sequence[int]) -> Features:
        bias = self._bias()
        blocks = ((block, {"shared_rel_pos_bias": bias}) for block in self.model.blocks)
        return _transform(self, tokens, blocks, self.model.norm, take)

    def _tokens(
        self, images: Tensor, mask: Mask | None = None, token: Tensor | None = None
    ) -> Float[Tensor, "B P D"]:
        """What the first block gets."""
        patches = _embed(self.model, images, mask, token)
        cls = self.model.cls_token.expand(patches.shape[0], -1, -1)  # len() would fix it in an export
        tokens = torch.cat([cls, patches], dim=1)
        if self.model.pos_embed is not None:
            tokens = tokens + self.model.pos_embed
        return self.model.pos_drop(tokens)

    def _bias(self) -> Tensor | None:
        """The relative position bias that all blocks share."""
        return self.model.rel_pos_bias() if self.model.rel_pos_bias is not None else None


class PlacedBeitEncoder(BeitEncoder, DroppingEncoder):
    """timm's `Beit` with a table of positions instead of relative ones: it can leave patches out. CAE's
    encoder.

    Args:
        model: built with `use_abs_pos_emb` and without either kind of relative positions.
        architecture: what rebuilds it.
        position: "learned", timm's table; "sincos", the fixed table of CAE.
    """

    def __init__(self, model: Beit, *, architecture: dict[str, Any], position: str = "learned") -> None:
        super().__init__(model, architecture=architecture)
        if position not in POSITIONS:
            raise ValueError(f"position {position!r}: possible are 'learned' and 'sincos'")
        if position == "sincos":
            table = sincos_table(self.grid, self.dim, prefix=self.prefix, first="row")
            model.pos_embed = nn.Parameter(table, requires_grad=False)

    def visible(self, images: Float[Tensor, "B C H W"], mask: Mask, take: Sequence[int] = ()) -> Features:
        return self._encode(_drop_hidden(self._tokens(images), mask, self.prefix), take)


def beit_encoder(model: Beit, *, architecture: dict[str, Any], position: str = "learned") -> BeitEncoder:
    """The adapter for the positions that the model has.

    Raises:
        ValueError: fixed positions for a model with relative ones.
    """
    relative = model.rel_pos_bias is not None or model.blocks[0].attn.relative_position_bias_table is not None
    if model.pos_embed is not None and not relative:
        return PlacedBeitEncoder(model, architecture=architecture, position=position)
    if position != "learned":
        raise ValueError(
            f"position {position!r} is for models with a table of positions and without relative ones "
            "(use_abs_pos_emb=true, use_rel_pos_bias=false)"
        )
    return BeitEncoder(model, architecture=architecture)
