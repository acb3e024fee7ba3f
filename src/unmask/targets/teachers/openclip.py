"""Visual towers of OpenCLIP as encoders."""

from typing import Any

from torch import nn

from unmask.encoders import Encoder
from unmask.encoders.clip import clip_encoder
from unmask.errors import UserError

INSTALL = "pip install 'unmask[clip]'"


def open_clip_tower(name: str) -> tuple[Encoder, nn.Linear, tuple[float, ...], tuple[float, ...]]:
    """The ViT of a published CLIP, its projection, and mean and standard deviation of its images.

    Args:
        name: "MODEL/WEIGHTS", as `open_clip.list_pretrained()` has them.

    Raises:
        UserError: open_clip is not installed, an unknown name, weights that cannot be fetched or belong to
            another activation, a tower that is no plain ViT.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise UserError(f"the teacher open_clip:{name} needs open_clip_torch: {INSTALL}") from error
    model_name, _, weights = name.partition("/")
    offered = open_clip.list_pretrained_tags_by_model(model_name)
    if weights not in offered:
        known = f"; of {model_name} there are {', '.join(offered)}" if offered else ""
        raise UserError(
            f"OpenCLIP has no weights {name!r}{known}. A teacher is open_clip:MODEL/WEIGHTS, for instance "
            "open_clip:ViT-B-16-quickgelu/openai"
        )
    trained_quick = bool(open_clip.get_pretrained_cfg(model_name, weights).get("quick_gelu"))
    built_quick = bool(open_clip.get_model_config(model_name).get("quick_gelu"))
    if trained_quick != built_quick:
        other = f"{model_name}-quickgelu" if trained_quick else model_name.replace("-quickgelu", "")
        raise UserError(
            f"the weights {weights} were trained with {'QuickGELU' if trained_quick else 'GELU'}, which "
            f"{model_name} does not have: it would compute other features without a word. Use "
            f"method.teacher=open_clip:{other}/{weights}"
        )
    try:
        visual: Any = open_clip.create_model(model_name, pretrained=weights).visual
    except Exception as error:  # what hub clients raise without a network differs between versions
        raise UserError(
            f"the weights of open_clip:{name} are not on this machine and could not be fetched: "
            f"{type(error).__name__}. Go online once, or name another teacher."
        ) from error
    encoder, projection = as_encoder(visual)
    return encoder, projection, tuple(visual.image_mean), tuple(visual.image_std)


def as_encoder(visual: Any) -> tuple[Encoder, nn.Linear]:
    """OpenCLIP's `VisionTransformer` as timm's, with its projection; the features are the same.

    Raises:
        UserError: a tower that has other parts than OpenAI's.
    """
    try:
        block = visual.transformer.resblocks[0]
        quick, heads = not isinstance(block.mlp.gelu, nn.GELU), block.attn.num_heads
        encoder, projection = clip_encoder(visual.state_dict(), heads=heads, quick_gelu=quick)
        if projection is None or visual.pool_type != "tok":
            raise ValueError("it has no projection of its class token")
        return encoder, projection
    except (AttributeError, IndexError, ValueError) as error:
        raise UserError(
            f"OpenCLIP's tower {type(visual).__name__} is no ViT like OpenAI's. Many of the others are "
            "models of timm: method.teacher=timm:NAME"
        ) from error
