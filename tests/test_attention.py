"""Maps of attention: the right patch, the right scale, and what people may ask for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_encoder
from unmask.attention import attention, attention_panels
from unmask.errors import UserError

PICTURE = np.full((160, 240, 3), 128, dtype=np.uint8)
GRID = (4, 6)


def brightest(panel: np.ndarray) -> tuple[int, int]:
    """The patch whose middle is lightest."""
    light = panel.astype(int).sum(-1).reshape(4, 40, 6, 40)[:, 10:14, :, 10:14].mean((1, 3))
    row, column = np.unravel_index(light.argmax(), light.shape)
    return int(row), int(column)


def test_a_map_shows_where_its_own_patch_looks() -> None:
    weights = torch.zeros(24, 24)
    weights[1 * 6 + 4, 3 * 6 + 2] = 0.9  # the patch in row 1, column 4 looks at row 3, column 2
    weights[0, 23] = 0.9
    at = [(4.5 / 6, 1.5 / 4), (0.0, 0.0), (1.0, 1.0)]
    original, first, second, third = attention_panels(PICTURE, weights, grid=GRID, at=at)
    assert original.shape == first.shape == PICTURE.shape
    assert brightest(first) == (3, 2) and brightest(second) == (3, 5)
    flat = third[10:14, 50:54]
    assert flat.max() < 60, "one that looks at nothing is dark"
    assert (original[40, 160:200] != 128).any(), "who looks is marked in the picture"
    assert (original[60, 180] == 128).all()


def test_even_attention_does_not_look_like_more() -> None:
    even, sharp = torch.full((24, 24), 1 / 24), torch.full((24, 24), 0.01)
    sharp[:, 7] = 0.77
    maps = [attention_panels(PICTURE, weights, grid=GRID, at=[(0.9, 0.9)])[1] for weights in (even, sharp)]
    inside = [panel[50:54, 50:54].mean() for panel in maps]
    assert inside[0] < 0.6 * inside[1]


def test_a_picture_of_a_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.effect_noise((90, 70), 80).convert("RGB").save(tmp_path / f"{name}.png")
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    encoder = tiny_encoder("hivit", image_size=(64, 96))
    written = attention(encoder, pictures, at=[(0.1, 0.2), (0.5, 0.5)], out=tmp_path / "maps" / "x.png")
    with Image.open(written) as sheet:
        assert sheet.width > sheet.height and sheet.width > 3 * 160


def test_what_cannot_be_drawn_is_explained(tmp_path: Path) -> None:
    Image.effect_noise((90, 70), 80).convert("RGB").save(tmp_path / "a.png")
    encoder, picture = tiny_encoder("vit"), tmp_path / "a.png"
    with pytest.raises(UserError, match=r"two numbers from 0 to 1"):
        attention(encoder, picture, at=[(1.5, 0.5)], out=tmp_path / "x.png")
    with pytest.raises(UserError, match="one place"):
        attention(encoder, picture, at=[], out=tmp_path / "x.png")
    with pytest.raises(UserError, match="written as PNG"):
        attention(encoder, picture, out=tmp_path / "x.jpg")
    with pytest.raises(UserError, match="SwinTransformer has no attention"):
        attention(tiny_encoder("swin"), picture, out=tmp_path / "x.png")
    with pytest.raises(UserError, match="raw pixels"):
        attention("pixels", picture, out=tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
