"""Frozen networks: in use, but among nobody's weights."""

import copy

import pytest
import torch
from safetensors.torch import load_model, save_model
from timm.utils import ModelEmaV3
from torch import nn

from tests.tiny import tiny_encoder
from unmask.errors import UserError
from unmask.targets import EncoderTeacher
from unmask.targets.frozen import Frozen, Standardise, fingerprint

HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def student(name: str = "tiny") -> nn.Module:
    torch.manual_seed(0)
    teacher = EncoderTeacher(tiny_encoder("vit"), name=name, **HALF)
    return nn.ModuleDict({"layer": nn.Linear(2, 2), "teacher": teacher})


def test_a_frozen_network_is_in_no_state_and_no_optimiser() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    frozen = Frozen(network).train()
    assert not frozen.state_dict() and not list(frozen.parameters()) and not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert frozen.double().network[0].weight.dtype == torch.float64
    inputs = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    frozen(inputs).sum().backward()
    assert inputs.grad is not None and inputs.grad.any()


def test_copies_share_the_network() -> None:
    whole = student()
    twin = copy.deepcopy(whole)
    assert twin.teacher.encoder.network is whole.teacher.encoder.network
    average = ModelEmaV3(whole, decay=0.5)
    before = whole.teacher.encoder.network.model.pos_embed.clone()
    average.update(whole)
    assert torch.equal(whole.teacher.encoder.network.model.pos_embed, before)


def test_checkpoints_hold_the_description_and_not_the_weights(tmp_path) -> None:
    whole = student()
    save_model(whole, str(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").stat().st_size < 2000
    missing, unexpected = load_model(student(), str(tmp_path / "a.safetensors"))
    assert not missing and not unexpected
    with pytest.raises(UserError, match="another teacher: its name was tiny, not other"):
        load_model(student("other"), str(tmp_path / "a.safetensors"))


def test_other_weights_under_the_same_name_are_noticed() -> None:
    whole = student()
    saved = whole.state_dict()
    torch.manual_seed(1)
    other = EncoderTeacher(tiny_encoder("vit"), name="tiny", **HALF)
    with pytest.raises(UserError, match="its fingerprint was"):
        nn.ModuleDict({"layer": nn.Linear(2, 2), "teacher": other}).load_state_dict(saved)


def test_the_fingerprint_does_not_depend_on_the_size_of_the_images() -> None:
    model = tiny_encoder("vit_registers").model
    before = fingerprint(model)
    model.set_input_size(img_size=(96, 96))
    assert fingerprint(model) == before
    model.norm.bias.data += 1e-6
    assert fingerprint(model) != before


def test_pixels_are_standardised_and_grey_ones_repeated() -> None:
    standardise = Standardise((0.2, 0.4, 0.6), (0.1, 0.2, 0.5), channels=1)
    grey = torch.full((1, 1, 2, 2), 0.6)
    expected = torch.tensor([4.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(standardise(grey), expected)
    with pytest.raises(ValueError, match="3 channels and cannot see images of 4"):
        Standardise(*HALF.values(), channels=4)
