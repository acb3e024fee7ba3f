"""HiViT and iTPN from a fixture's `constructor`, as `official.py` does it for the others."""

from typing import Any

import torch
from torch import Tensor

from tests.golden.official import Case, Quantities, gradients, size, tensors
from unmask.convert.names_itpn import hivit_name, itpn_name, mae_hivit_name
from unmask.convert.weights import load_official
from unmask.encoders.hivit import HiViT
from unmask.encoders.hivit_encoder import HiViTEncoder
from unmask.encoders.units import as_units
from unmask.masking import Mask
from unmask.methods import ITPN, MAE


def build_hivit(spec: dict[str, Any], **options: Any) -> HiViT:
    """The backbone; HiViT's own stages of depth d are 2 d MLPs, which the fixture already counts."""
    return HiViT(
        img_size=size(spec["image_size"]),
        patch_size=spec["patch_size"],
        in_chans=spec["in_channels"],
        embed_dim=spec["width"],
        depths=(*spec["stem_blocks"], spec["depth"]),
        num_heads=spec["heads"],
        stem_mlp_ratio=spec["stem_mlp_ratio"],
        mlp_ratio=spec["mlp_ratio"],
        qkv_bias=spec["qkv_bias"],
        rel_pos=spec["relative_position"] is not None,
        init_values=0.1 if spec.get("layer_scale") else None,
        **options,
    )


def square(units: Tensor) -> Tensor:
    """[B, V, side * side, C] -> [B, V, side, side, C]"""
    side = round(units.shape[2] ** 0.5)
    return units.unflatten(2, (side, side))


def kept_order(mask: Mask, noise: Tensor) -> Tensor:
    """Places of the visible patches, in raster order, sorted by their noise: the official order."""
    return noise.gather(1, mask.visible_index).argsort(1)


def in_order(visible: Tensor, order: Tensor) -> Tensor:
    return visible.take_along_dim(order.reshape(*order.shape, *[1] * (visible.ndim - 2)), 1)


def measure_mae_hivit(case: Case) -> Quantities:
    spec, weights = case["info"]["constructor"], tensors(case["params"])
    encoder = HiViTEncoder(build_hivit(spec, num_classes=0), architecture={})
    method = MAE(
        encoder,
        mask_ratio=spec["mask_ratio"],
        norm_target=spec["normalise_target"],
        decoder_dim=spec["decoder_width"],
        decoder_depth=spec["decoder_depth"],
        decoder_heads=spec["decoder_heads"],
        rounding="mae_official",
    ).eval()
    names = load_official(method, weights, mae_hivit_name)
    inputs = tensors(case["inputs"])
    images, noise = inputs["images"], inputs["noise"]
    mask = method.masking.from_noise(noise, encoder.grid)
    order = kept_order(mask, noise)
    loss = method(images, mask=mask)["loss"]
    seen, whole = encoder.visible(images, mask), encoder(images)
    latent = method.decoder.embed_norm(seen.every_scale())
    return gradients(loss, method, names, weights, "grad") | {
        "out/ids_keep": mask.visible_index.gather(1, order),
        "out/ids_restore": noise.argsort(1).argsort(1),
        "out/mask": mask.hidden,
        "out/stage4": in_order(square(seen.pyramid[0]), order),
        "out/stage8": in_order(square(seen.pyramid[1]), order),
        "out/stage16": in_order(seen.patches, order),
        "out/latent": in_order(latent, order),
        "out/pred": method.head(method.decoder(seen, mask)),
        "out/target": method.pixels.encode(images),
        "out/loss": loss,
        "out/full_stage4": as_units(whole.pyramid[0], encoder.grid),
        "out/full_stage8": as_units(whole.pyramid[1], encoder.grid),
        "out/full_stage16": whole.patches,
    }


def measure_itpn(case: Case) -> Quantities:
    """Pixel pre-training as it was released: without masked feature modelling."""
    spec, weights = case["info"]["constructor"], tensors(case["params"])
    encoder = HiViTEncoder(build_hivit(spec, num_classes=0), architecture={})
    method = ITPN(
        encoder,
        mask_ratio=spec["mask_ratio"],
        norm_target=spec["normalise_target"],
        pyramid_dim=spec["neck_width"],
        pyramid_depth=spec["neck_blocks"],
        decoder_dim=spec["decoder_width"],
        decoder_depth=spec["decoder_depth"],
        decoder_heads=spec["decoder_heads"],
        feature_weight=0.0,
        rounding="mae_official",
        shifted_positions=True,
    ).eval()
    names = load_official(method, weights, itpn_name)
    inputs = tensors(case["inputs"])
    images, noise = inputs["images"], inputs["noise"]
    mask = method.masking.from_noise(noise, encoder.grid)
    order = kept_order(mask, noise)
    loss = method(images, mask=mask)["loss"]
    seen = encoder.visible(images, mask, shifted_positions=True)
    whole = encoder(images)  # the official full pass does not shift
    result = gradients(loss, method, names, weights, "grad") | {
        "out/ids_keep": mask.visible_index.gather(1, order),
        "out/ids_restore": noise.argsort(1).argsort(1),
        "out/mask": mask.hidden,
        "out/main": in_order(seen.patches, order),
        "out/pred": method.head(method.decode(seen, mask)),
        "out/target": method.pixels.encode(images),
        "out/loss": loss,
        "out/full_main": whole.patches,
    }
    assert method.pyramid is not None
    levels, full_levels = method.pyramid(seen.pyramid, mask), method.pyramid.whole(whole.pyramid)
    for name, level, full in zip(("P4", "P8", "P16"), levels, full_levels, strict=True):
        result[f"out/{name}"] = in_order(square(level), order)
        result[f"out/full_{name}"] = square(full)
    return result


def measure_classifier(case: Case) -> Quantities:
    """A fine-tuned iTPN: the backbone with relative positions and its classifier."""
    spec, weights, inputs = case["info"]["constructor"], tensors(case["params"]), tensors(case["inputs"])
    model = build_hivit(spec, num_classes=spec["classes"]).eval()
    names = load_official(model, weights, lambda name: hivit_name(name).removeprefix("encoder.model."))
    features = model.forward_features(inputs["images"])
    logits = model(inputs["images"])
    loss = torch.nn.functional.cross_entropy(logits, inputs["labels"])
    result = gradients(loss, model, names, weights, "grad") | {
        "out/features": features,
        "out/pooled": features.mean(1),
        "out/logits": logits,
        "out/loss": loss,
    }
    for block in model.attention_blocks:
        torch.nn.init.zeros_(block.attn.relative_position_bias_table)
    return result | {
        "out/features_zero_table": model.forward_features(inputs["images"]),
        "out/logits_zero_table": model(inputs["images"]),
    }
