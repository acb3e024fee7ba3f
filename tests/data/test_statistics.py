"""Mean and standard deviation are those of the pixels."""

import numpy as np
import pytest

from tests.data.conftest import smooth
from unmask.data import open_source
from unmask.data.statistics import measure
from unmask.errors import UserError


def test_of_bytes_and_of_floats() -> None:
    pixels = [smooth(16, 16, seed) for seed in range(10)]
    found = measure(open_source(pixels), (16, 16), channels=3, bits=8)
    fractions = np.stack(pixels).reshape(-1, 3) / 255
    assert found.images == 10
    np.testing.assert_allclose(found.mean, fractions.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.std, fractions.std(0), rtol=1e-5)
    generator = np.random.default_rng(0)
    values = [generator.normal((1e6, -3), (2, 1e-3), (16, 16, 2)).astype(np.float64) for _ in range(10)]
    found = measure(open_source(values), (16, 16), channels=2, bits=32)
    kept = np.stack(values).astype(np.float32).astype(np.float64).reshape(-1, 2)
    np.testing.assert_allclose(found.mean, kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.std, kept.std(0), rtol=1e-3)


def test_it_is_the_same_sample_for_the_same_seed(photos) -> None:
    source = open_source(photos)
    some = [measure(source, (16, 16), channels=3, bits=8, seed=seed, count=5) for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert some[0] == measure(source, (16, 16), channels=3, bits=8, count=5, workers=1)
    assert some[0].images == 5


def test_a_constant_channel_is_not_divided_by_nothing() -> None:
    flat = [np.dstack([np.full((8, 8), 0.1), smooth(8, 8)[..., 0] / 255]) for _ in range(4)]
    found = measure(open_source(flat), (8, 8), channels=2, bits=32)
    assert found.std[0] == 1 and 0 < found.std[1] < 1


def test_bad_files_do_not_count_unless_there_is_nothing_else(photos) -> None:
    (photos / "cat" / "bad.jpg").write_bytes(b"")
    assert measure(open_source(photos), (8, 8), channels=3, bits=8).images == 24
    with pytest.raises(
        UserError, match=r"None of the 25 images.*01\.jpg: 3 channels, and data.channels is 5|bad"
    ):
        measure(open_source(photos), (8, 8), channels=5, bits=8)
