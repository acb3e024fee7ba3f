"""How deep a weight lies in an encoder: the order of its blocks, counted from the image."""

import re

from unmask.encoders.base import Encoder

# Where blocks stand in the name of a weight, in the order in which they are computed.
_BLOCKS = re.compile(
    r"blocks\.(?P<block>\d+)\."  # ViT, BEiT, EVA, HiViT
    r"|layers\.(?P<stage>\d+)\.blocks\.(?P<of_stage>\d+)\."  # Swin
    r"|(?P<part>columns|up|down)\.(?P<column>\d+)\.(?:levels|gammas)\.(?P<level>\d+)"  # RevCol
)
_STEM = ("patch_embed.", "cls_token", "reg_token", "pos_embed", "mask_token", "norm_pre.")
_PARTS = ("columns", "up", "down")

Place = tuple[int, ...]


def depths(encoder: Encoder) -> dict[str, int | None]:
    """The depth of every weight of `encoder.model`, by name.

    The patch embedding and what is added to it (positions, class token) lie at 0, the k-th block at k. What
    makes an image smaller between two stages (a Swin's downsampling, HiViT's merging) lies as deep as the
    block before it, as in Swin's own code; a level of a RevCol column is one block. None of what comes after
    the last block, the final norm, or serves all blocks (a shared relative position bias): that learns at the
    rate of the head (BEiT, MAE).
    """
    names = [name for name, _ in encoder.model.named_parameters()]
    places = {name: _place(name) for name in names}
    merging = {places[name] for name in names if ".reduction." in name and name.startswith("blocks.")}
    blocks = sorted({place for place in places.values() if place is not None} - merging)
    counted = {place: number for number, place in enumerate(blocks, start=1)}

    def depth(name: str) -> int | None:
        if name.startswith(_STEM):
            return 0
        place = places[name]
        if place is not None:
            return counted.get(place) or _before(place, counted)
        if found := re.match(r"layers\.(\d+)\.downsample\.", name):
            return _before((int(found[1]),), counted)
        return None

    return {name: depth(name) for name in names}


def block_count(encoder: Encoder) -> int:
    """Blocks as `depths` counts them; a head lies one deeper."""
    return max(depth for depth in depths(encoder).values() if depth is not None)


def _place(name: str) -> Place | None:
    """Where the block of a weight stands; None of what belongs to no block."""
    found = _BLOCKS.match(name)
    if found is None:
        return None
    if found["block"]:
        return (int(found["block"]),)
    if found["stage"]:
        return int(found["stage"]), int(found["of_stage"])
    return _PARTS.index(found["part"]), int(found["column"]), int(found["level"])


def _before(place: Place, counted: dict[Place, int]) -> int:
    """The depth of the last block in front of a place; 0 if it is the stem."""
    return max((depth for other, depth in counted.items() if other < place), default=0)
