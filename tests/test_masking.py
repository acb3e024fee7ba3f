"""Mask's verbs and the samplers."""

import itertools

import pytest
import torch

from unmask.masking import (
    BlockMask,
    ImportanceMask,
    Mask,
    RandomMask,
    SquareMask,
    average_distance,
    hidden_count,
)

GRID = (4, 6)


def example(batch: int = 3, count: int = 10) -> Mask:
    return Mask.from_scores(torch.rand(batch, 24), GRID, count)


def test_visible_and_masked_split_the_patches_in_raster_order() -> None:
    mask, patches = example(), torch.arange(24.0).expand(3, 24)[..., None]
    visible, hidden = mask.visible(patches), mask.masked(patches)
    assert visible.shape == (3, 14, 1) and hidden.shape == (3, 10, 1)
    for row in range(3):
        assert visible[row, :, 0].tolist() == torch.where(~mask.hidden[row])[0].tolist()
        assert hidden[row, :, 0].tolist() == torch.where(mask.hidden[row])[0].tolist()


def test_restore_undoes_the_split() -> None:
    mask, patches = example(), torch.randn(3, 24, 5)
    assert torch.equal(mask.restore(mask.visible(patches), mask.masked(patches)), patches)
    token = torch.randn(1, 1, 5)
    assert torch.equal(mask.restore(mask.visible(patches), token), mask.replace(patches, token))


def test_replace_touches_hidden_patches_only() -> None:
    mask, patches, token = example(), torch.randn(3, 24, 5), torch.full((1, 1, 5), 9.0)
    replaced = mask.replace(patches, token)
    assert torch.equal(replaced[~mask.hidden], patches[~mask.hidden])
    assert (replaced[mask.hidden] == 9).all()


def test_mean_is_over_hidden_patches() -> None:
    mask, values = example(), torch.randn(3, 24)
    torch.testing.assert_close(mask.mean(values), values[mask.hidden].mean())


def test_inverse() -> None:
    mask = example()
    inverse = mask.inverse()
    assert torch.equal(inverse.hidden, ~mask.hidden) and inverse.count == 14
    assert torch.equal(inverse.visible_index, mask.hidden_index)


def test_pixels_are_constant_on_patches() -> None:
    mask = example()
    pixels = mask.pixels(3)
    assert pixels.shape == (3, 1, 12, 18)
    assert torch.equal(pixels[:, 0, ::3, ::3].flatten(1), mask.hidden)
    assert torch.equal(pixels[:, 0, 2::3, 1::3].flatten(1), mask.hidden)


def test_a_ragged_mask_replaces_and_means_and_refuses_the_rest() -> None:
    hidden = torch.zeros(2, 24, dtype=torch.bool)
    hidden[0, :3], hidden[1, :7] = True, True
    mask, values = Mask.ragged(hidden, GRID), torch.randn(2, 24)
    torch.testing.assert_close(mask.mean(values), values[hidden].mean())  # pooled, not a mean of means
    assert mask.masked(values).shape == (10,)
    assert mask.inverse().masked(values).shape == (38,)
    assert mask.replace(torch.ones(2, 24, 1), torch.zeros(1, 1, 1)).sum() == 38
    with pytest.raises(ValueError, match="ragged"):
        mask.visible(values)
    with pytest.raises(ValueError, match="official=False"):
        mask.restore(torch.ones(2, 3, 1), torch.zeros(1, 1, 1))


@pytest.mark.parametrize(
    ("total", "ratio", "rounding", "count"),
    [
        (196, 0.75, "nearest", 147),
        (36, 0.6, "up", 22),  # SimMIM at 192 pixels: 61.1 %
        (49, 0.6, "up", 30),  # and at 224
        (100, 0.9, "nearest", 90),
        (100, 0.9, "mae_official", 91),
        (5, 0.6, "up", 3),  # 0.6 * 5 is 3.0000000000000004 in floating point for some orders of operation
        (10, 0.25, "nearest", 3),  # halves up, not to even
    ],
)
def test_hidden_count(total: int, ratio: float, rounding: str, count: int) -> None:
    assert hidden_count(total, ratio, rounding) == count


@pytest.mark.parametrize(("total", "ratio"), [(196, 0.0), (196, 1.0), (196, -0.5), (4, 0.99), (1, 0.5)])
def test_hidden_count_leaves_something_on_both_sides(total: int, ratio: float) -> None:
    with pytest.raises(ValueError, match="mask ratio"):
        hidden_count(total, ratio)


def test_random_units_are_solid_and_uniform() -> None:
    torch.manual_seed(0)
    mask = RandomMask(ratio=0.5, unit=2)(4000, GRID)
    cells = mask.hidden.view(-1, 2, 2, 3, 2)
    assert mask.count == 12
    assert torch.equal(cells.all(4).all(2), cells.any(4).any(2))
    share = mask.hidden.float().mean(0)
    assert (share - 0.5).abs().max() < 4.5 * (0.25 / 4000) ** 0.5


def test_random_units_must_tile_the_grid() -> None:
    with pytest.raises(ValueError, match="do not tile a grid of 4 x 6"):
        RandomMask(ratio=0.5, unit=3)(1, GRID)


def test_square_is_one_square_anywhere() -> None:
    torch.manual_seed(0)
    mask = SquareMask(side=3)(500, GRID)
    grids = mask.hidden.view(-1, *GRID)
    assert mask.count == 9 and (grids.flatten(1).sum(1) == 9).all()
    corners = set()
    for grid in grids:
        rows, columns = torch.where(grid)
        assert rows.max() - rows.min() == columns.max() - columns.min() == 2
        corners.add((int(rows.min()), int(columns.min())))
    assert len(corners) == 2 * 4  # every place is reached
    with pytest.raises(ValueError, match="does not fit"):
        SquareMask(side=5)(1, GRID)


@pytest.mark.parametrize("grid", [(14, 14), (8, 20)])
def test_blocks_are_exact_and_never_span_the_grid(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    total = grid[0] * grid[1]
    mask = BlockMask(ratio=0.4)(64, grid)
    assert mask.count == hidden_count(total, 0.4)
    assert (mask.hidden.sum(1) == mask.count).all()
    # Blocks, not single patches: most hidden patches have a hidden neighbour on the right or below.
    cells = mask.hidden.view(-1, *grid)
    joined = (cells[:, :, :-1] & cells[:, :, 1:]).sum() / cells.sum()
    assert joined > 0.6


@pytest.mark.parametrize("official", [False, True])
def test_blocks_of_units_are_solid(official: bool) -> None:
    sampler = BlockMask(ratio=0.5, unit=4, official=official)
    torch.manual_seed(0)
    mask = sampler(200, (24, 32))
    cells = mask.hidden.view(-1, 6, 4, 8, 4)
    assert torch.equal(cells.all(4).all(2), cells.any(4).any(2))
    units = cells.any(4).any(2)
    # The same random numbers on a grid of single patches give the same rectangles.
    torch.manual_seed(0)
    single = BlockMask(ratio=0.5, official=official)(200, (6, 8))
    assert torch.equal(units.flatten(1), single.hidden)
    assert mask.count == (None if official else 24 * 16)
    assert mask.hidden.sum(1).max() == 24 * 16
    with pytest.raises(ValueError, match="do not tile a grid of 6 x 6"):
        BlockMask(ratio=0.5, unit=4).check((6, 6))


def test_the_smallest_block_follows_the_grid() -> None:
    """BEiT's 16 of 14 x 14, as a share: 3 of the 6 x 6 units of a SimMIM image."""
    for grid, smallest in (((14, 14), 16), ((6, 6), 3), ((2, 2), 1)):
        drawn = []
        for sampler in (BlockMask(ratio=0.5), BlockMask(ratio=0.5, min_block=smallest)):
            torch.manual_seed(0)
            drawn.append(sampler(50, grid).hidden)
        assert torch.equal(*drawn)


def test_max_block_limits_each_rectangle() -> None:
    torch.manual_seed(0)
    sizes = [
        int(BlockMask(count=4, min_block=2, max_block=4, official=True)(1, (14, 14)).hidden.sum())
        for _ in range(50)
    ]
    assert max(sizes) <= 4 and min(sizes) > 0


def test_block_mask_wants_one_amount() -> None:
    with pytest.raises(ValueError, match="either count"):
        BlockMask()
    with pytest.raises(ValueError, match="either count"):
        BlockMask(count=5, ratio=0.5)
    with pytest.raises(ValueError, match="cannot hide 196"):
        BlockMask(count=196)(1, (14, 14))


@pytest.mark.parametrize(
    "sampler",
    [
        RandomMask(ratio=0.6),
        SquareMask(side=2),
        BlockMask(count=9, min_block=2),
        BlockMask(count=9, min_block=2, official=True),
    ],
)
def test_the_global_generator_decides(sampler: RandomMask | SquareMask | BlockMask) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(sampler(8, GRID).hidden)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("side", [4, 8, 16, 32, 64])
def test_the_average_distance_of_a_lone_square(side: int) -> None:
    hidden = torch.zeros(1, 3, 3, dtype=torch.bool)
    hidden[:, 1, 1] = True
    distance = average_distance(Mask.of(hidden.flatten(1), (3, 3), 1), side)
    assert distance.item() == pytest.approx((side + 1) * (side + 2) / (6 * side), rel=1e-12)


def test_the_average_distance_by_hand() -> None:
    """Each hidden pixel against all visible ones, in an image that is no square."""
    torch.manual_seed(0)
    mask = RandomMask(ratio=0.7)(5, GRID)
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(18), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).view(-1, 2).double()
    expected = []
    for hidden in mask.pixels(3).flatten(1):
        between = (places[hidden][:, None] - places[~hidden][None]).square().sum(-1).sqrt()
        expected.append(between.min(1).values.mean())
    torch.testing.assert_close(average_distance(mask, 3), torch.stack(expected))


def test_a_map_of_pixels_is_a_mask_with_patches_of_one_pixel() -> None:
    mask = example()
    pixels = Mask.ragged(mask.pixels(4).flatten(1), (16, 24))
    assert torch.equal(average_distance(mask, 4), average_distance(pixels, 1))


@pytest.mark.parametrize("hidden", [True, False])
def test_the_average_distance_needs_something_hidden_and_something_visible(hidden: bool) -> None:
    cells = torch.stack([torch.arange(24) < 12, torch.full((24,), hidden)])
    with pytest.raises(ValueError, match="a hidden and a visible patch in every image"):
        average_distance(Mask.ragged(cells, GRID), 4)


def test_gumbel_noise_draws_without_replacement_in_proportion() -> None:
    """Plackett-Luce: the first to be kept has the probability of its chance, and so on among the rest."""
    torch.manual_seed(0)
    chance = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = ImportanceMask(ratio=0.5)(40_000, (2, 2))
    kept = ~drawn.weighed(chance.expand(40_000, -1)).hidden
    assert (kept.sum(1) == 2).all()
    expected = torch.zeros(4)
    for first, second in itertools.permutations(range(4), 2):
        probability = chance[first] * chance[second] / (1 - chance[first])
        expected[[first, second]] += probability
    torch.testing.assert_close(kept.float().mean(0), expected, rtol=0, atol=0.01)


def test_even_importance_is_the_mask_that_was_drawn() -> None:
    drawn = ImportanceMask(ratio=0.75)(8, (6, 6))
    even = drawn.weighed(torch.full((8, 36), 1e-3))
    assert torch.equal(even.hidden, drawn.hidden) and even.count == drawn.count == 27
    part = drawn.rows(2, 5)
    importance = torch.rand(8, 36)
    assert torch.equal(part.weighed(importance[2:5]).hidden, drawn.weighed(importance).hidden[2:5])


def test_importance_of_zero_is_no_trouble() -> None:
    drawn = ImportanceMask(ratio=0.75)(4, (6, 6))
    importance = torch.zeros(4, 36)
    importance[:, 7] = 1.0
    mask = drawn.weighed(importance.half())
    assert (mask.hidden.sum(1) == 27).all() and not mask.hidden[:, 7].any()
    assert (drawn.weighed(torch.zeros(4, 36)).hidden == drawn.hidden).all()


def test_importance_masks_are_refused_where_none_exists() -> None:
    with pytest.raises(ValueError, match="hides"):
        ImportanceMask(ratio=0.1).check((2, 2))
