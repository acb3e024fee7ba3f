"""Tokenizers from a fixture's `constructor`, as `official.py` does it for methods."""

import torch
import torch.nn.functional as F
from einops import rearrange

from tests.golden.official import Case, Quantities, gradients, size, tensors, watch
from unmask.convert.weights import load_official
from unmask.encoders.clip import clip_encoder
from unmask.targets import EncoderTeacher
from unmask.tokenizers.dvae import DVAE, map_pixels, unmap_pixels
from unmask.tokenizers.kmeans import kmeans
from unmask.tokenizers.official import dvae_name, vqkd_name
from unmask.tokenizers.use import histogram
from unmask.tokenizers.vqkd import VQKD


def measure_dvae(case: Case) -> Quantities:
    spec, weights, inputs = case["info"]["constructor"], tensors(case["params"]), tensors(case["inputs"])
    assert spec["encoder_width"] == spec["decoder_width"]
    tokenizer = DVAE(
        image_size=size(spec["image_size"]),
        channels=spec["in_channels"],
        vocabulary=spec["vocabulary"],
        width=spec["encoder_width"],
        decoder_dim=spec["decoder_initial_width"],
        groups=spec["groups"],
        blocks=spec["blocks_per_group"],
    ).eval()
    state = tokenizer.state_dict()
    kept = {name: name for name in state if not name.startswith(("encoder", "decoder", "head", "embedding"))}
    own = {name: state[name] for name in kept}
    names = load_official(tokenizer, weights | own, lambda name: kept.get(name) or dvae_name(name))
    assert tokenizer.stride == spec["stride"]
    images, result = inputs["images"], Quantities()
    watch(tokenizer.encoder.input, result, "out/enc_input")
    for index in range(spec["groups"]):
        watch(tokenizer.encoder.groups[index], result, f"out/enc_group_{index + 1}")
        watch(tokenizer.decoder.groups[index], result, f"out/dec_group_{index + 1}")
    watch(tokenizer.decoder, result, "out/decoder_stats")
    logits, codes = tokenizer.logits(map_pixels(images)), tokenizer.codes(images)
    result |= {
        "out/dec_input": tokenizer.as_map(tokenizer.embed(codes)),
        "out/image_mapped": map_pixels(images),
        "out/logits": logits,
        "out/codes": rearrange(codes, "b (h w) -> b h w", h=tokenizer.grid[0]),
        "out/reconstruction": tokenizer.decode(codes),
        "out/ramp_mapped": map_pixels(inputs["ramp"]),
        "out/ramp_unmapped": unmap_pixels(inputs["ramp"]),
    }
    result = dict(result)  # what the hooks see from here on is not wanted
    drawn = tokenizer.decoder(tokenizer.embedding(logits.softmax(1)))[:, : tokenizer.channels]
    loss = (drawn.sigmoid() - map_pixels(images)).abs().mean() + F.cross_entropy(logits, result["out/codes"])
    return result | {"out/loss": loss} | gradients(loss, tokenizer, names, weights | own, "grad")


def build_teacher(case: Case) -> EncoderTeacher:
    """The fixture has a mean and standard deviation of its own, among the tokenizer's weights."""
    spec, weights = case["info"]["constructor"]["teacher"], tensors(case["params"])
    mean, std = (weights[f"scaling_layer.{name}"].flatten().tolist() for name in ("shift", "scale"))
    encoder, projection = clip_encoder(
        tensors(case["teacher"]), heads=spec["heads"], quick_gelu=spec["activation"] == "quick_gelu"
    )
    return EncoderTeacher(encoder, tap="proj", projection=projection, name="fixture", mean=mean, std=std)


def build_vqkd(case: Case) -> tuple[VQKD, dict[str, str]]:
    """In training mode, with the official name of every weight."""
    spec, weights = case["info"]["constructor"], tensors(case["params"])
    encoder, decoder = spec["encoder"], spec["decoder"]
    assert decoder["width"] == encoder["width"] and decoder["heads"] == encoder["heads"]
    tokenizer = VQKD(
        image_size=size(encoder["image_size"]),
        channels=encoder["in_channels"],
        teacher=build_teacher(case),
        vocabulary=spec["codes"],
        code_dim=spec["code_width"],
        patch_size=encoder["patch_size"],
        dim=encoder["width"],
        depth=encoder["depth"],
        heads=encoder["heads"],
        decoder_depth=decoder["depth"],
        commitment=spec["commitment"],
        decay=spec["decay"],
        kmeans_start=spec["kmeans_init"],
        revive_after=None,
    ).train()
    needed = {name: weight for name, weight in weights.items() if vqkd_name(name)}
    official = set(map(vqkd_name, needed))
    own = {name: value for name, value in tokenizer.state_dict().items() if name not in official}
    names = load_official(tokenizer, needed | own, lambda name: name if name in own else vqkd_name(name))
    assert all(name.startswith(("teacher.", "quantizer.")) or name.endswith("k_bias") for name in own)
    return tokenizer, {theirs: ours for theirs, ours in names.items() if theirs not in own}


def measure_vqkd(case: Case) -> Quantities:
    tokenizer, names = build_vqkd(case)
    weights, inputs = tensors(case["params"]), tensors(case["inputs"])
    images, quantizer, teacher = inputs["images"], tokenizer.quantizer, tokenizer.teacher
    result: Quantities = {"out/embedding_cluster_size_after": weights["quantize.embedding.cluster_size"]}
    hooked: Quantities = {}
    for part in ("encoder", "decoder"):
        watch(getattr(tokenizer, part).model.norm, hooked, f"out/{part}_features")
    losses = tokenizer(images, images)
    result |= gradients(losses["loss"], tokenizer, names, weights, "grad")
    result |= {name: tokens[:, 1:] for name, tokens in hooked.items()}
    vectors = tokenizer.vectors(images)
    codes = tokenizer.codes(images)
    result |= {
        "out/teacher_input": teacher.standardise(images),
        "out/to_quantizer": vectors,
        "out/rec": tokenizer.predict(tokenizer.embed(codes)),
        "out/target": teacher(images).patches,
        "out/codes": codes,
        "out/quantized": tokenizer.as_map(tokenizer.embed(codes)),
        "out/quant_loss": losses["commitment"],
        "out/rec_loss": losses["distance"],
        "out/loss": losses["loss"],
    }
    tokenizer.after_step(1, 1)
    after = quantizer.codebook.clone()
    result |= {"out/codebook_after": after, "out/cluster_size_after": quantizer.use.count.clone()}
    tokenizer.eval()
    codes = tokenizer.codes(images)
    tokenizer(images, images)
    tokenizer.after_step(2, 2)
    chosen = histogram(codes.flatten(), tokenizer.vocabulary)
    means, bins = kmeans(
        inputs["kmeans_samples"], inputs["kmeans_samples"][inputs["kmeans_init_rows"]], spherical=True
    )
    return result | {
        "out/codes_eval_after_update": codes,
        # Officially the statistics take evaluation for training.
        "out/cluster_size_after_eval": torch.lerp(
            result["out/cluster_size_after"], chosen, 1 - quantizer.decay
        ),
        "out/codebook_after_eval_unchanged": torch.tensor(torch.equal(quantizer.codebook, after)),
        "out/kmeans_means": means,
        "out/kmeans_bins": bins.long(),
    }
