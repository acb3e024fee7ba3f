"""Places are sampled fairly, cut where they are, and drawn with what is true of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.engine.tiny import pictures
from tests.engine.workshop import NearestColour, register, tokenizer_run
from unmask.codes.atlas import atlas, codes, sample_places
from unmask.codes.pictures import round_trip_strip
from unmask.codes.sampling import Reservoir
from unmask.data import open_source
from unmask.engine.kinds.tokenizers import reconstruction_errors
from unmask.errors import UserError


def filled(codes: Tensor, size: int, seed: int, *, parts: int = 1, vocabulary: int = 4) -> Reservoir:
    reservoir = Reservoir(vocabulary, size, torch.Generator().manual_seed(seed))
    for part, indices in zip(codes.chunk(parts), torch.arange(len(codes)).chunk(parts), strict=True):
        reservoir.add(part, indices)
    return reservoir


@pytest.mark.parametrize("parts", [1, 3])
def test_places_have_the_code_that_they_stand_for(parts: int) -> None:
    given = torch.randint(3, (12, 5), generator=torch.Generator().manual_seed(0))
    given[0, 0] = 3  # once only
    reservoir = filled(given, 4, 0, parts=parts)
    for code in range(4):
        kept = reservoir.image[code] >= 0
        assert kept.sum() == min(4, int((given == code).sum()))
        found = list(
            zip(reservoir.image[code][kept].tolist(), reservoir.place[code][kept].tolist(), strict=True)
        )
        assert len(set(found)) == len(found)
        assert all(given[image, place] == code for image, place in found)


def test_every_place_of_a_code_is_as_likely() -> None:
    given = torch.zeros(10, 1, dtype=torch.long)
    hits = torch.zeros(10)
    draws, size = 600, 3
    for seed in range(draws):
        hits[filled(given, size, seed, parts=5).image[0]] += 1
    expected = draws * size / 10
    # Binomial: 600 draws with probability 0.3 scatter by 11; the largest of ten by less than 4 times that.
    assert (hits - expected).abs().max() < 45


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(12):
        blocks = generator.choice([0, 255], (4, 4, 1)).repeat(3, 2).astype(np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{index:02d}.png")
    return folder


def black_and_white() -> NearestColour:
    tokenizer = NearestColour(image_size=(32, 32), channels=3, vocabulary=5)
    with torch.no_grad():
        tokenizer.colours.copy_(torch.tensor([0.0, 1.0, 9.0, 9.0, 9.0])[:, None].expand(5, 3))
    return tokenizer.eval()


def test_tiles_show_the_place_and_what_is_around_it(data: Path) -> None:
    sample = sample_places(black_and_white(), open_source(data), patches=6)
    assert sample.use.used == 2 and sorted(sample.codes) == [0, 1] and sample.images == 12
    assert sample.use.counts[sample.codes[0]] >= sample.use.counts[sample.codes[1]]
    for code, tiles in zip(sample.codes, sample.tiles, strict=True):
        assert len(tiles) == 6
        for tile in tiles:
            assert tile.shape == (3, 24, 24)
            torch.testing.assert_close(tile[:, 8:16, 8:16], torch.full((3, 8, 8), float(code)))
    page = atlas(sample, patches=6)
    assert page.mode == "RGB" and page.width > 2 * 6 * 66


def test_pages_follow_each_other(data: Path) -> None:
    source, tokenizer = open_source(data), black_and_white()
    first, second = (sample_places(tokenizer, source, count=1, page=page) for page in (1, 2))
    assert first.codes + second.codes == sample_places(tokenizer, source).codes
    assert second.first == 2
    with pytest.raises(UserError, match="no page 3: 2 codes are in use, which fill 2 pages"):
        sample_places(tokenizer, source, count=1, page=3)


def test_codes_of_a_run_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    photos = pictures(tmp_path / "photos", count=10)
    tokenizer_run(photos, tmp_path / "tok", steps=2)
    (own,) = (tmp_path / "tok" / "images").glob("codes_*.png")
    assert own.name == "codes_00000002.png"
    drawn = codes(tmp_path / "tok", data=photos, out=tmp_path / "codes.png", progress=False, device="cpu")
    with Image.open(drawn) as page, Image.open(own) as kept:
        assert page.size == kept.size
    with pytest.raises(UserError, match="ends in"):
        codes(tmp_path / "tok", data=photos, out=tmp_path / "codes.jpg")


def test_reconstruction_errors_are_those_of_the_pictures() -> None:
    tokenizer = black_and_white()
    cells = (
        torch.tensor([[0.0, 1.0], [0.0, 1.0]])[None, None].repeat_interleave(16, 2).repeat_interleave(16, 3)
    )
    images = (cells * 0.8).expand(2, 3, 32, 32)
    errors = reconstruction_errors(tokenizer, images)["reconstruction"]
    # White stands for 0.8 in one half; one colour is 0.4 off everywhere; places of one colour are exact.
    assert errors == pytest.approx(
        {"tokenizer": 0.02, "mean colour": 0.16, "mean colour of every place": 0.0}, abs=1e-6
    )
    strip = round_trip_strip(tokenizer, images)
    assert strip is not None and strip.width > 2 * 160
