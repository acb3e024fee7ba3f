"""The classifier is the encoder and a matrix, an ordinary timm model, and gives the encoder back."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import ENCODERS, tiny_encoder
from unmask.encoders import Encoder
from unmask.errors import UserError
from unmask.evaluate.finetune.classifier import (
    bare_encoder,
    build_classifier,
    classifier_architecture,
    pools_freely,
)


def build(
    encoder: Encoder, pool: Any = "auto", known: dict[str, Tensor] | None = None, **options: Any
) -> tuple[nn.Module, dict[str, Any]]:
    architecture = classifier_architecture(encoder, classes=5, pool=pool, options=options)
    return build_classifier(encoder, architecture, head_std=0.1, known=known or {}), architecture


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def encoded(name: str) -> Encoder:
    torch.manual_seed(0)
    encoder = tiny_encoder(name).eval()
    for parameter in encoder.parameters():  # norms and biases that differ from their first values
        parameter.data += 0.02 * torch.randn_like(parameter)
    return encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_it_is_the_encoder_and_a_matrix(name: str) -> None:
    encoder = encoded(name)
    model, architecture = build(encoder)
    head = model.get_classifier()
    with torch.no_grad():
        features = encoder(images()).pooled("mean")
        if not pools_freely(encoder) and "swin" not in name:
            features = model.fc_norm(features)  # fresh: their encoders have no norm
        torch.testing.assert_close(model.eval()(images()), head(features), rtol=1e-4, atol=1e-5)
    bare = bare_encoder(model, architecture, encoder)
    with torch.no_grad():
        torch.testing.assert_close(bare(images()).patches, encoder(images()).patches)
    assert bare.architecture == encoder.architecture


@pytest.mark.parametrize("name", ["vit", "beit_shared", "eva02"])
def test_poolings_of_vits(name: str) -> None:
    encoder = encoded(name)
    features = encoder(images())
    token, _ = build(encoder, "cls")
    with torch.no_grad():
        torch.testing.assert_close(
            token.eval()(images()), token.get_classifier()(features.cls), rtol=1e-4, atol=1e-5
        )
    after, architecture = build(encoder, "mean_norm")
    names = {name for name, _ in after.named_parameters()}
    assert "fc_norm.weight" in names and "norm.weight" not in names
    after.fc_norm.weight.data.fill_(3)
    bare = bare_encoder(after, architecture, encoder)  # the norm after the mean becomes its own
    assert torch.equal(bare.model.norm.weight, torch.full((48,), 3.0))


@pytest.mark.parametrize(
    ("name", "pool"), [("swin", "cls"), ("hivit", "mean_norm"), ("vit_no_class_token", "cls")]
)
def test_impossible_poolings_are_refused(name: str, pool: Any) -> None:
    with pytest.raises(UserError, match=f"task.pool={pool}"):
        build(tiny_encoder(name), pool)


def test_idle_levels_do_not_learn() -> None:
    encoder = encoded("revcolv2")
    model, _ = build(encoder)
    frozen = sum(one.numel() for one in model.parameters() if not one.requires_grad)
    assert frozen >= encoder.idle > 0
    answer = model.train()(images()).sum()
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    answer.backward()
    assert all(one.grad is not None for one in trained.values())
    assert "up.0.levels.0.fuse.weight" in trained


def test_relative_positions_can_be_switched_on_and_change_nothing_at_first() -> None:
    encoder = encoded("hivit")
    off, _ = build(encoder)
    on, architecture = build(encoder, rel_pos=True)
    on.head.load_state_dict(off.head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(on.eval()(images()), off.eval()(images()))
    names = {name for name, one in on.named_parameters() if one.requires_grad}
    assert any("relative_position_bias_table" in name for name in names)
    assert bare_encoder(on, architecture, encoder).architecture["rel_pos"] is True


def test_options_that_do_not_fit_are_named() -> None:
    encoder = encoded("vit")
    with pytest.raises(UserError, match="drop_pathe"):
        build(encoder, drop_pathe=0.1)
    with pytest.raises(UserError, match="do not fit these encoder settings"):
        build(encoder, depth=3)


def test_a_known_head_is_kept() -> None:
    encoder = encoded("vit")
    first, _ = build(encoder, "mean_norm")
    first.fc_norm.weight.data.fill_(2)
    known = {name: one for name, one in first.state_dict().items() if name.startswith(("head.", "fc_norm."))}
    again, _ = build(encoder, "mean_norm", known)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images()), first.eval()(images()))
    without, _ = build(encoder, "mean", known)  # has no norm after the mean
    assert torch.equal(without.head.weight, first.head.weight)
