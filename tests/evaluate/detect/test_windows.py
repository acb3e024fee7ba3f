"""Windows change what attends to what, and nothing else."""

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_encoder
from unmask.encoders import Encoder, create_encoder
from unmask.evaluate.detect.windows import evenly_spaced, in_windows, join, split

SIZE = {"embed_dim": 24, "num_heads": 2, "patch_size": 8}


def plain(depth: int = 4, image_size: tuple[int, int] = (64, 64), **options: int) -> Encoder:
    torch.manual_seed(0)
    return create_encoder(
        "vit_tiny_patch16_224", image_size=image_size, depth=depth, **SIZE, **options
    ).eval()


def images(encoder: Encoder, seed: int = 1) -> Tensor:
    return torch.randn(2, 3, *encoder.image_size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [8, 14])
def test_a_window_of_the_whole_grid_is_the_plain_encoder(window: int) -> None:
    encoder = plain()
    windowed = in_windows(encoder, window=window, global_blocks=0)
    given = images(encoder)
    assert torch.equal(windowed(given).patches, encoder(given).patches)
    assert all(
        torch.equal(a, b) for a, b in zip(windowed.pyramid(given), encoder.pyramid(given), strict=True)
    )


def test_weights_and_names_are_left_alone() -> None:
    encoder = plain()
    windowed = in_windows(encoder, window=4, global_blocks=1)
    assert list(windowed.state_dict()) == list(encoder.state_dict())
    assert all(a is b for a, b in zip(windowed.parameters(), encoder.parameters(), strict=True))
    assert windowed.architecture == encoder.architecture


def test_four_global_blocks_of_twelve_and_of_24() -> None:
    """As ViTDet's ViT-B and ViT-L have them."""
    assert evenly_spaced(12, 4) == [2, 5, 8, 11]
    assert evenly_spaced(24, 4) == [5, 11, 17, 23]
    assert evenly_spaced(6, 0) == []


def influence(encoder: Encoder) -> Tensor:
    """Whether patch j changes patch i of the encoder's output, [N, N]."""
    rows, columns = encoder.grid
    size = encoder.patch_size
    given = images(encoder)[:1]
    before = encoder(given).patches[0]
    found = []
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        changed = given.clone()
        changed[..., row * size : (row + 1) * size, column * size : (column + 1) * size] += 1
        found.append((encoder(changed).patches[0] - before).abs().amax(1) > 1e-6)
    return torch.stack(found, dim=1)


def test_patches_see_their_own_window_and_no_other() -> None:
    encoder = plain(depth=2, image_size=(48, 32), class_token=False)
    windowed = in_windows(encoder, window=2, global_blocks=0)
    row, column = torch.arange(24) // 4, torch.arange(24) % 4
    window = (row // 2) * 2 + column // 2
    assert torch.equal(influence(windowed), window[:, None] == window[None])
    assert influence(encoder).all()


def test_a_global_block_joins_the_windows() -> None:
    encoder = plain(depth=2, image_size=(48, 32), class_token=False)
    assert influence(in_windows(encoder, window=2, global_blocks=1)).all()


def test_windows_at_the_edge_are_smaller_not_padded() -> None:
    """A window of 2 x 2 at the corner of a grid of 5 x 5 in windows of 3 is an image of 2 x 2."""
    encoder = plain(depth=2, image_size=(40, 40), class_token=False)
    windowed = in_windows(encoder, window=3, global_blocks=0)
    row, column = torch.arange(25) // 5, torch.arange(25) % 5
    window = (row // 3) * 2 + column // 3
    assert torch.equal(influence(windowed), window[:, None] == window[None])
    given = images(encoder)
    tokens = encoder.model.patch_embed(given) + encoder.model.pos_embed
    corner = tokens.unflatten(1, (5, 5))[:, 3:, 3:].flatten(1, 2)
    for block in encoder.model.blocks:
        corner = block(corner)
    expected = encoder.model.norm(corner)
    found = windowed(given).patches.unflatten(1, (5, 5))[:, 3:, 3:].flatten(1, 2)
    torch.testing.assert_close(found, expected)


def test_class_token_sees_all_windows() -> None:
    encoder = plain(depth=2)
    windowed = in_windows(encoder, window=4, global_blocks=0)
    given = images(encoder)
    for corner in (slice(0, 8), slice(56, 64)):
        changed = given.clone()
        changed[..., corner, corner] += 1
        assert not torch.allclose(windowed(changed).cls, windowed(given).cls, atol=1e-6)


def test_split_and_join() -> None:
    patches = torch.randn(2, 35, 3)
    windows = split(patches, (5, 7), (2, 3))
    assert windows.shape == (2, 9, 6, 3)
    assert torch.equal(join(windows, (5, 7), (2, 3)), patches)
    assert windows[:, 2, [1, 2, 4, 5]].eq(0).all()


def test_messages() -> None:
    with pytest.raises(ValueError, match="plain ViTs"):
        in_windows(tiny_encoder("swin"), window=14, global_blocks=4)
    with pytest.raises(ValueError, match="between 0 and the 4 blocks"):
        in_windows(plain(), window=14, global_blocks=5)
