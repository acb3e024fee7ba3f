"""A detector that is read back finds what it found before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluate.detect.made import SMALL, tiny_detector
from tests.tiny import tiny_encoder
from unmask import load_detector
from unmask.encoders.itpn import Pyramid
from unmask.errors import UserError
from unmask.evaluate.detect.detector import Detector, Heads
from unmask.evaluate.detect.saved import Card, TrainedDetector, _opened, save_detector


def trained(
    encoder: str = "vit", *, masks: bool = False, pyramid: bool = False, **options: object
) -> TrainedDetector:
    torch.manual_seed(1)
    heads = Heads(**{**SMALL, "score_threshold": 0.0, **options})
    made = tiny_encoder(encoder)
    own = Pyramid(made.dim, width=16, depth=1) if pyramid else None
    detector = Detector(made, heads, classes=2, masks=masks, pyramid=own)
    card = Card(
        architecture=made.architecture,
        pyramid=None if own is None else own.architecture,
        heads=heads.model_dump(mode="json"),
        masks=masks,
        names=("disc", "square"),
        ids=(10, 20),
        image_size=(64, 64),
        channels=3,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.2, 0.3),
        made_by={},
    )
    return TrainedDetector(detector, card).eval()


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("vit", {"masks": True, "kind": "cascade"}),
        ("vit", {"window": 4, "global_blocks": 1, "levels": (1, 2)}),
        ("hivit", {"pyramid": True}),
        ("swin", {}),
    ],
)
def test_round_trip(tmp_path: Path, encoder: str, options: dict[str, object]) -> None:
    detector = trained(encoder, **options)
    again = load_detector(save_detector(detector.detector, detector.card, tmp_path))
    assert not again.training
    assert again.names == ("disc", "square")
    assert [type(layer) for layer in again.modules()] == [type(layer) for layer in detector.modules()]
    ours, theirs = (one.find([picture()], threshold=0.3)[0] for one in (detector, again))
    assert len(ours) > 0
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    assert ours.runs == theirs.runs


def test_every_kind_of_picture_in_its_own_pixels(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    detector = trained(masks=True)
    given = [picture(), Image.fromarray(picture()), tmp_path / "a.png", str(tmp_path / "a.png")]
    each = detector.find(given, threshold=0.2, batch_size=2)
    for found in each:
        np.testing.assert_allclose(found.boxes, each[0].boxes, atol=1e-3)
        assert found.masks().shape == (len(found), 50, 90)
        assert found.boxes[:, 2].max() <= 90
        assert found.boxes[:, 3].max() <= 50
        assert found.scores.min() >= 0.2
    assert detector.find([]) == []
    (nothing,) = detector.find([picture()], threshold=1.0)
    assert nothing.masks().shape == (0, 50, 90)


def test_pillows_pictures_are_read_as_their_files_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    deep = (np.arange(50 * 90, dtype=np.uint16) * 14).reshape(50, 90)
    clear = np.dstack([picture(), np.full((50, 90), 100, dtype=np.uint8)])
    Image.fromarray(picture()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(clear).save(tmp_path / "clear.png")
    for name, size in (("turned", (50, 90)), ("deep", (90, 50)), ("clear", (90, 50))):
        path = tmp_path / f"{name}.png"
        ours, theirs = _opened(path, 3), _opened(Image.open(path), 3)
        assert (theirs.mode, theirs.size) == ("RGB", size)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_arrays_keep_their_shape() -> None:
    for shape in ((1, 90, 3), (50, 1, 1), (1, 1, 4), (50, 1)):
        pixels = np.full(shape, 200, dtype=np.uint8)
        assert _opened(pixels, 3).size == (shape[1], shape[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("photo.jpg", r"find\(\[picture\]\)"),
        (Path("photo.jpg"), "a list of pictures"),
        (picture(), "a list of pictures"),
        ([picture() / 255], "not float64 of shape \\[50, 90, 3\\]"),
        ([picture().transpose(2, 0, 1)], "shape \\[3, 50, 90\\]"),
    ],
)
def test_what_is_no_picture(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained().find(given)


def test_messages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no detector.safetensors"):
        load_detector(tmp_path)
    detector = trained()
    with pytest.raises(UserError, match="no picture"):
        detector.find([tmp_path / "none.png"])
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a.png"):
        detector.find([tmp_path / "a.png"])
    save_detector(tiny_detector(classes=5), detector.card, tmp_path)
    with pytest.raises(UserError, match="of another shape"):
        load_detector(tmp_path)
    save_detector(detector.detector, detector.card, tmp_path)
    card = json.loads((tmp_path / "detector.json").read_text())
    (tmp_path / "detector.json").write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(UserError, match="another format"):
        load_detector(tmp_path)
    heads = {**card["heads"], "widht": 3}
    for content in ({}, [], {**card, "architecture": {}}, {**card, "heads": heads}):
        (tmp_path / "detector.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="not a detector's card"):
            load_detector(tmp_path)
    (tmp_path / "detector.json").write_text(json.dumps(card))
    (tmp_path / "detector.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        load_detector(tmp_path)
