"""Any encoder as four maps at strides 4, 8, 16 and 32: what heads for dense tasks take.

* "simple": one map, the last, at four scales. Exploring Plain Vision Transformer Backbones for Object
  Detection. Yanghao Li, Hanzi Mao, Ross Girshick, Kaiming He. ECCV 2022, arXiv 2203.16527 (ViTDet).
* "deconvolution": four states of a plain ViT, each at its own scale, as BEiT and MAE in semantic
  segmentation.
* "native": the scales that the encoder itself has, the coarsest pooled where one is missing.
* "pretrained": the feature pyramid that iTPN trained together with its backbone, and a pooled coarsest map.
* "joined": that pyramid and the backbone's own scales side by side, as iTPN in semantic segmentation.
* "levels": RevColV2's levels, each at its own scale, the bottom one finest.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from unmask.encoders import Encoder, rebuilt
from unmask.encoders.hivit_encoder import HiViTEncoder
from unmask.encoders.itpn import Pyramid
from unmask.encoders.revcolv2_encoder import RevColViTEncoder
from unmask.neck_parts import (
    SCALES,
    DeconvolutionNeck,
    EachTo,
    JoinedNeck,
    Maps,
    NativeNeck,
    PretrainedNeck,
    SimpleNeck,
)

NeckName = Literal["auto", "simple", "deconvolution", "native", "pretrained", "joined", "levels"]
WIDTH = 256  # of ViTDet's maps


class Backbone(nn.Module):
    """An encoder and what makes four maps of it; both are trained.

    Attributes:
        encoder: the backbone itself.
        neck: from `encoder.pyramid(images)` to the four maps.
        neck_name: which one of the module's list it is.
        strides: pixels along the side of a place in every map: 4, 8, 16, 32; p / 4, p / 2, p and 2 p for a
            plain ViT with patches of p pixels.
        channels: of every map.
        image_size: height and width in pixels of the images that it takes.
        architecture: what rebuilds it, `rebuilt_backbone(architecture)`; plain data.
    """

    def __init__(
        self,
        encoder: Encoder,
        neck: nn.Module,
        *,
        neck_name: str,
        strides: Sequence[int],
        channels: Sequence[int],
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = neck if width is None else nn.Sequential(neck, EachTo(channels, width))
        self.neck_name, self.width = neck_name, width
        self.strides = tuple(strides)
        self.channels = tuple(channels) if width is None else (width,) * len(channels)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.encoder.image_size

    @property
    def architecture(self) -> dict[str, Any]:
        pyramid = next((part for part in self.neck.modules() if isinstance(part, Pyramid)), None)
        return {
            "encoder": self.encoder.architecture,
            "neck": self.neck_name,
            "pyramid": None if pyramid is None else pyramid.architecture,
            "width": self.width,
        }

    def forward(self, images: Float[Tensor, "B C H W"]) -> Maps:
        """Maps [B, `channels`[i], H / `strides`[i], W / `strides`[i]], fine to coarse; the sides of a pooled
        one are rounded up.

        Args:
            images: normalised, of `image_size`.
        """
        return self.neck(self.encoder.pyramid(images))


def create_backbone(
    encoder: Encoder, *, neck: NeckName = "auto", pyramid: Pyramid | None = None, width: int | None = None
) -> Backbone:
    """Four maps of any encoder.

    Args:
        encoder: built for the size of the images, see `unmask.load.resized`.
        neck: see the module; "auto" is "pretrained" if there is a pyramid, "simple" for encoders of one
            scale, "levels" for RevColV2, else "native".
        pyramid: that was trained together with the encoder; only "pretrained" and "joined" use it.
        width: of all maps, by a 1 x 1 and a 3 x 3 convolution with norms for each; None leaves the neck's own
            widths. "simple" is made of such convolutions: there None is 256.

    Raises:
        ValueError: a neck that does not go with the encoder.
    """
    if neck not in get_args(NeckName):
        raise ValueError(f"neck {neck!r}: possible are {', '.join(get_args(NeckName))}")
    if neck == "auto":
        neck = natural_neck(encoder, pyramid)
    if neck in ("pretrained", "joined"):
        return _pretrained(encoder, neck, pyramid, width)
    if neck == "native":
        return _native(encoder, width)
    return _of_one_scale(encoder, neck, width)


def rebuilt_backbone(architecture: Mapping[str, Any]) -> Backbone:
    """A backbone of the same parts with random weights, from `Backbone.architecture`."""
    encoder = rebuilt(architecture["encoder"])
    pyramid = None if architecture["pyramid"] is None else Pyramid(**architecture["pyramid"])
    return create_backbone(encoder, neck=architecture["neck"], pyramid=pyramid, width=architecture["width"])


def natural_neck(encoder: Encoder, pyramid: Pyramid | None = None) -> NeckName:
    """What "auto" stands for."""
    if pyramid is not None:
        return "pretrained"
    if isinstance(encoder, RevColViTEncoder):
        return "levels"
    return "simple" if len(set(encoder.pyramid_strides)) == 1 else "native"


def _pretrained(encoder: Encoder, neck: str, pyramid: Pyramid | None, width: int | None) -> Backbone:
    if pyramid is None:
        raise ValueError(
            f"neck={neck} is a feature pyramid that was trained together with the encoder (iTPN), and here "
            "is none; use neck=auto"
        )
    if not isinstance(encoder, HiViTEncoder) or encoder.dim != pyramid.architecture["dim"]:
        raise ValueError(
            f"this feature pyramid was trained with a backbone of width {pyramid.architecture['dim']}, not "
            f"with this {type(encoder.model).__name__} of width {encoder.dim}"
        )
    scales = encoder.pyramid_dims
    own: int = pyramid.architecture["width"]
    joined = neck == "joined"
    channels = [own + dim for dim in scales] if joined else [own] * len(scales)
    return Backbone(
        encoder,
        JoinedNeck(pyramid) if joined else PretrainedNeck(pyramid),
        neck_name=neck,
        strides=(*encoder.pyramid_strides, 2 * encoder.pyramid_strides[-1]),
        channels=(*channels, channels[-1]),
        width=width,
    )


def _native(encoder: Encoder, width: int | None) -> Backbone:
    strides, dims = list(encoder.pyramid_strides), list(encoder.pyramid_dims)
    if len(strides) > SCALES or any(b != 2 * a for a, b in pairwise(strides)):
        raise ValueError(
            f"a {type(encoder.model).__name__} has maps at strides {strides}, no scales of its own; use "
            f"neck={natural_neck(encoder)}"
        )
    # HiViT's scales go on as they are; stages of other families were made to be normalised.
    norms = [nn.Identity() if isinstance(encoder, HiViTEncoder) else LayerNorm2d(dim) for dim in dims]
    missing = SCALES - len(strides)
    return Backbone(
        encoder,
        NativeNeck(norms, missing),
        neck_name="native",
        strides=[*strides, *(strides[-1] * 2**more for more in range(1, missing + 1))],
        channels=[*dims, *[dims[-1]] * missing],
        width=width,
    )


def _of_one_scale(encoder: Encoder, neck: str, width: int | None) -> Backbone:
    name, stride = type(encoder.model).__name__, encoder.pyramid_strides[-1]
    levels = isinstance(encoder, RevColViTEncoder)
    if neck == "levels" and (not levels or len(encoder.pyramid_dims) > SCALES):
        raise ValueError(f"neck=levels needs a RevColV2 of at most {SCALES} levels; use neck=simple")
    if neck == "simple" and encoder.idle:
        raise ValueError(
            f"neck=simple uses only the top level of a {name}, and {encoder.idle:,} of its weights do not "
            "lead there; use neck=levels"
        )
    if neck == "simple" and len(set(encoder.pyramid_strides)) == SCALES:
        raise ValueError(f"neck=simple is for encoders without four scales of their own; a {name} has them")
    if neck == "deconvolution" and (levels or len(set(encoder.pyramid_strides)) > 1):
        raise ValueError(f"neck={neck} is for plain ViTs, not for a {name}; use neck={natural_neck(encoder)}")
    if stride % 4:
        raise ValueError(
            f"patches of {stride} pixels cannot be enlarged four times evenly: dense tasks need patches of "
            "a multiple of 4 pixels, such as 16"
        )
    strides = (stride // 4, stride // 2, stride, 2 * stride)
    dim = encoder.pyramid_dims[-1]
    if neck == "simple":
        simple = SimpleNeck(dim)
        return Backbone(
            encoder,
            simple,
            neck_name=neck,
            strides=strides,
            channels=simple.channels,
            width=WIDTH if width is None else width,
        )
    return Backbone(
        encoder,
        DeconvolutionNeck(dim, levels=len(encoder.pyramid_dims), normalise=levels),
        neck_name=neck,
        strides=strides,
        channels=(dim,) * SCALES,
        width=width,
    )
