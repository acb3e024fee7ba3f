"""iTPN with a teacher and Fast-iTPN, from a fixture's `constructor`."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import nn

from tests.golden.hierarchical import build_hivit, square
from tests.golden.official import Case, Quantities, gradients, hidden_mask, size, tensors, watch
from unmask.convert.names_itpn import fast_itpn_name, itpn_teacher_name
from unmask.convert.weights import load_official
from unmask.encoders.clip import clip_encoder
from unmask.encoders.fast_itpn import FastITPN
from unmask.encoders.hivit_encoder import HiViTEncoder
from unmask.methods.itpn_teacher import ITPNTeacher
from unmask.targets import EncoderTeacher


def given_teacher(case: Case) -> EncoderTeacher:
    """The fixture's CLIP image tower: patch tokens after the last norm, projected."""
    spec = case["info"]["constructor"]["teacher"]
    encoder, projection = clip_encoder(
        tensors(case["teacher"]), heads=spec["heads"], quick_gelu=spec["activation"] == "quick_gelu"
    )
    return EncoderTeacher(
        encoder, mean=OPENAI_CLIP_MEAN, std=OPENAI_CLIP_STD, name="clip", tap="proj", projection=projection
    )


def build_itpn_teacher(case: Case, **options: Any) -> ITPNTeacher:
    spec = case["info"]["constructor"]
    encoder = HiViTEncoder(build_hivit(spec, num_classes=0), architecture={})
    return ITPNTeacher(
        encoder,
        teacher=given_teacher(case),
        mask_ratio=spec["mask_count"] / (encoder.grid[0] * encoder.grid[1]),
        pyramid_dim=spec["neck_width"],
        pyramid_depth=spec["neck_blocks"],
        auxiliary_depth=spec["auxiliary_blocks"],
        **options,
    ).eval()


def measure_itpn_teacher(case: Case) -> Quantities:
    """With the two mistakes of the released code."""
    spec, weights = case["info"]["constructor"], tensors(case["params"])
    method = build_itpn_teacher(case, leaking_laterals=True, squeezed_range=True)
    assert method.branch == spec["auxiliary_after_block"]
    norms = [module for module in method.auxiliary.modules() if isinstance(module, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {spec["auxiliary_norm_eps"]}
    names = load_official(method, weights, itpn_teacher_name)
    inputs = tensors(case["inputs"])
    images, teacher_images = inputs["images"], inputs["teacher_images"]
    mask = hidden_mask(inputs["mask"], method.encoder.grid)
    assert mask.count == method.draw(images).count == spec["mask_count"]
    torch.testing.assert_close(method.target(teacher_images), inputs["teacher_features"])
    losses = method(images, teacher_images, mask=mask)
    states: Quantities = {}
    watch(method.head[0], states, "out/fused_normed")
    assert method.auxiliary_head is not None
    watch(method.auxiliary_head[0], states, "out/aux_normed")
    seen = method.encoder(images, mask, method.token, take=(method.branch,))
    levels = method.pyramid.whole(seen.pyramid)
    result = gradients(losses["loss"], method, names, weights, "grad") | {
        "out/pred": method.predict(seen, mask),
        "out/pred_aux": method.predict_early(seen.taps[0]),
        "out/loss_main": losses["main"],
        "out/loss_aux": losses["auxiliary"],
        "out/loss": losses["loss"],
    }
    for name, level in zip(("P4", "P8", "P16"), levels, strict=True):
        result[f"out/{name}"] = square(level)
    method.squeezed_range = False
    result["out/teacher_features_correct_range"] = method.target(teacher_images)
    return result | states


def measure_fast_itpn(case: Case) -> Quantities:
    """The classifier."""
    spec, weights, inputs = case["info"]["constructor"], tensors(case["params"]), tensors(case["inputs"])
    model = FastITPN(
        img_size=size(spec["image_size"]),
        patch_size=spec["patch_size"],
        in_chans=spec["in_channels"],
        num_classes=spec["classes"],
        embed_dim=spec["width"],
        depths=(*spec["stem_blocks"], spec["depth"]),
        num_heads=spec["heads"],
        stem_mlp_ratio=spec["stem_mlp_ratio"],
        mlp_ratio=spec["mlp_ratio"],
        qkv_bias=spec["query_value_bias"],
        init_values=0.1 if spec["layer_scale"] else None,
    ).eval()
    names = load_official(model, weights, lambda name: fast_itpn_name(name).removeprefix("encoder.model."))
    tokens, maps = model.forward_intermediates(inputs["images"])
    logits = model(inputs["images"])
    loss = F.cross_entropy(logits, inputs["labels"])
    return gradients(loss, model, names, weights, "grad") | {
        "out/stage4": maps[0],
        "out/stage8": maps[1],
        "out/tokens": tokens,
        "out/pooled_normed": model.forward_head(tokens, pre_logits=True),
        "out/logits": logits,
        "out/loss": loss,
    }
