"""CMAE from a fixture's `constructor`, one pass in training mode, one step of its moving average."""

import torch
import torch.nn.functional as F

from tests.golden.hierarchical import in_order
from tests.golden.official import Case, Quantities, build_vit, gradients, tensors, watch
from unmask.convert.names_contrast import cmae_name, with_target_norm
from unmask.convert.weights import load_official
from unmask.methods import CMAE


def measure_cmae(case: Case) -> Quantities:
    spec, inputs = case["info"]["constructor"], tensors(case["inputs"])
    weights = with_target_norm(tensors(case["params"]))
    encoder = build_vit(spec)
    method = CMAE(
        encoder,
        mask_ratio=spec["mask_ratio"],
        mask_size=spec["mask_unit"],
        norm_target=spec["normalise_target"],
        decoder_dim=spec["decoder_width"],
        decoder_depth=spec["decoder_depth"],
        decoder_heads=spec["decoder_heads"],
        feature_depth=spec["feature_decoder_depth"],
        projection_dim=spec["projector_width"],
        projection_hidden=spec["projector_hidden"],
        temperature=spec["temperature"],
        reconstruction_weight=spec["reconstruction_weight"],
        contrast_weight=spec["contrastive_weight"],
        momentum=spec["momentum"],
        rounding="mae_official",
    ).train()
    for decoder, name in ((method.decoder, "pixel"), (method.feature_decoder, "feature")):
        official = weights[f"{name}_decoder.decoder_pos_embed"]
        torch.testing.assert_close(decoder.positions, official, rtol=0, atol=1e-6)
    assert method.projector.norm.eps == spec["projector_norm_eps"]
    names = load_official(method, weights, cmae_name, kept=("queue",))
    images, noise = inputs["images"], inputs["noise"]
    mask = method.masking.from_noise(noise, encoder.grid)
    result: Quantities = {}
    watch(method.projector, result, "out/proj_s")
    watch(method.target_projector.module, result, "out/proj_t")
    watch(method.predictor, result, "out/pred_s")
    losses = method(images, inputs["images_target"], mask=mask)
    result |= gradients(losses["loss"], method, names, weights, "grad")
    state = method.state_dict()
    for official, ours in names.items():
        if official.endswith(("running_mean", "running_var")):
            result[f"out/after/{official}"] = state[ours].clone()
    seen = encoder.visible(images, mask)
    assert seen.cls is not None
    # Patches of the official code are in the order of an unstable sort, which it lets us read off.
    restore = torch.from_numpy(case["expected"]["out/ids_restore"]["values"])
    visible = mask.visible_index.shape[1]
    order = restore.argsort(1)[:, :visible].argsort(1).argsort(1)
    query, key = (F.normalize(result[name], dim=1) for name in ("out/pred_s", "out/proj_t"))
    result |= {
        "out/mask": mask.hidden,
        "out/ids_restore": torch.where(mask.hidden == (restore >= visible), restore, -1),
        "out/latent_s": torch.cat([seen.cls[:, None], in_order(seen.patches, order)], dim=1),
        "out/latent_s_sorted": seen.patches,
        "out/ids_keep_sorted": mask.visible_index,
        "out/latent_t": method.target(inputs["images_target"], take=(-1,)).taps[0],
        "out/pred_pixel": method.head(method.decoder(seen, mask)),
        "out/pred_feature": method.feature_head(method.feature_decoder(seen, mask)),
        "out/target_pixel": method.pixels.encode(images),
        "out/logits": query @ key.T / method.temperature,
        "out/loss_rc": losses["reconstruction"],
        "out/loss_ct": losses["contrast"],
        "out/loss": losses["loss"],
    }
    method.after_step(1, 1)
    state = method.state_dict()
    moved = [key for key in case["expected"] if key.startswith("out/ema/")]
    return result | {key: state[names[key.removeprefix("out/ema/")]] for key in moved}
