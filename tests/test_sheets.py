"""Sheets of pictures, looked at pixel by pixel."""

import numpy as np
import torch
from torch import Tensor

from unmask.sheets import GAP, QUERY_GAP, TILE, TITLE_HEIGHT, contact_sheet, nearest, neighbour_sheet


def colours(count: int) -> Tensor:
    """Pictures of one colour each, the red of picture i is 10 i."""
    pixels = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    pixels[:, 0] = (10 * torch.arange(count)).byte()[:, None, None]
    return pixels


def test_nearest_leaves_the_query_out_and_ignores_length() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 1.0])
    features = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([1.0, 9.0, 0.1, 5.0])[:, None]
    assert nearest(torch.tensor([0, 3]), features, 2).tolist() == [[1, 2], [2, 1]]


def test_contact_sheet_holds_every_picture_in_order() -> None:
    sheet = np.asarray(contact_sheet(colours(5)))
    assert sheet.shape == (2 * TILE + GAP, 3 * TILE + 2 * GAP, 4)
    step = TILE + GAP
    assert [sheet[row * step + 5, column * step + 5, 0] for row in (0, 1) for column in range(3)][:5] == [
        0,
        10,
        20,
        30,
        40,
    ]
    assert sheet[step + 5, 2 * step + 5, 3] == 0  # nothing there


def test_neighbours_stand_beside_their_image() -> None:
    angle = torch.linspace(0, 1, 20)
    sheet = np.asarray(neighbour_sheet(colours(20), torch.stack([angle.cos(), angle.sin()], dim=1)))
    row = sheet[TITLE_HEIGHT + 5, :, 0]
    step = TILE + GAP
    shown = [int(row[5])] + [int(row[5 + QUERY_GAP + step * column]) for column in range(1, 8)]
    assert shown == [0, 10, 20, 30, 40, 50, 60, 70]


def test_deeper_images_are_stretched() -> None:
    pixels = 1000 + 10 * colours(5)[1:].to(torch.int32)
    pixels[:, :, 0] = 1000
    sheet = np.asarray(contact_sheet(pixels))
    assert sheet[TILE - 3, 5, 0] == 255 and sheet[1, 5, 0] == 0


def test_grey_and_transparent_pictures_and_few_of_them() -> None:
    for channels in (1, 4):
        pixels = torch.randint(0, 256, (2, channels, 8, 16), dtype=torch.uint8)
        sheet = neighbour_sheet(pixels, torch.randn(2, 4))
        assert sheet.height == TITLE_HEIGHT + 2 * (TILE // 2) + GAP
