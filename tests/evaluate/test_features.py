"""Features must be those of the encoder, in eval mode, for the right images, in the right order."""

import re
from pathlib import Path

import pytest
import torch

from tests.evaluate.pictures import write_pictures
from tests.tiny import tiny_encoder
from unmask.data import EvaluationLoader, normalise, open_source
from unmask.encoders import Features
from unmask.errors import UserError
from unmask.evaluate import Place, extract, features_at, features_of, pixels

SIZE = (64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), each=5)


def images_of(folder: Path) -> torch.Tensor:
    return torch.cat([images for images, _, _ in EvaluationLoader(open_source(folder), SIZE, batch_size=8)])


@pytest.mark.parametrize("name", ["vit", "vit_registers", "vit_no_class_token", "beit_shared", "swin"])
def test_pooling(name: str) -> None:
    torch.manual_seed(0)
    encoder = tiny_encoder(name).train()
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = features_of(encoder, mean=mean, std=std)(images)
    assert not encoder.training
    expected = encoder(normalise(images, mean, std))
    torch.testing.assert_close(found, expected.patches.mean(1))
    if expected.cls is not None:
        torch.testing.assert_close(features_of(encoder, mean=mean, std=std, pool="cls")(images), expected.cls)


@pytest.mark.parametrize("name", ["vit", "vit_registers", "vit_no_class_token", "beit_shared"])
def test_last_layer_is_the_output_before_the_norm(name: str) -> None:
    torch.manual_seed(0)
    encoder = tiny_encoder(name)
    encoder.model.norm = torch.nn.Identity()
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    torch.testing.assert_close(features_of(encoder, layer=-1)(images), features_of(encoder)(images))
    assert not torch.allclose(features_of(encoder, layer=0)(images), features_of(encoder)(images))


def test_layer_of_a_swin_is_the_mean_of_a_stage() -> None:
    encoder = tiny_encoder("swin")
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    with torch.no_grad():
        stage = encoder.eval()(normalise(images)).pyramid[1]
        torch.testing.assert_close(features_of(encoder, layer=1)(images), stage.mean((2, 3)))


def test_wrong_choices_fail_before_any_image_is_read() -> None:
    for pool in ("median", "mean+", "mean + cls"):
        with pytest.raises(UserError, match=f"cannot pool by '{re.escape(pool)}'"):
            features_of(tiny_encoder("vit"), pool=pool)
    with pytest.raises(UserError, match="cannot pool by 'cls'"):
        features_of(tiny_encoder("swin"), pool="cls")
    with pytest.raises(UserError, match="there is no block 2"):
        features_of(tiny_encoder("vit"), layer=2)


@pytest.mark.parametrize("name", ["vit_registers", "swin"])
def test_several_places_in_one_pass(name: str) -> None:
    encoder = tiny_encoder(name)
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    places = [Place(0, "max"), Place(None, "mean+std"), Place(0, "mean"), Place(-1, "std")]
    with torch.no_grad():
        found = features_at(encoder, places)(images)
        alone = [features_of(encoder, layer=layer, pool=pool)(images) for layer, pool in places]
    torch.testing.assert_close(found, torch.cat(alone, dim=1))


def test_pooling_by_hand() -> None:
    patches, cls = torch.randn(3, 5, 4), torch.randn(3, 4)
    features = Features(patches=patches, cls=cls)
    assert torch.equal(features.pooled("max"), patches.max(1).values)
    torch.testing.assert_close(
        features.pooled("std"), (patches - patches.mean(1)[:, None]).pow(2).mean(1).sqrt()
    )
    assert torch.equal(features.pooled("cls+mean"), torch.cat([cls, patches.mean(1)], dim=1))


def test_pixels_are_block_means() -> None:
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    blocks = normalise(images).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    torch.testing.assert_close(pixels(images), blocks.flatten(1))


@pytest.mark.parametrize("workers", [0, 2])
def test_extract_keeps_the_order_of_the_source(folder: Path, workers: int) -> None:
    source = open_source(folder)
    encoder = tiny_encoder("vit")
    extractors = {"own": features_of(encoder), "pixels": pixels}
    found, labels = extract(extractors, source, image_size=SIZE, batch_size=4, workers=workers)
    assert labels.tolist() == source.labels == [0] * 5 + [1] * 5 + [2] * 5
    images = images_of(folder)
    with torch.no_grad():
        torch.testing.assert_close(found["own"], features_of(encoder)(images))
    torch.testing.assert_close(found["pixels"], pixels(images))
    assert not found["own"].requires_grad


def test_mirror(folder: Path) -> None:
    source = open_source(folder)
    found, _ = extract({"pixels": pixels}, source, image_size=SIZE, mirror=True)
    torch.testing.assert_close(found["pixels"], pixels(images_of(folder).flip(-1)))


def test_unreadable_files_are_left_out_of_both(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "data", each=5)
    (folder / "blue" / "002.png").write_bytes(b"no picture")
    found, labels = extract({"pixels": pixels}, open_source(folder), image_size=SIZE, batch_size=4)
    assert labels.tolist() == [0] * 4 + [1] * 5 + [2] * 5
    assert len(found["pixels"]) == 14


def test_labels_are_needed(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "data", each=2)
    with pytest.raises(UserError, match="carry no labels"):
        extract({"pixels": pixels}, open_source(folder / "red"), image_size=SIZE)
