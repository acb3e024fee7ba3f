"""From an encoder's features to what is predicted: the four heads of SimMIM's ablation (table 2), BEiT's."""

from typing import Literal

from einops import rearrange
from jaxtyping import Float
from timm.models.swin_transformer import SwinTransformerStage
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_

from unmask.encoders.base import Encoder
from unmask.encoders.initialise import narrow_linear
from unmask.encoders.swin import fitting_window
from unmask.masking import Grid
from unmask.patches import from_patches

HeadName = Literal["linear", "mlp", "swin_tiny", "swin_base"]

# Width of the coarsest stage, blocks of every stage; a head of attention has 32 channels.
INVERSE_SWINS = {"swin_tiny": (768, (2, 6, 2, 2)), "swin_base": (1024, (2, 18, 2, 2))}
LARGEST_WINDOW = 7
LOCAL_HEADS = ("linear", "mlp")  # of each feature on its own


def create_head(name: HeadName, encoder: Encoder, *, outputs: int, cell: int) -> nn.Module:
    """A module from features [B, N, D] to a map [B, outputs, H / cell, W / cell].

    Args:
        outputs: numbers predicted for a cell.
        cell: pixels along the side of a cell, a divisor of the encoder's stride.

    Raises:
        ValueError: a head that cannot predict cells of this size from this encoder's features.
    """
    grid, stride = encoder.feature_grid, encoder.stride
    if name == "linear":
        return LinearHead(encoder.dim, grid, outputs=outputs, side=stride // cell)
    if name == "mlp":
        return MLPHead(encoder.dim, grid, outputs=outputs, side=stride // cell)
    width, depths = INVERSE_SWINS[name]
    enlarged = 2 ** (len(depths) - 1)
    if stride % (enlarged * cell):
        raise ValueError(
            f"head={name} enlarges the grid of features {enlarged} times, but a feature of {stride} pixels "
            f"is {stride // cell} places of the target wide: use head=linear or head=mlp, or a finer "
            "method.target_size"
        )
    return InverseSwin(
        encoder.dim, grid, outputs=outputs, side=stride // cell // enlarged, width=width, depths=depths
    )


class CodeHead(nn.Linear):
    """Logits of all codes from a feature, drawn as all of BEiT's matrices are."""

    def __init__(self, width: int, codes: int) -> None:
        super().__init__(width, codes)
        self.apply(narrow_linear)


class LinearHead(nn.Linear):
    """One matrix; the outputs of a feature are the cells of its place, in (output, row, column) order, which
    is that of PixelShuffle.

    Args:
        grid: rows and columns of features.
        side: cells along the side of a feature.
    """

    def __init__(self, width: int, grid: Grid, *, outputs: int, side: int) -> None:
        super().__init__(width, outputs * side**2)
        self.grid = grid
        self.side = side

    def forward(self, features: Float[Tensor, "B N D"]) -> Float[Tensor, "B E h w"]:
        return from_patches(super().forward(features), self.grid, self.side, "c p q")


class MLPHead(nn.Module):
    """Two layers with a GELU between them; the hidden one is as wide as the features."""

    def __init__(self, width: int, grid: Grid, *, outputs: int, side: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.activation = nn.GELU()
        self.last = LinearHead(width, grid, outputs=outputs, side=side)

    def forward(self, features: Float[Tensor, "B N D"]) -> Float[Tensor, "B E h w"]:
        return self.last(self.activation(self.hidden(features)))


class InverseSwin(nn.Module):
    """A Swin that grows instead of shrinking: between its stages the map doubles and the width halves.

    The paper names only "inverse Swin-T" and "inverse Swin-B" with their total parameters; the layout here is
    ours and comes within 1 % of them: a Swin's stages in reverse order, each followed by a split (norm,
    matrix to twice the width, PixelShuffle), a matrix in front where widths differ, norm and matrix at the
    end.

    Args:
        encoder_dim: width of the features.
        grid: rows and columns of features.
        side: cells along the side of a place on the finest map.
        width: of the coarsest stage.
        depths: blocks of every stage, coarsest first.
    """

    def __init__(
        self,
        encoder_dim: int,
        grid: Grid,
        *,
        outputs: int,
        side: int,
        width: int,
        depths: tuple[int, ...],
    ) -> None:
        super().__init__()
        widths = [width // 2**stage for stage in range(len(depths))]
        grids = [(grid[0] * 2**stage, grid[1] * 2**stage) for stage in range(len(depths))]
        window = fitting_window(grids[-1], len(depths), LARGEST_WINDOW)
        self.grid = grid
        self.embed = nn.Linear(encoder_dim, width) if encoder_dim != width else nn.Identity()
        self.stages = nn.ModuleList(
            SwinTransformerStage(
                own,
                own,
                input_resolution=place,
                depth=depth,
                downsample=False,
                num_heads=max(1, own // 32),
                window_size=window,
            )
            for own, place, depth in zip(widths, grids, depths, strict=True)
        )
        self.splits = nn.ModuleList(_Split(own) for own in widths[:-1])
        self.norm = nn.LayerNorm(widths[-1])
        self.last = LinearHead(widths[-1], grids[-1], outputs=outputs, side=side)
        self.apply(_initialise)

    def forward(self, features: Float[Tensor, "B N D"]) -> Float[Tensor, "B E h w"]:
        x = rearrange(self.embed(features), "b (h w) d -> b h w d", h=self.grid[0])
        x = self.stages[0](x)
        for split, stage in zip(self.splits, self.stages[1:], strict=True):
            x = stage(split(x))
        return self.last(rearrange(self.norm(x), "b h w d -> b (h w) d"))


class _Split(nn.Module):
    """Each place becomes 2 x 2 places of half the width: the reverse of Swin's patch merging."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expansion = nn.Linear(width, 2 * width, bias=False)

    def forward(self, x: Float[Tensor, "B h w D"]) -> Float[Tensor, "B _ _ _"]:
        return rearrange(self.expansion(self.norm(x)), "b h w (d p q) -> b (h p) (w q) d", p=2, q=2)


def _initialise(module: nn.Module) -> None:
    """As Swin: matrices normal(.02), biases 0."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            zeros_(module.bias)
