"""One function for every published run, and a default for every method."""

from collections.abc import Callable

from unmask.recipes import itpn, mae, mask_distill, simmim
from unmask.recipes.base import Recipe

__all__ = ["DEFAULTS", "RECIPES", "SMALL", "Recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        mae.mae_vit_base_800ep,
        mae.mae_vit_base_1600ep,
        mae.mae_vit_large_800ep,
        mae.mae_vit_large_1600ep,
        mae.mae_vit_huge_1600ep,
        mae.mae_hivit_base_1600ep,
        simmim.simmim_swin_base_100ep,
        simmim.simmim_swin_base_800ep,
        simmim.simmim_swin_large_800ep,
        simmim.simmim_vit_base_800ep,
        simmim.simmim_swinv2_base_800ep,
        simmim.simmim_swinv2_large_800ep,
        simmim.simmim_swinv2_huge_800ep,
        simmim.simmim_swinv2_giant_800ep,
        itpn.itpn_base_400ep,
        itpn.itpn_base_1600ep,
        itpn.itpn_large_400ep,
        itpn.itpn_large_1600ep,
        mask_distill.mask_distill_vit_base_300ep,
        mask_distill.mask_distill_vit_base_800ep,
    )
}

# Method name -> the recipe for one's own images; takes the encoder's name, which has a default too.
DEFAULTS: dict[str, Callable[..., Recipe]] = {
    "mae": mae.default,
    "simmim": simmim.default,
    "itpn": itpn.default,
    "mask_distill": mask_distill.default,
}
# Method name -> its recipe for a few thousand images (docs/small-data.md says how it was found).
SMALL: dict[str, Callable[[], Recipe]] = {
    "mae": mae.small,
    "simmim": simmim.small,
    "itpn": itpn.small,
    "mask_distill": mask_distill.small,
}
