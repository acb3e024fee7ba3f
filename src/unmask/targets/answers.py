"""What frozen networks say of images, so that it can be kept: methods take it in the place of the images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a teacher says of images; float32, without gradient.

    Attributes:
        patches: [B, N, D], in raster order of the teacher's grid.
        cls: [B, D], its class token; None if it has none.
        importance: [B, N], how much the last block's class token looks at every patch, the mean of the heads;
            None unless asked for.
    """

    patches: Float[Tensor, "B N D"]
    cls: Float[Tensor, "B D"] | None = None
    importance: Float[Tensor, "B N"] | None = None


@dataclass(frozen=True, kw_only=True)
class Coded:
    """What a tokenizer says of images.

    Attributes:
        codes: [B, N], in raster order of its grid.
    """

    codes: Int[Tensor, "B N"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a learner asks a frozen network about one of its views.

    Attributes:
        network: what decides the answer beside the images, as plain data.
        ask: from a view, as `forward` takes it, to what it may take in its place; the row of an image depends
            on no other image.
    """

    network: Mapping[str, Any]
    ask: Callable[[Tensor], Taught | Coded]
