"""RevCol from a fixture's `constructor`, as `official.py` does it for the others."""

import torch

from tests.golden.official import Case, Quantities, gradients, size, tensors
from unmask.convert.names_revcol import idle, revcol_name
from unmask.convert.weights import load_official
from unmask.encoders.revcol import RevCol


def measure_revcol(case: Case) -> Quantities:
    """In training mode, in which nothing is random here, because only then memory is saved."""
    spec, inputs = case["info"]["constructor"], tensors(case["inputs"])
    weights = {name: weight for name, weight in tensors(case["params"]).items() if not idle(name)}
    model = RevCol(
        img_size=size(spec["image_size"]),
        in_chans=spec["in_channels"],
        num_classes=spec["classes"],
        widths=spec["widths"],
        depths=spec["depths"],
        num_columns=spec["columns"],
        kernel_size=spec["kernel_size"],
        memory_saver="invert",
    ).train()
    assert all(
        block.mlp.fc1.out_features == spec["mlp_ratio"] * block.mlp.fc2.out_features
        for column in model.columns
        for level in column.levels
        for block in level.blocks
    )
    names = load_official(model, weights, revcol_name)
    result: Quantities = {}
    for prefix, reversible in (("grad_plain", False), ("grad", True)):
        model.set_grad_checkpointing(reversible)
        logits = model(inputs["images"])
        loss = torch.nn.functional.cross_entropy(logits, inputs["labels"])
        result |= gradients(loss, model, names, weights, prefix)
        result["out/logits" if reversible else "out/logits_plain"] = logits
    result["out/loss"] = loss
    stem = model.stem(inputs["images"])
    result["out/stem"] = stem
    for number, maps in enumerate(model.states(stem)):
        result |= {f"out/column{number}_level{level}": own for level, own in enumerate(maps)}
    return result
