"""Windows over images of any size."""

import pytest
import torch
from torch import Tensor

from unmask.evaluate.segment.slide import slide, starts


@pytest.mark.parametrize(
    ("side", "expected"), [(8, [0]), (9, [0, 1]), (13, [0, 5]), (14, [0, 5, 6]), (18, [0, 5, 10])]
)
def test_windows_cover_a_side_and_end_with_it(side: int, expected: list[int]) -> None:
    assert starts(side, 8, 5) == expected
    assert {pixel for start in expected for pixel in range(start, start + 8)} == set(range(side))


@pytest.mark.parametrize("size", [(8, 12), (20, 31), (5, 7), (8, 50), (3, 40)])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_network_that_looks_at_single_pixels_sees_no_windows(
    size: tuple[int, int], batch_size: int
) -> None:
    image = torch.randn(2, *size)
    found = slide(_pointwise, image, window=(8, 12), stride=(5, 8), batch_size=batch_size)
    torch.testing.assert_close(found, _pointwise(image[None])[0])


def test_where_windows_overlap_their_scores_are_averaged() -> None:
    calls: list[int] = []

    def numbered(images: Tensor) -> Tensor:
        scores = torch.stack([torch.full((1, 4, 4), float(len(calls) + k)) for k in range(len(images))])
        calls.extend(range(len(images)))
        return scores

    found = slide(numbered, torch.zeros(1, 4, 7), window=(4, 4), stride=(2, 2), batch_size=2)
    # Windows from 0, 2 and 3 with the scores 0, 1 and 2.
    assert found[0, 0].tolist() == pytest.approx([0, 0, 0.5, 1, 1.5, 1.5, 2])


def test_windows_have_the_networks_size() -> None:
    seen = []

    def watching(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return images[:, :1]

    slide(watching, torch.zeros(3, 30, 6), window=(16, 16), stride=(10, 10), batch_size=2)
    assert seen == [(2, 3, 16, 16), (1, 3, 16, 16)]


def _pointwise(images: Tensor) -> Tensor:
    return torch.stack([images[:, 0] * 2, images[:, 1] - images[:, 0], images[:, 1].sin()], dim=1)
