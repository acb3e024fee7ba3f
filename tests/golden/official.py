"""Our models from a fixture's `constructor`, with the official weights, and the quantities that it lists.

Nothing here knows a size: everything follows from the JSON. Each `measure_*` returns a dictionary with the
keys of the fixture's `expected` ("out/...", "grad/...") and, under the prefixes of `grad_l2`, the gradient of
every parameter by its official name.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from einops import rearrange
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unmask.convert.names import mae_name, simmim_name
from unmask.convert.weights import load_official
from unmask.decoders import ViTDecoder
from unmask.encoders.swin import SwinEncoder
from unmask.encoders.vit import BeitEncoder, ViTEncoder, beit_encoder
from unmask.masking import Mask
from unmask.methods import MAE, SimMIM
from unmask.patches import from_patches

Case = dict[str, Any]
Quantities = dict[str, Tensor]


def size(value: int | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def watch(module: nn.Module, into: Quantities, key: str) -> None:
    module.register_forward_hook(lambda _module, _inputs, output: into.__setitem__(key, output.detach()))


def gradients(
    loss: Tensor, module: nn.Module, names: dict[str, str], shapes: dict[str, Tensor], prefix: str
) -> Quantities:
    parameters = {ours: p for ours, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    by_name = dict(zip(parameters, found, strict=True))
    return {
        f"{prefix}/{official}": by_name[ours].reshape(shapes[official].shape)
        for official, ours in names.items()
        if by_name.get(ours) is not None
    }


def norm_layer(spec: dict[str, Any]) -> Any:
    return partial(nn.LayerNorm, eps=spec["norm_eps"])


# MAE


def build_vit(spec: dict[str, Any]) -> ViTEncoder:
    model = VisionTransformer(
        img_size=size(spec["image_size"]),
        patch_size=spec["patch_size"],
        in_chans=spec["in_channels"],
        num_classes=0,
        embed_dim=spec["width"],
        depth=spec["depth"],
        num_heads=spec["heads"],
        mlp_ratio=spec["mlp_ratio"],
        qkv_bias=spec["qkv_bias"],
        class_token=spec["class_token"],
        global_pool="avg",
        fc_norm=False,
        norm_layer=norm_layer(spec),
    )
    position = "sincos" if "sin-cos" in spec["position"] else "learned"
    return ViTEncoder(model, architecture={}, position=position)


def measure_mae(case: Case) -> Quantities:
    spec, weights = case["info"]["constructor"], tensors(case["params"])
    method = MAE(
        build_vit(spec),
        mask_ratio=spec["mask_ratio"],
        norm_target=spec["normalise_target"],
        decoder_dim=spec["decoder_width"],
        decoder_depth=spec["decoder_depth"],
        decoder_heads=spec["decoder_heads"],
        rounding="mae_official",
    )
    # The official model shares two choices between encoder and decoder; here they are fixed to the paper's.
    method.decoder = ViTDecoder(
        spec["width"],
        method.encoder.grid,
        cls=spec["class_token"],
        dim=spec["decoder_width"],
        depth=spec["decoder_depth"],
        heads=spec["decoder_heads"],
        mlp_ratio=spec["mlp_ratio"],
        norm_eps=spec["norm_eps"],
    )
    method.eval()
    # Our position tables, before the official ones are loaded over them.
    torch.testing.assert_close(method.decoder.positions, weights["decoder_pos_embed"], rtol=0, atol=1e-6)
    if "sin-cos" in spec["position"]:
        own = method.encoder.model.pos_embed.data
        torch.testing.assert_close(own, weights["pos_embed"], rtol=0, atol=1e-6)
    names = load_official(method, weights, mae_name)
    model = method.encoder.model
    inputs = tensors(case["inputs"])
    images, noise = inputs["images"], inputs["noise"]
    mask = method.masking.from_noise(noise, method.encoder.grid)
    states: Quantities = {}
    watch(model.patch_embed, states, "out/patch_embed")
    watch(model.blocks[0], states, "out/enc_block0")
    watch(model.norm, states, "out/latent")
    watch(method.decoder.blocks[0], states, "out/dec_block0")
    loss = method(images, mask=mask)["loss"]
    result = states | gradients(loss, method, names, weights, "grad")

    # The official encoder keeps its patches in order of their noise, ours in raster order.
    visible = mask.visible_index
    by_noise = noise.gather(1, visible).argsort(1)
    prefix = model.num_prefix_tokens
    for key in ("out/enc_block0", "out/latent"):
        head, patches = result[key][:, :prefix], result[key][:, prefix:]
        result[key] = torch.cat([head, patches.take_along_dim(by_noise[..., None], 1)], 1)
    seen = method.encoder.visible(images, mask)
    prediction = method.head(method.decoder(seen, mask))
    result |= {
        "out/mask": mask.hidden,
        "out/ids_keep": visible.gather(1, by_noise),
        "out/ids_restore": noise.argsort(1).argsort(1),
        "out/pred": prediction,
        "out/pred_image": from_patches(prediction, method.encoder.grid, method.encoder.patch_size),
        "out/loss": loss,
    }
    method.pixels = replace(method.pixels, normalised=True)
    result["out/target_norm"] = method.pixels.encode(images)
    result["out/loss_per_patch_norm"] = (prediction - result["out/target_norm"]).square().mean(-1)
    method.pixels = replace(method.pixels, normalised=False)
    result["out/target_raw"] = method.pixels.encode(images)
    result["out/loss_raw_pixels"] = method(images, mask=mask)["loss"]
    result |= gradients(result["out/loss_raw_pixels"], method, names, weights, "grad_raw_pixels")
    return result


# BEiT's encoder, which is also that of SimMIM's ViT


def build_beit(spec: dict[str, Any], position: str = "learned") -> BeitEncoder:
    relative = spec.get("relative_position")
    model = Beit(
        img_size=size(spec["image_size"]),
        patch_size=spec["patch_size"],
        in_chans=spec["in_channels"],
        num_classes=0,
        global_pool="token",
        embed_dim=spec["width"],
        depth=spec["depth"],
        num_heads=spec["heads"],
        mlp_ratio=spec["mlp_ratio"],
        qkv_bias=spec["query_value_bias"],
        init_values=0.1 if spec["layer_scale"] else None,
        use_abs_pos_emb=spec["position"] is not None,
        use_rel_pos_bias=relative is not None and relative != "shared",
        use_shared_rel_pos_bias=relative == "shared",
        norm_layer=norm_layer(spec),
    )
    return beit_encoder(model, architecture={}, position=position)


def watch_beit(encoder: BeitEncoder, result: Quantities) -> None:
    watch(encoder.model.patch_embed, result, "out/patch_embed")
    watch(encoder.model.norm, result, "out/tokens_norm")
    for index, block in enumerate(encoder.model.blocks):
        watch(block, result, f"out/block{index}")
    if encoder.model.rel_pos_bias is not None:
        watch(encoder.model.rel_pos_bias, result, "out/rel_pos_bias")


def hidden_mask(hidden: Tensor, grid: tuple[int, int]) -> Mask:
    hidden = hidden.flatten(1)
    counts = hidden.sum(1)
    if (counts == counts[0]).all():
        return Mask.of(hidden, grid, int(counts[0]))
    return Mask.ragged(hidden, grid)


# SimMIM


def build_swin(spec: dict[str, Any]) -> SwinEncoder:
    family = SwinTransformer if spec["version"] == 1 else SwinTransformerV2
    versioned = {"pretrained_window_sizes": spec["pretrained_windows"]} if spec["version"] == 2 else {}
    model = family(
        img_size=size(spec["image_size"]),
        patch_size=spec["patch_size"],
        in_chans=spec["in_channels"],
        num_classes=0,
        embed_dim=spec["width"],
        depths=tuple(spec["depths"]),
        num_heads=tuple(spec["heads"]),
        window_size=spec["window"],
        mlp_ratio=spec["mlp_ratio"],
        qkv_bias=spec["qkv_bias"],
        drop_path_rate=0.0,
        norm_layer=norm_layer(spec),
        **versioned,
    )
    return SwinEncoder(model, architecture={})


def watch_swin(encoder: SwinEncoder, result: Quantities) -> None:
    flat = "b h w c -> b (h w) c"
    stages = encoder.model.layers

    def keep(module: nn.Module, key: str) -> None:
        module.register_forward_hook(
            lambda _module, _inputs, output: result.__setitem__(key, rearrange(output.detach(), flat))
        )

    keep(encoder.model.patch_embed, "out/patch_embed")
    for index, block in enumerate(stages[0].blocks):
        keep(block, f"out/stage0_block{index}")
    for index, stage in enumerate(stages):
        # "After its patch merging": what the next stage's downsample returns.
        last = index == len(stages) - 1
        keep(stage.blocks[-1] if last else stages[index + 1].downsample, f"out/stage{index}")


def measure_simmim(case: Case) -> Quantities:
    spec, weights, inputs = case["info"]["constructor"], tensors(case["params"]), tensors(case["inputs"])
    vit = "version" not in spec
    encoder = build_beit(spec) if vit else build_swin(spec)
    assert encoder.stride == spec["decoder_stride"]
    window = spec.get("normalise_target_window")
    method = SimMIM(
        encoder, mask_ratio=spec["mask_ratio"], mask_size=spec["mask_unit"], local_window=window
    ).eval()
    names = load_official(method, weights, simmim_name)
    images = inputs["images"]
    mask = hidden_mask(inputs["mask"], encoder.grid)
    # The stored mask hides as many units as our sampler would.
    assert mask.count == method.draw(images).count
    result: Quantities = {}
    (watch_beit if vit else watch_swin)(encoder, result)
    loss = method(images, mask=mask)["loss"]
    features = encoder(images, mask, method.token).patches
    result |= {
        "out/features": rearrange(features, "b (h w) d -> b d h w", h=encoder.feature_grid[0]),
        "out/pred": method.head(features),
        "out/loss": loss,
    }
    result |= gradients(loss, method, names, weights, "grad")
    if window is not None:
        result["out/target_norm"] = method.target(images, mask)
        method.local_window = None
        result["out/loss_raw_pixels"] = method(images, mask=mask)["loss"]
        result |= gradients(result["out/loss_raw_pixels"], method, names, weights, "grad_raw_pixels")
    if not vit and spec["version"] == 2:
        attention = encoder.model.layers[0].blocks[0].attn
        table = attention.cpb_mlp(attention.relative_coords_table)
        result["out/cpb_table_stage0_block0"] = 16 * table.flatten(0, -2).sigmoid()
    return result
