"""Encoders at another size, with stochastic depth, as a backbone of four maps."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from tests.tiny import ENCODERS, tiny_encoder
from unmask.encoders import Encoder, create_encoder
from unmask.encoders.itpn import Pyramid
from unmask.errors import UserError
from unmask.export import save_encoder
from unmask.load import load_backbone, load_encoder, load_pyramid, resized, with_drop_path

STATISTICS = {"mean": [0.5] * 3, "std": [0.25] * 3, "made_by": {}}
OTHER = (96, 64)
every_encoder = pytest.mark.parametrize("name", ENCODERS)


def drawn(encoder: Encoder) -> Encoder:
    """Its learned tensors drawn at random, so that none of them is zero."""
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.05)
    return encoder.eval()


def places_of(encoder: Encoder) -> dict[str, Tensor]:
    """Learned tables whose size follows the image's or a window's."""
    return {
        name: one
        for name, one in encoder.model.named_parameters()
        if name == "pos_embed" or "relative_position_bias_table" in name
    }


@every_encoder
def test_the_same_size_changes_nothing(name: str) -> None:
    encoder, images = drawn(tiny_encoder(name)), torch.randn(2, 3, 64, 64)
    again = resized(copy.deepcopy(encoder), (64, 64))
    for one, other in zip(encoder.pyramid(images), again.pyramid(images), strict=True):
        assert torch.equal(one, other)


@every_encoder
def test_another_size_is_the_model_of_that_size(name: str) -> None:
    encoder = drawn(tiny_encoder(name))
    other = resized(copy.deepcopy(encoder), OTHER).eval()
    assert other.image_size == OTHER
    model = timm.create_model(**other.architecture).eval()
    model.load_state_dict(other.model.state_dict(), strict=True)
    images = torch.randn(1, 3, *OTHER)
    reference = model.forward_features(images)
    reference = reference.flatten(1, 2) if reference.ndim == 4 else reference
    patches = other(images).patches
    assert torch.equal(reference[:, reference.shape[1] - patches.shape[1] :], patches)
    fixed = {key for key, one in encoder.model.named_parameters() if key not in places_of(encoder)}
    before, after = encoder.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in fixed)


@every_encoder
def test_tables_are_interpolated(name: str) -> None:
    """What is the same everywhere stays the same everywhere, in a table of the other size."""
    encoder = drawn(tiny_encoder(name))
    prefix = encoder.prefix if name != "dinov3" else 0
    for key, table in places_of(encoder).items():
        # BEiT's tables end with three values for the class token, which are no places.
        fill = table[0, prefix:] if key == "pos_embed" else table[:-3] if "beit" in name else table
        fill.data[:] = 0.25
    before = {key: one.shape for key, one in places_of(encoder).items()}
    for key, table in places_of(resized(encoder, OTHER)).items():
        fill = table[0, prefix:] if key == "pos_embed" else table[:-3] if "beit" in name else table
        torch.testing.assert_close(fill, torch.full_like(fill, 0.25))
        assert table.shape != before[key] or "swin" in name  # windows may stay what they are


def test_relative_positions_keep_their_place() -> None:
    """The bias between a unit and itself, and across the whole image, is that of the smaller grid."""
    encoder = drawn(tiny_encoder("hivit_bias"))
    table = encoder.model.attention_blocks[0].attn.relative_position_bias_table
    ramp = torch.linspace(-1, 1, 7)[:, None].expand(7, 7).reshape(49, 1)
    table.data[:] = ramp
    larger = resized(encoder, (128, 128)).model.attention_blocks[0].attn.relative_position_bias_table
    rows = larger[:, 0].reshape(15, 15)
    assert torch.allclose(rows, rows[:, :1].expand(15, 15), atol=1e-6)
    assert abs(rows[7, 0]) < 1e-6 and (rows[1:, 0] > rows[:-1, 0]).all()
    torch.testing.assert_close(rows, -rows.flip(0), atol=1e-6, rtol=0)


def test_swin_without_a_window_in_its_name_keeps_its_windows() -> None:
    encoder = create_encoder(
        "swin_s3_tiny_224", image_size=(224, 224), embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4)
    )
    windows = encoder.windows
    other = resized(encoder, (320, 320))
    assert other.windows == windows == [[7, 7], [7, 7], [14, 14], [7, 7]]
    timm.create_model(**other.architecture).load_state_dict(other.model.state_dict(), strict=True)


@every_encoder
def test_stochastic_depth_is_added_to_the_same_weights(name: str) -> None:
    encoder, images = drawn(tiny_encoder(name)), torch.randn(2, 3, 64, 64)
    deeper = with_drop_path(encoder, 0.5)
    rates = [part.drop_prob for part in deeper.modules() if isinstance(part, DropPath)]
    assert max(rates) == pytest.approx(0.5) and deeper.training
    learned = [one.requires_grad for one in encoder.parameters()]
    assert [one.requires_grad for one in deeper.parameters()] == learned
    assert torch.equal(deeper.eval()(images).patches, encoder(images).patches)
    none = with_drop_path(deeper, 0.0)
    assert not any(isinstance(part, DropPath) and part.drop_prob for part in none.modules())


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Encoder, Pyramid]:
    """What an iTPN run leaves."""
    torch.manual_seed(0)
    encoder, pyramid = tiny_encoder("hivit"), Pyramid(48, width=16, depth=2)
    save_encoder(encoder, tmp_path, pyramid=pyramid, **STATISTICS)
    return tmp_path, encoder, pyramid


def test_a_pyramid_that_was_trained_is_the_neck(run: tuple[Path, Encoder, Pyramid]) -> None:
    folder, encoder, pyramid = run
    backbone = load_backbone(folder).eval()
    assert backbone.neck_name == "pretrained" and backbone.strides == (4, 8, 16, 32)
    state, expected = backbone.neck.state_dict(), pyramid.state_dict()
    assert {name.removeprefix("pyramid."): one for name, one in state.items()}.keys() == expected.keys()
    assert all(torch.equal(state[f"pyramid.{name}"], one) for name, one in expected.items())
    images = torch.randn(2, 3, 64, 64)
    *maps, coarsest = backbone(images)
    levels = pyramid.eval().maps(encoder.eval()(images).pyramid)
    assert all(torch.equal(*pair) for pair in zip(maps, levels, strict=True))
    assert torch.equal(coarsest, nn.functional.avg_pool2d(levels[-1], 2))


def test_it_learns_further(run: tuple[Path, Encoder, Pyramid]) -> None:
    backbone = load_backbone(run[0]).train()
    before = copy.deepcopy(backbone.neck.state_dict())
    optimiser = torch.optim.SGD(backbone.parameters(), lr=0.1)
    sum((one * torch.randn_like(one)).mean() for one in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimiser.step()
    after = backbone.neck.state_dict()
    assert [name for name, one in before.items() if torch.equal(one, after[name])] == []


def test_the_ablation_is_one_flag(run: tuple[Path, Encoder, Pyramid]) -> None:
    folder, encoder, _ = run
    backbone, images = load_backbone(folder, neck="native"), torch.randn(1, 3, 64, 64)
    assert not list(backbone.neck.parameters())
    *maps, coarsest = backbone(images)
    own = encoder.eval().pyramid(images)
    assert all(torch.equal(*pair) for pair in zip(maps, own, strict=True))
    assert torch.equal(coarsest, nn.functional.max_pool2d(own[-1], 2))
    assert backbone.channels == (12, 24, 48, 48)


def test_at_another_size_and_with_stochastic_depth(run: tuple[Path, Encoder, Pyramid]) -> None:
    folder, _, pyramid = run
    backbone = load_backbone(folder, image_size=(96, 64), drop_path_rate=0.3)
    rates = [part.drop_prob for part in backbone.modules() if isinstance(part, DropPath)]
    assert backbone.image_size == (96, 64) and max(rates) == pytest.approx(0.3)
    images = torch.randn(1, 3, 96, 64)
    levels = pyramid.eval().maps(load_encoder(folder, image_size=(96, 64))(images).pyramid)
    assert torch.equal(backbone(images)[0], levels[0])


def test_necks_that_do_not_fit_are_explained(run: tuple[Path, Encoder, Pyramid], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="for plain ViTs, not for a HiViT; use neck=native"):
        load_backbone(run[0], neck="deconvolution")
    save_encoder(tiny_encoder("vit"), tmp_path / "vit", **STATISTICS)
    with pytest.raises(UserError, match="trained together with the encoder"):
        load_backbone(tmp_path / "vit", neck="pretrained")
    with pytest.raises(UserError, match="There is no"):
        load_pyramid(tmp_path / "nothing")
    assert load_backbone("random:vit_tiny_patch16_224", image_size=64).neck_name == "simple"
