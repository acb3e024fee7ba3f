"""The heads of SimMIM's second table."""

import pytest
import torch
from einops import rearrange
from torch import nn

from tests.tiny import tiny_encoder
from unmask.encoders import create_encoder
from unmask.heads import HeadName, InverseSwin, LinearHead, create_head


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("linear", 3_148_800), ("mlp", 4_198_400), ("swin_tiny", 28_295_658), ("swin_base", 86_719_464)],
)
def test_parameters_on_swin_base(name: HeadName, parameters: int) -> None:
    """The totals with the encoder's 86.7 M are within 1 % of the paper's 89.9, 90.9, 115.2 and 174.8 M."""
    with torch.device("meta"):
        encoder = create_encoder("swin_base_patch4_window7_224", image_size=(192, 192), window_size=6)
        assert size(create_head(name, encoder, outputs=3, cell=1)) == parameters


def test_outputs_of_a_feature_are_ordered_as_pixel_shuffle_does() -> None:
    head = LinearHead(8, (3, 5), outputs=2, side=4)
    features = torch.randn(2, 15, 8)
    outputs = rearrange(nn.Linear.forward(head, features), "b (h w) e -> b e h w", h=3)
    assert torch.equal(head(features), nn.functional.pixel_shuffle(outputs, 4))


def tiny_inverse_swin(outputs: int = 3, side: int = 2) -> InverseSwin:
    torch.manual_seed(0)
    return InverseSwin(48, (4, 6), outputs=outputs, side=side, width=32, depths=(2, 2, 1))


def test_an_inverse_swin_doubles_the_map_between_its_stages() -> None:
    head = tiny_inverse_swin(outputs=5, side=2)
    widths = [stage.dim for stage in head.stages]
    assert widths == [32, 16, 8]
    assert head(torch.randn(2, 24, 48)).shape == (2, 5, 4 * 4 * 2, 6 * 4 * 2)


def test_an_inverse_swin_keeps_its_places() -> None:
    """A change far away of a place does not reach it through windows of 4 places; a change there does."""
    head = InverseSwin(8, (16, 16), outputs=1, side=1, width=8, depths=(1, 1))
    features = torch.randn(1, 256, 8)
    other = features.clone()
    other[0, 0] += 1
    changed = (head(features) - head(other)).abs()[0, 0] > 0
    assert changed[0, 0] and not changed[-1, -1]
    rows, columns = changed.nonzero(as_tuple=True)
    assert max(rows.max(), columns.max()) < 2 * head.stages[0].blocks[0].window_size[0] + 8


def test_every_parameter_of_an_inverse_swin_learns() -> None:
    head = tiny_inverse_swin()
    head(torch.randn(2, 24, 48)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


@pytest.mark.parametrize(("name", "cell"), [("linear", 16), ("linear", 1), ("mlp", 4)])
def test_the_map_has_one_place_a_cell(name: HeadName, cell: int) -> None:
    encoder = tiny_encoder("swin", image_size=(64, 96))
    head = create_head(name, encoder, outputs=7, cell=cell)
    shape = (2, 7, 64 // cell, 96 // cell)
    assert head(torch.randn(2, 2 * 3, encoder.dim)).shape == shape


def test_an_inverse_swin_needs_a_target_finer_than_its_map() -> None:
    with torch.device("meta"):
        encoder = tiny_encoder("swin")  # features of 32 pixels become places of 4
        for cell in (1, 2, 4):
            assert create_head("swin_tiny", encoder, outputs=3, cell=cell).last.side == 4 // cell
        with pytest.raises(ValueError, match="use head=linear"):
            create_head("swin_tiny", encoder, outputs=3, cell=8)
