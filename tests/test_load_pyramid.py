"""A pyramid that was trained together with its encoder goes wherever the encoder goes."""

from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_encoder
from unmask.encoders.itpn import Pyramid
from unmask.errors import UserError
from unmask.export import export, save_encoder
from unmask.load import load_encoder, load_pyramid

STATISTICS = {"mean": [0.5] * 3, "std": [0.25] * 3, "made_by": {}}


@pytest.fixture
def pyramid() -> Pyramid:
    torch.manual_seed(0)
    return Pyramid(48, width=16, depth=1, block="convolution")


def test_it_lies_beside_its_encoder(pyramid: Pyramid, tmp_path: Path) -> None:
    encoder = tiny_encoder("hivit").eval()
    save_encoder(encoder, tmp_path, pyramid=pyramid, **STATISTICS)
    save_encoder(encoder, tmp_path, file="encoder_best.safetensors", pyramid=pyramid, **STATISTICS)
    images = torch.randn(1, 3, 64, 64)
    expected = pyramid.maps(encoder(images).pyramid)
    files = ("pyramid.safetensors", "encoder_best.safetensors", "pyramid_best.safetensors")
    for place in (tmp_path, *(tmp_path / file for file in files)):
        found = load_pyramid(place)
        assert found is not None and found.architecture == pyramid.architecture and not found.training
        maps = found.maps(load_encoder(tmp_path)(images).pyramid)
        assert all(torch.equal(*pair) for pair in zip(maps, expected, strict=True))


@pytest.mark.parametrize("to", ["timm", "safetensors"])
def test_exports_hand_it_over(to: str, pyramid: Pyramid, tmp_path: Path) -> None:
    for name, part in (("with", pyramid), ("without", None)):
        save_encoder(tiny_encoder("hivit"), tmp_path / name, pyramid=part, **STATISTICS)
        out = export(tmp_path / name, to=to)
        found = load_pyramid(out if out.is_dir() else out.parent)
        assert (found is None) == (part is None)
        if found is not None:
            pairs = zip(found.state_dict().values(), pyramid.state_dict().values(), strict=True)
            assert all(torch.equal(*pair) for pair in pairs)


def test_what_is_no_pyramid_is_refused(pyramid: Pyramid, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no"):
        load_pyramid(tmp_path / "missing")
    assert load_pyramid(tmp_path) is None
    save_encoder(tiny_encoder("hivit"), tmp_path, **STATISTICS)
    (tmp_path / "encoder.safetensors").rename(tmp_path / "pyramid.safetensors")
    with pytest.raises(UserError, match="holds no feature pyramid"):
        load_pyramid(tmp_path)
    (tmp_path / "pyramid.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        load_pyramid(tmp_path)
