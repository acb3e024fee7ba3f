"""Adapters against timm itself, and what they refuse."""

from typing import Any

import pytest
import timm
import torch
from einops import rearrange
from torch import Tensor

from tests.tiny import DROPPING, ENCODERS, tiny_encoder
from unmask.encoders import Encoder, create_encoder, rebuilt, require_dropping
from unmask.encoders.swin import fitting_window
from unmask.errors import UserError
from unmask.masking import Mask, RandomMask

SIZE = (64, 96)
every_encoder = pytest.mark.parametrize("name", ENCODERS)


@every_encoder
def test_without_a_mask_it_is_the_timm_model(name: str) -> None:
    encoder = tiny_encoder(name, image_size=SIZE, channels=4).eval()
    model = timm.create_model(**encoder.architecture).eval()
    model.load_state_dict(encoder.model.state_dict(), strict=True)
    images = torch.randn(2, 4, *SIZE)
    features, reference = encoder(images), model.forward_features(images)
    reference = reference.flatten(1, 2) if reference.ndim == 4 else reference
    prefix = reference.shape[1] - features.patches.shape[1]
    assert features.patches.shape == (2, encoder.feature_grid[0] * encoder.feature_grid[1], encoder.dim)
    assert torch.equal(features.patches, reference[:, prefix:])
    if features.cls is not None:
        assert torch.equal(features.cls, reference[:, 0])


@every_encoder
def test_its_description_rebuilds_it(name: str) -> None:
    encoder = tiny_encoder(name, image_size=SIZE, channels=4).eval()
    again = rebuilt(encoder.architecture, drop_path_rate=0.5).eval()
    assert again.architecture == encoder.architecture
    again.model.load_state_dict(encoder.model.state_dict(), strict=True)
    images = torch.randn(2, 4, *SIZE)
    assert torch.equal(again(images).patches, encoder(images).patches)
    other = rebuilt(encoder.architecture, image_size=(96, 64), channels=1)
    assert (other.image_size, other.channels, other.dim) == ((96, 64), 1, encoder.dim)


@every_encoder
def test_the_token_stands_for_hidden_patches(name: str) -> None:
    encoder = tiny_encoder(name, image_size=SIZE).eval()
    images = torch.randn(2, 3, *SIZE)
    mask = RandomMask(ratio=0.5)(2, encoder.grid)
    token = torch.randn(1, 1, encoder.token_dim)
    hidden = mask.pixels(encoder.patch_size)
    before = encoder(images, mask, token).patches
    after = encoder(torch.where(hidden, -images, images), mask, token).patches
    assert torch.equal(before, after)
    if name != "swinv2":  # its blocks start as the identity: at first, patches of other places do not mix
        assert not torch.equal(before, encoder(images, mask, token + 1).patches)


@every_encoder
def test_hidden_patches_alone_are_what_the_full_pass_makes_of_them(name: str) -> None:
    encoder, images = tiny_encoder(name), torch.randn(2, 3, 64, 64)
    token = torch.randn(1, 1, encoder.token_dim)
    for mask in (
        RandomMask(ratio=0.6, unit=2)(2, encoder.grid, images.device),
        Mask.ragged(torch.rand(2, encoder.grid[0] * encoder.grid[1]) < 0.5, encoder.grid),
    ):
        weight = torch.randn(2, encoder.dim)[:, None] * hidden_features(mask, encoder)[..., None]
        gradients = []
        for patches in (encoder(images, mask, token).patches, encoder.hidden(images, mask, token)):
            encoder.zero_grad()
            (patches * weight).sum().backward()
            gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
            assert torch.isfinite(patches).all()
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def hidden_features(mask: Mask, encoder: Encoder) -> Tensor:
    """[B, N], of the output features those of which every patch is hidden."""
    side = encoder.stride // encoder.patch_size
    grid = rearrange(mask.hidden, "b (h p w q) -> b (h w) (p q)", h=encoder.feature_grid[0], p=side, q=side)
    return grid.all(-1)


@every_encoder
def test_taps_and_pyramid(name: str) -> None:
    encoder = tiny_encoder(name, image_size=SIZE).eval()
    features = encoder(torch.randn(2, 3, *SIZE), take=(0, -1))
    first, last = features.taps
    assert len(first) == len(last) == 2
    if features.pyramid:
        strides = [SIZE[0] // level.shape[2] for level in features.pyramid]
        known = {key: [4, 8, 16] for key in ("hivit", "hivit_bias", "fast_itpn")}
        known |= {key: [8] * 3 for key in ("revcolv2", "revcolv2_up")}
        assert strides == known.get(name, [4, 8, 16, 32])
        assert torch.equal(features.pyramid[-1].flatten(2).mT, last)
    with pytest.raises(ValueError, match="0 to"):
        encoder(torch.randn(2, 3, *SIZE), take=(encoder.depth,))


@pytest.mark.parametrize("name", DROPPING)
def test_visible_of_everything_is_the_full_pass(name: str) -> None:
    encoder = require_dropping(tiny_encoder(name, image_size=SIZE), by="this test").eval()
    images = torch.randn(2, 3, *SIZE)
    nothing = torch.zeros(2, encoder.grid[0] * encoder.grid[1], dtype=torch.bool)
    full, visible = encoder(images), encoder.visible(images, Mask.of(nothing, encoder.grid, 0))
    torch.testing.assert_close(visible.patches, full.patches, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", DROPPING)
def test_left_out_patches_leave_positions_alone(name: str) -> None:
    """Attention over a subset, each patch with the position that it had: against a full pass with others cut
    off.
    """
    encoder = require_dropping(tiny_encoder(name, image_size=SIZE), by="this test").eval()
    images = torch.randn(2, 3, *SIZE)
    mask = RandomMask(ratio=0.5)(2, encoder.grid)
    one_by_one = [
        encoder.visible(images[[row]], Mask.of(mask.hidden[[row]], encoder.grid, mask.count)).patches
        for row in (0, 1)
    ]
    together = encoder.visible(images, mask).patches
    torch.testing.assert_close(together, torch.cat(one_by_one), atol=1e-5, rtol=0)
    moved = RandomMask(ratio=0.5)(2, encoder.grid)
    assert not torch.allclose(together, encoder.visible(images, moved).patches)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in DROPPING])
def test_encoders_that_cannot_drop_say_so(name: str) -> None:
    with pytest.raises(ValueError, match="MAE encodes only visible patches"):
        require_dropping(tiny_encoder(name), by="MAE")


@pytest.mark.parametrize(
    ("grid", "window"),
    [((48, 48), 6), ((56, 56), 7), ((16, 16), 4), ((16, 32), 4), ((16, 24), 7), ((50, 50), 7)],
)
def test_windows_that_tile(grid: tuple[int, int], window: int) -> None:
    assert fitting_window(grid, 4, 7) == window


def test_simmim_swin_uses_window_six_at_192() -> None:
    encoder = create_encoder(
        "swin_tiny_patch4_window7_224", image_size=(192, 192), embed_dim=12, num_heads=(1, 1, 2, 4)
    )
    assert encoder.architecture["window_size"] == 6


def test_sincos_positions_are_fixed() -> None:
    encoder = tiny_encoder("vit")
    assert not encoder.model.pos_embed.requires_grad
    assert (encoder.model.pos_embed[0, 0] == 0).all()


def test_initial_weights_of_the_papers() -> None:
    torch.manual_seed(0)
    mae = create_encoder("vit_tiny_patch16_224", position="sincos", init="mae").model
    fan = mae.blocks[0].mlp.fc1.weight
    assert abs(fan.std() / (2 / sum(fan.shape)) ** 0.5 - 1) < 0.02  # Xavier
    patch = mae.patch_embed.proj.weight
    assert abs(patch.std() / (2 / (patch.shape[0] + patch[0].numel())) ** 0.5 - 1) < 0.02
    beit = create_encoder("beit_base_patch16_224", init="beit", embed_dim=192, depth=2, num_heads=3).model
    assert beit.blocks[0].attn.qkv.weight.abs().max() <= 0.02
    assert abs(beit.blocks[0].attn.qkv.weight.std() - 0.0108) < 2e-4  # cut off at one sigma
    assert abs(beit.blocks[1].mlp.fc2.weight.std() - 0.0108 / 2) < 2e-4  # block 2: divided by sqrt(4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_tinny_patch16_224", {}, "did you mean vit_tiny_patch16_224"),
        ("resnet50", {}, "cannot be masked"),
        ("vit_small_r26_s32_224", {}, "cannot be masked"),
        ("vit_tiny_patch16_224", {"depht": 2}, "did you mean 'depth'"),
        ("vit_tiny_patch16_224", {"image_size": (65, 64)}, "multiples of 16"),
        ("swin_tiny_patch4_window7_224", {"position": "sincos"}, "for plain ViTs"),
        ("swin_tiny_patch4_window7_224", {"init": "mae"}, "does not go with a SwinTransformer"),
        ("vit_tiny_patch16_224", {"position": "rotary"}, "'learned' and 'sincos'"),
    ],
)
def test_mistakes_are_explained(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_encoder(name, **options)


def test_published_weights_keep_their_positions_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    build = timm.create_model

    def published(name: str, *, pretrained: bool, **options: Any) -> torch.nn.Module:
        assert pretrained
        model = build(name, **options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
        return model

    monkeypatch.setattr(timm, "create_model", published)
    monkeypatch.setattr("unmask.encoders.require_weights", lambda _name: None)
    encoder = create_encoder("vit_tiny_patch16_224", pretrained=True, position="sincos", init="mae")
    assert all((parameter == 7).all() and parameter.requires_grad for parameter in encoder.model.parameters())


def test_weights_that_cannot_be_had_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **options: Any) -> torch.nn.Module:
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match="could not be fetched: ConnectionError"):
        create_encoder("vit_tiny_patch16_224", pretrained=True)
