"""Layer decay: both conventions in closed form, and which weight lies how deep."""

import pytest
import torch
from torch import nn

from unmask.encoders import create_encoder
from unmask.encoders.depths import block_count, depths
from unmask.engine.layer_decay import layer_scales, layered_groups
from unmask.engine.optim import build_optimiser, build_scheduler
from unmask.recipes.base import Schedule
from unmask.recipes.tasks import TaskOptim

SMALL = {"embed_dim": 16, "num_heads": 2}
ENCODERS = {
    "vit_tiny_patch16_224": {"depth": 4, **SMALL},
    "beit_base_patch16_224": {"depth": 4, **SMALL},
    "eva02_tiny_patch14_224": {"depth": 4, **SMALL, "patch_size": 16},
    "swin_tiny_patch4_window7_224": {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)},
    "swinv2_tiny_window8_256": {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)},
    "itpn_base_patch16_224": {"embed_dim": 32, "depths": (1, 2, 2), "num_heads": 2},
    "fast_itpn_tiny_patch16_224": {"embed_dim": 32, "depths": (1, 2, 2), "num_heads": 2},
    "revcolv2_base_patch16_224": {"embed_dim": 32, "num_heads": 2, "up_columns": 1, "down_columns": 1},
    "revcol_tiny": {"widths": (8, 16, 32, 64), "num_columns": 2, "depths": (1, 1, 1, 1)},
}


@pytest.mark.parametrize("blocks", [4, 12, 24])
def test_last_block_learns_at_one_decay_and_the_head_at_the_full_rate(blocks: int) -> None:
    scales = layer_scales(blocks, 0.65, "per_layer")
    assert scales[-1] == 1 and scales[-2] == 0.65
    assert scales[0] == min(scales) == 0.65 ** (blocks + 1)
    assert list(scales) == sorted(scales) and len(scales) == blocks + 2


def test_equivalent_layers_give_any_depth_the_stem_of_twelve() -> None:
    assert layer_scales(12, 0.6, "equivalent_12_layers") == pytest.approx(layer_scales(12, 0.6, "per_layer"))
    for blocks, last in ((30, 0.8072), (44, 0.8414)):  # iTPN-B with 0.60, -L with 0.55
        scales = layer_scales(blocks, {30: 0.60, 44: 0.55}[blocks], "equivalent_12_layers")
        assert scales[-2] == pytest.approx(last, abs=5e-5) and scales[-1] == 1
        assert scales[0] == pytest.approx({30: 0.60, 44: 0.55}[blocks] ** 13)
        assert max(scales) == 1  # no block learns faster than the head


def test_no_decay_is_one_rate() -> None:
    assert set(layer_scales(7, 1.0, "per_layer")) == {1.0}
    with pytest.raises(ValueError, match="decay=0"):
        layer_scales(7, 0, "per_layer")


@pytest.mark.parametrize("name", ENCODERS)
def test_every_weight_has_a_depth_and_no_step_is_left_out(name: str) -> None:
    encoder = create_encoder(name, image_size=(64, 64), **ENCODERS[name])
    found = depths(encoder)
    blocks = block_count(encoder)
    assert found.keys() == {name for name, _ in encoder.model.named_parameters()}
    assert {depth for depth in found.values() if depth is not None} == set(range(blocks + 1))
    assert found["patch_embed.proj.weight"] == 0
    rest = {name for name, depth in found.items() if depth is None}
    assert all(name.startswith(("norm.", "fc_norm.", "rel_pos_bias", "rope")) for name in rest), rest
    expected = {"swin": 4, "itpn": 5, "fast": 5, "revcolv": 8, "revcol_": 8}
    assert blocks == next((n for start, n in expected.items() if name.startswith(start)), 4)


def test_what_merges_two_stages_lies_with_the_block_before_it() -> None:
    swin = depths(create_encoder("swin_tiny_patch4_window7_224", image_size=(64, 64)))
    assert swin["layers.0.blocks.1.norm1.weight"] == swin["layers.1.downsample.reduction.weight"] == 2
    assert swin["layers.3.blocks.1.norm1.weight"] == 12
    itpn = depths(create_encoder("itpn_base_patch16_224", image_size=(32, 32)))
    assert itpn["blocks.3.reduction.weight"] == itpn["blocks.3.norm.weight"] == 3
    assert itpn["blocks.4.mlp.fc1.weight"] == 4 and itpn["blocks.31.attn.qkv.weight"] == 30
    assert itpn["pos_embed"] == 0  # and not at the full rate


def test_groups_cover_all_weights_once_and_keep_what_is_not_decayed() -> None:
    encoder = create_encoder("vit_tiny_patch16_224", image_size=(64, 64), depth=3, **SMALL)
    model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(16, 5)})
    model["head"].bias.requires_grad_(False)
    found = depths(encoder)
    optim = TaskOptim(layer_decay=0.5, weight_decay=0.1)
    groups = layered_groups(
        model, optim, blocks=3, depth_of=lambda name: found.get(name.removeprefix("encoder.model."))
    )
    inside = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(inside) == sorted(trained)
    assert {group["lr_scale"] for group in groups} == {0.5**4, 0.5**3, 0.5**2, 0.5, 1.0}
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert of[id(encoder.model.pos_embed)]["weight_decay"] == 0
    assert of[id(encoder.model.blocks[2].attn.qkv.weight)]["lr_scale"] == 0.5
    assert of[id(encoder.model.norm.weight)]["lr_scale"] == 1
    assert of[id(model["head"].weight)] | {"params": 0} == {"params": 0, "lr_scale": 1.0, "weight_decay": 0.1}


@pytest.mark.parametrize("kind", ["cosine", "poly"])
def test_rates_of_all_depths_move_together(kind: str) -> None:
    model = nn.ModuleDict({"stem": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    optim = TaskOptim(lr=0.8, layer_decay=0.5)
    groups = layered_groups(model, optim, blocks=1, depth_of={"stem.weight": 0, "stem.bias": 0}.get)
    optimiser = build_optimiser(model, optim, groups)
    schedule = Schedule(epochs=10, kind=kind, warmup_steps=2, power=2.0)
    scheduler = build_scheduler(optimiser, optim, schedule, 1)
    expected = {
        "poly": [0, 0.4] + [0.8 * (1 - t / 8) ** 2 for t in range(8)],
        "cosine": [0, 0.4] + [0.4 * (1 + torch.tensor(t / 8 * torch.pi).cos().item()) for t in range(8)],
    }
    for step, rate in enumerate(expected[kind]):
        scheduler.step_update(step)
        assert {group["lr_scale"]: group["lr"] for group in optimiser.param_groups} == pytest.approx(
            {0.25: rate / 4, 1.0: rate}, abs=1e-7
        )
