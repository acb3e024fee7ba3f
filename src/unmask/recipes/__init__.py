"""One function for every published run, and a default for every method."""

from collections.abc import Callable

from unmask.recipes import (
    beit,
    beitv2,
    cae,
    cmae,
    itpn,
    itpn_teacher,
    mae,
    mask_distill,
    milan,
    peco,
    revcolv2,
    simmim,
    tokenizers,
)
from unmask.recipes.base import Recipe, TokenizerRecipe

__all__ = [
    "DEFAULTS",
    "RECIPES",
    "SMALL",
    "TOKENIZER_DEFAULTS",
    "TOKENIZER_OF",
    "TOKENIZER_RECIPES",
    "TOKENIZER_SMALL",
    "Recipe",
    "TokenizerRecipe",
]

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
        beit.beit_vit_base_300ep,
        beit.beit_vit_base_800ep,
        beit.beit_vit_large_800ep,
        peco.peco_vit_base_300ep,
        peco.peco_vit_base_800ep,
        beitv2.beitv2_vit_base_300ep,
        beitv2.beitv2_vit_base_1600ep,
        beitv2.beitv2_vit_large_300ep,
        beitv2.beitv2_vit_large_1600ep,
        cae.cae_vit_base_300ep,
        cae.cae_vit_base_800ep,
        cae.cae_vit_base_1600ep,
        cae.cae_vit_large_1600ep,
        milan.milan_vit_base_400ep,
        milan.milan_vit_large_400ep,
        cmae.cmae_vit_base_300ep,
        cmae.cmae_vit_base_800ep,
        cmae.cmae_vit_base_1600ep,
        itpn.itpn_base_400ep,
        itpn.itpn_base_1600ep,
        itpn.itpn_large_400ep,
        itpn.itpn_large_1600ep,
        itpn_teacher.itpn_base_clip_300ep,
        itpn_teacher.itpn_base_clip_800ep,
        itpn_teacher.itpn_large_clip_300ep,
        revcolv2.revcolv2_base_1600ep,
        revcolv2.revcolv2_large_1600ep,
        mask_distill.mask_distill_vit_base_300ep,
        mask_distill.mask_distill_vit_base_800ep,
    )
}

# Method name -> the recipe for one's own images; takes the encoder's name, which has a default too.
DEFAULTS: dict[str, Callable[..., Recipe]] = {
    "mae": mae.default,
    "simmim": simmim.default,
    "beit": beit.default,
    "peco": peco.default,
    "beitv2": beitv2.default,
    "cae": cae.default,
    "milan": milan.default,
    "cmae": cmae.default,
    "itpn": itpn.default,
    "itpn_teacher": itpn_teacher.default,
    "revcolv2": revcolv2.default,
    "mask_distill": mask_distill.default,
}
# Method name -> its recipe for a few thousand images (docs/small-data.md says how it was found).
SMALL: dict[str, Callable[[], Recipe]] = {
    "mae": mae.small,
    "simmim": simmim.small,
    "beit": beit.small,
    "peco": peco.small,
    "beitv2": beitv2.small,
    "cae": cae.small,
    "milan": milan.small,
    "cmae": cmae.small,
    "itpn": itpn.small,
    "itpn_teacher": itpn_teacher.small,
    "revcolv2": revcolv2.small,
    "mask_distill": mask_distill.small,
}

# The same for tokenizers.
TOKENIZER_RECIPES: dict[str, Callable[[], TokenizerRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        tokenizers.peco_100ep,
        tokenizers.vqkd_base_clip_100ep,
        tokenizers.vqkd_base_clip_1layer_100ep,
        tokenizers.vqkd_base_dino_100ep,
    )
}
TOKENIZER_DEFAULTS: dict[str, Callable[[], TokenizerRecipe]] = {
    "dvae": tokenizers.dvae,
    "peco": tokenizers.peco,
    "vqkd": tokenizers.vqkd,
}
TOKENIZER_SMALL: dict[str, Callable[[], TokenizerRecipe]] = {
    "dvae": tokenizers.small_dvae,
    "peco": tokenizers.small_peco,
    "vqkd": tokenizers.small_vqkd,
}
# Method name -> the tokenizer that is trained for it where none is named; of all others the first.
TOKENIZER_OF = {"beit": "dvae", "peco": "peco", "beitv2": "vqkd", "cae": "dvae"}
