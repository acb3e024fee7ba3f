"""A segmenter in use: pictures of any size, saved and read again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_encoder
from unmask.data import normalise
from unmask.encoders.itpn import Pyramid
from unmask.errors import UserError
from unmask.evaluate.segment.head import enlarged
from unmask.evaluate.segment.segmenter import Reading, Segmenter, load_segmenter, save_segmenter
from unmask.necks import create_backbone

READING = Reading(short_side=64, stride=0.5, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def segmenter(name: str = "vit", reading: Reading = READING) -> Segmenter:
    torch.manual_seed(0)
    pyramid = Pyramid(48, width=16, depth=1) if name == "hivit" else None
    backbone = create_backbone(tiny_encoder(name, image_size=(64, 64)), pyramid=pyramid)
    return Segmenter(backbone, classes=("sky", "sea"), reading=reading, width=8, norm="batch").eval()


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(height, width, 3)).astype(np.uint8)


def test_a_picture_of_the_networks_size_is_one_window() -> None:
    network, picture = segmenter(), pixels(64, 64)
    images = normalise(torch.from_numpy(picture).permute(2, 0, 1)[None], READING.mean, READING.std)
    with torch.no_grad():
        torch.testing.assert_close(network.scores(picture), network(images)[0])


@pytest.mark.parametrize("size", [(64, 90), (150, 64), (20, 31), (100, 200)])
@pytest.mark.parametrize("short_side", [64, 48, None])
def test_pictures_of_any_size_get_scores_in_their_own(size: tuple[int, int], short_side: int | None) -> None:
    network = segmenter(
        reading=Reading(short_side=short_side, stride=0.5, mean=READING.mean, std=READING.std)
    )
    found = network.scores(pixels(*size))
    assert found.shape == (2, *size) and torch.isfinite(found).all()


def test_scaled_pictures_are_scaled_back() -> None:
    """Twice as large, of the same content: the same scores, enlarged."""
    network, small = segmenter(), pixels(32, 32)
    large = np.asarray(Image.fromarray(small).resize((64, 64), Image.Resampling.BILINEAR))
    torch.testing.assert_close(
        network.scores(small), enlarged(network.scores(large)[None], (32, 32))[0], atol=0.02, rtol=0
    )


def test_predictions_are_the_best_scores() -> None:
    network = segmenter()
    grey = Image.fromarray(pixels(40, 50)).convert("L")
    found = network.predict(grey)
    assert found.shape == (40, 50) and set(np.unique(found)) <= {0, 1}
    three = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    assert np.array_equal(found, network.scores(three).argmax(0).numpy())
    assert np.array_equal(found, network.predict(three))


@pytest.mark.parametrize("name", ["vit", "swin", "hivit", "revcolv2"])
def test_it_is_saved_and_read(name: str, tmp_path: Path) -> None:
    network, picture = segmenter(name), pixels(70, 80)
    save_segmenter(network, tmp_path, made_by={"step": 3})
    again = load_segmenter(tmp_path)
    assert not again.training and again.classes == ("sky", "sea") and again.reading == READING
    assert torch.equal(again.scores(picture), network.scores(picture))
    assert json.loads((tmp_path / "segmenter.json").read_text())["made_by"] == {"step": 3}


def test_what_is_no_segmenter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no segmenter\.json"):
        load_segmenter(tmp_path)
    save_segmenter(segmenter(), tmp_path, made_by={})
    card = (tmp_path / "segmenter.json").read_text()
    for text, message in (
        ("{", "no segmenter's card"),
        (card.replace('"format": 1', '"format": 9'), "has format 9"),
        (card.replace('"sea"', '"sea", "land"'), "damaged, or not of its card"),
        (card.replace('"head"', '"feet"'), "no segmenter's card"),
    ):
        (tmp_path / "segmenter.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load_segmenter(tmp_path)
    (tmp_path / "segmenter.json").write_text(card)
    (tmp_path / "segmenter.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        load_segmenter(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "hivit"])
def test_other_runtimes_give_the_same_scores(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = segmenter(name)
    path = network.to_onnx(tmp_path / "scene.onnx")
    session = runtime.InferenceSession(path)
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
    found = torch.from_numpy(session.run(["scores"], {"images": images.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    about = json.loads(session.get_modelmeta().custom_metadata_map["unmask"])
    assert about["classes"] == ["sky", "sea"] and about["reading"]["short_side"] == 64
