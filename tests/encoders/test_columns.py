"""Reversible columns: the inverse, gradients by every way to save memory, and what is kept for them."""

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.revcol_memory import saved_bytes
from unmask.encoders.columns import SMALLEST_FACTOR, Column, MemorySaver, run_columns
from unmask.encoders.revcol import RevCol
from unmask.encoders.revcolv2 import RevColViT

SAVERS: tuple[MemorySaver, ...] = ("checkpoint", "invert", "chain")
every_saver = pytest.mark.parametrize("saver", SAVERS)


def maps(columns: int = 3, **options: Any) -> RevCol:
    """Blocks that matter: ConvNeXt's begin as the identity, almost."""
    widths = (8, 12, 16)
    return RevCol(32, widths=widths, depths=(1, 1, 1), num_columns=columns, layer_scale=0.5, **options)


def tokens(up: int = 3, down: int = 3, **options: Any) -> RevColViT:
    return RevColViT(
        32, 8, num_classes=0, embed_dim=16, num_heads=2, up_columns=up, down_columns=down, **options
    )


def awake(model: nn.Module) -> nn.Module:
    """In float64, every weight and factor moved off its initial value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.double()


def all_levels(model: RevCol | RevColViT, images: Tensor) -> list[Tensor]:
    return model.forward_intermediates(images)[1]


def gradients(model: RevCol | RevColViT, images: Tensor, saver: MemorySaver | None) -> list[Tensor | None]:
    """Of a loss that weighs every level otherwise, by every parameter and the images."""
    images = images.clone().requires_grad_()
    model.set_grad_checkpointing(saver is not None)
    model.memory_saver = saver or "checkpoint"
    loss = sum(
        (number + level).square().mean() for number, level in enumerate(all_levels(model, images), start=1)
    )
    return list(torch.autograd.grad(loss, [images, *model.parameters()], allow_unused=True))


def columns_of(model: RevCol | RevColViT) -> list[Sequence[Column]]:
    return [list(model.columns)] if isinstance(model, RevCol) else [list(model.up), list(model.down)]


@pytest.mark.parametrize("build", [maps, tokens])
def test_the_inverse_gives_back_the_column_before(build: Any) -> None:
    torch.manual_seed(0)
    model = awake(build())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    entry = model.stem(images) if isinstance(model, RevCol) else model.patch_embed(images)
    first, *others = columns_of(model)[0]
    states = first(entry)
    for column in others:
        after = column(entry, *states)
        for state, back in zip(states, column.inverse(entry, *after), strict=True):
            torch.testing.assert_close(back, state, rtol=0, atol=1e-12)
        states = after
    with pytest.raises(ValueError, match="no column is before it"):
        first.inverse(entry, *states)


def test_decoder_columns_are_inverted_from_the_bottom() -> None:
    torch.manual_seed(0)
    column = awake(tokens()).down[1]
    old = tuple(torch.randn(2, 16, 16, dtype=torch.float64) for _ in range(4))  # top level first
    entry = torch.randn(2, 16, 16, dtype=torch.float64)
    for state, back in zip(old, column.inverse(entry, *column(entry, *old)), strict=True):
        torch.testing.assert_close(back, state, rtol=0, atol=1e-12)


@every_saver
@pytest.mark.parametrize("build", [maps, tokens])
def test_gradients_are_those_of_plain_autograd(build: Any, saver: MemorySaver) -> None:
    torch.manual_seed(0)
    model = awake(build()).train()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    plain, saved = gradients(model, images, None), gradients(model, images, saver)
    assert sum(gradient is not None for gradient in plain) > 40
    for expected, found in zip(plain, saved, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None:
            assert found is not None
            limit = 0.0 if saver == "checkpoint" else 1e-9 * float(expected.abs().max())
            torch.testing.assert_close(found, expected, rtol=0, atol=limit)


@every_saver
def test_stochastic_depth_is_drawn_once(saver: MemorySaver) -> None:
    """The level computed again in the backward pass drops what it dropped before, and nothing after it
    notices.
    """
    model = awake(tokens(drop_path_rate=0.5)).train()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    found = []
    for own in (None, saver):
        torch.manual_seed(5)
        found.append((gradients(model, images, own), torch.rand(3)))
    (plain, after), (saved, after_saved) = found
    assert torch.equal(after, after_saved)
    for expected, gradient in zip(plain, saved, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)


def test_frozen_weights_get_no_gradient_by_inversion() -> None:
    torch.manual_seed(0)
    model = awake(tokens()).train()
    frozen = [*model.up[1].levels[0].parameters(), model.up[1].gammas[2]]
    for parameter in frozen:
        parameter.requires_grad_(False)
    model.memory_saver = "invert"
    model.set_grad_checkpointing()
    levels = all_levels(model, torch.randn(2, 3, 32, 32, dtype=torch.float64))
    torch.stack(levels).square().mean().backward()
    assert all(parameter.grad is None for parameter in frozen)
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("saver", ["checkpoint", "invert"])
def test_mixed_precision_stays_close(saver: MemorySaver) -> None:
    torch.manual_seed(0)
    model = tokens().train()
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        plain, saved = gradients(model, images, None), gradients(model, images, saver)
    for expected, found in zip(plain, saved, strict=True):
        if expected is not None and found is not None and expected.any():
            assert (found - expected).norm() <= 0.05 * expected.norm()


def test_long_or_rounded_chains_warn() -> None:
    model = maps(columns=9, memory_saver="chain").train()
    model.set_grad_checkpointing()
    with pytest.warns(UserWarning, match="8 columns inverted one after the other"):
        model(torch.randn(1, 3, 32, 32))
    short = maps(columns=3, memory_saver="chain").train()
    short.set_grad_checkpointing()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.warns(UserWarning, match="inexact under mixed precision"),
    ):
        short(torch.randn(1, 3, 32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short(torch.randn(1, 3, 32, 32))


def test_factors_cannot_vanish() -> None:
    column = Column([nn.Identity()] * 4, shapes=[(1,)] * 4)
    with torch.no_grad():
        for gamma, value in zip(column.gammas, (0.5, 0.0, -1e-9, -2.0), strict=True):
            gamma.fill_(value)
    factors = [column.factor(place).item() for place in range(4)]
    assert factors == pytest.approx([0.5, SMALLEST_FACTOR, -SMALLEST_FACTOR, -2.0])
    (gradient,) = torch.autograd.grad(column.factor(1), column.gammas[1])
    assert gradient == 1  # it may leave the bound


def test_parts_of_columns_are_checkpointed() -> None:
    """Only what the top level needs: no inverse exists, and the gradients are those of plain autograd."""
    torch.manual_seed(0)
    model = awake(tokens(down=2)).train()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found = []
    for model.grad_checkpointing, model.memory_saver in ((False, "checkpoint"), (True, "invert")):
        loss = model.forward_features(images).square().mean()
        found.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
    for expected, gradient in zip(*found, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)


def test_what_is_kept_grows_as_promised() -> None:
    """Bytes for the backward pass at 4 and 8 columns: plainly every activation; the states of each column;
    of a chain those of the last.
    """
    warnings.simplefilter("ignore")  # of the long chain
    kept = {
        saver: [saved_bytes(tokens(up=columns, down=0).train(), (32, 32), 2, saver) for columns in (4, 8)]
        for saver in (None, *SAVERS)
    }
    states = 4 * 2 * 16 * 16 * 4  # levels, images, tokens, width, bytes
    assert all(few < many for few, many in (kept[None], kept["checkpoint"], kept["invert"]))
    assert kept["checkpoint"][1] - kept["checkpoint"][0] == 4 * states
    assert kept["invert"][1] - kept["invert"][0] == 4 * states
    assert kept["chain"][1] == kept["chain"][0]
    assert kept["checkpoint"][1] < kept[None][1] / 10


def test_nothing_old_means_a_first_column() -> None:
    column = maps().columns[0]
    assert not len(column.gammas)
    (states,) = run_columns([column], torch.randn(1, 8, 8, 8), saver="invert")
    assert [tuple(state.shape[1:]) for state in states] == [(8, 8, 8), (12, 4, 4), (16, 2, 2)]
