"""Methods that predict codes from a fixture's `constructor`, as `official.py` does it for the others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.golden.official import (
    Case,
    Quantities,
    build_beit,
    gradients,
    hidden_mask,
    size,
    tensors,
    watch,
    watch_beit,
)
from unmask.convert.names_codes import beit_name, cae_name
from unmask.convert.weights import load_official
from unmask.methods import CAE, BEiT, BEiTv2
from unmask.tokenizers import Tokenizer


class GivenCodes(Tokenizer):
    """Knows the codes of the fixture's images and no others."""

    def __init__(self, codes: Tensor, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.given = codes.flatten(1)
        self.image_size = size(spec["image_size"])
        self.stride = spec["patch_size"]
        self.channels = spec["in_channels"]
        self.vocabulary = spec["vocabulary"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise AssertionError("the codes of a fixture are not trained")

    def codes(self, images: Tensor) -> Tensor:
        return self.given

    def embed(self, codes: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(codes, self.vocabulary).float()


def measure_beit(case: Case) -> Quantities:
    spec, weights, inputs = case["info"]["constructor"], tensors(case["params"]), tensors(case["inputs"])
    encoder = build_beit(spec)
    method = BEiT(encoder, tokenizer=GivenCodes(inputs["token_ids"], spec)).eval()
    names = load_official(method, weights, beit_name)
    images = inputs["images"]
    mask = hidden_mask(inputs["mask"], encoder.grid)
    result: Quantities = {}
    watch_beit(encoder, result)
    watch(method.head, result, "out/logits_masked")
    losses = method(images, images, mask=mask)
    return (
        result
        | gradients(losses["loss"], method, names, weights, "grad")
        | {
            "out/labels_masked": mask.masked(method.codes.encode(images)).flatten(),
            "out/loss": losses["loss"],
            "out/mlm_acc": losses["accuracy"],
        }
    )


def keep(outputs: list[Tensor]) -> Any:
    """A hook that keeps what a module returns, every time."""
    return lambda _module, _inputs, output: outputs.append(output)


def measure_beitv2(case: Case) -> Quantities:
    """One set of weights, with the shared and with the separate head."""
    spec, weights, inputs = case["info"]["constructor"], tensors(case["params"]), tensors(case["inputs"])
    result: Quantities = {}
    for head, prefix in (("shared", "grad"), ("separate", "grad_separate")):
        encoder = build_beit(spec)
        method = BEiTv2(
            encoder,
            tokenizer=GivenCodes(inputs["token_ids"], spec),
            head_depth=spec["head_depth"],
            early_depth=spec["early_depth"],
            shared_head=head == "shared",
        ).eval()
        # The norm and layer of the separate head are in the file of both.
        own = {
            name: tensor
            for name, tensor in weights.items()
            if head == "separate" or not name.startswith(("cls_pt_norm", "cls_pt_lm_head"))
        }
        names = load_official(method, own, beit_name)
        images = inputs["images"]
        mask = hidden_mask(inputs["mask"], encoder.grid)
        outputs: dict[str, list[Tensor]] = {"norm": [], "head": []}
        watch_beit(encoder, result)
        for index, block in enumerate(method.further):
            watch(block, result, f"out/cls_pt_block{index}")
        norms = {encoder.model.norm, method.further_norm or encoder.model.norm}
        heads = {method.head, method.further_head or method.head}
        for key, modules in (("norm", norms), ("head", heads)):
            for module in modules:
                module.register_forward_hook(keep(outputs[key]))
        losses = method(images, images, mask=mask)
        result |= gradients(losses["loss"], method, names, own, prefix)
        result |= {
            "out/tokens_norm": outputs["norm"][0],
            f"out/{head}_tokens_norm_cls_pt": outputs["norm"][1],
            "out/logits_main": outputs["head"][0].flatten(0, -2),
            f"out/{head}_logits_cls_pt": outputs["head"][1].flatten(0, -2),
            "out/loss_main": losses["patches"],
            "out/acc_main": losses["accuracy"],
            f"out/{head}_loss_cls_pt": losses["cls"],
            "out/loss" if head == "shared" else "out/separate_loss": losses["loss"],
            "out/labels_masked": mask.masked(method.codes.encode(images)).flatten(),
        }
    return result


def measure_cae(case: Case) -> Quantities:
    """With the official target: a copy of the encoder, renewed after its use; here with other weights."""
    spec, weights, inputs = case["info"]["constructor"], tensors(case["params"]), tensors(case["inputs"])
    encoder = build_beit(spec, position="sincos")
    method = CAE(
        encoder,
        tokenizer=GivenCodes(inputs["token_ids"], spec),
        regressor_depth=spec["regressor_depth"],
        decoder_depth=spec["decoder_depth"],
        decoder_dim=spec["decoder_width"],
        decoder_heads=spec["decoder_heads"],
        align_weight=spec["align_weight"],
        lagging_target=True,
    ).train()
    # Our position tables, before the official ones are loaded over them.
    torch.testing.assert_close(encoder.model.pos_embed.data, weights["encoder.pos_embed"], rtol=0, atol=1e-6)
    names = load_official(method, weights, cae_name)
    images = inputs["images"]
    mask = hidden_mask(inputs["mask"], encoder.grid)
    result: Quantities = {}
    watch(encoder.model.norm, result, "out/latent_visible")
    watch(method.regressor, result, "out/latent_pred")
    watch(method.teacher.module.model.norm, result, "out/latent_target")
    watch(method.decoder, result, "out/decoder_features")
    watch(method.head, result, "out/logits")
    losses = method(images, images, mask=mask)
    result["out/latent_target"] = result["out/latent_target"][:, encoder.prefix :]
    result["out/logits"] = result["out/logits"].flatten(0, -2)
    after = {f"teacher.{name}": tensor for name, tensor in method.teacher.module.model.state_dict().items()}
    return (
        result
        | gradients(losses["loss"], method, names, weights, "grad")
        | {f"out/teacher_after/{name}": tensor for name, tensor in after.items()}
        | {
            "out/loss_main": losses["codes"],
            "out/loss_align": spec["align_weight"] * losses["alignment"],
            "out/loss": losses["loss"],
        }
    )
