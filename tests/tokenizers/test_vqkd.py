"""VQ-KD: what it learns from, and sizes."""

import pytest
import torch

from tests.tokenizers.tiny import TinyTeacher, pictures, tiny_tokenizer, views_of
from unmask.tokenizers.vqkd import VQKD


def test_loss_has_the_two_terms_and_starts_near_one() -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("vqkd")
    losses = tokenizer(**views_of(tokenizer, pictures()))
    torch.testing.assert_close(losses["loss"], losses["distance"] + losses["commitment"])
    assert 0.7 < losses["distance"] < 1.3
    assert 0 <= losses["commitment"] <= 4 / tokenizer.quantizer.codebook.shape[1]


def test_the_scale_of_the_features_of_the_teacher_is_free() -> None:
    tokenizer = tiny_tokenizer("vqkd").eval()
    views = views_of(tokenizer, pictures())
    plain = tokenizer(**views)["distance"]
    tokenizer.to_teacher[2].weight.data *= 7
    torch.testing.assert_close(tokenizer(**views)["distance"], plain)


def test_teacher_images_are_as_large_as_the_teacher_wants() -> None:
    tokenizer = tiny_tokenizer("vqkd", image_size=(32, 48))
    assert tokenizer.views["teacher_images"].scale == 0.5
    assert not tokenizer.views["teacher_images"].normalised


def test_refuses_a_teacher_of_another_grid() -> None:
    with pytest.raises(ValueError, match="3 x 4, but images of 32 x 32 pixels have 4 x 4"):
        VQKD(image_size=(32, 32), patch_size=8, teacher=TinyTeacher((3, 4), 3))


def test_without_a_teacher_it_can_be_used_but_not_trained() -> None:
    tokenizer = VQKD(image_size=(32, 32), patch_size=8, dim=32, depth=1, heads=2, teacher=None)
    assert tokenizer.codes(pictures()).shape == (4, 16)
    assert set(tokenizer.views) == {"images"}
    with pytest.raises(ValueError, match="without"):
        tokenizer(pictures(), pictures())


def test_parameters_of_the_published_model() -> None:
    """Counted on the official class; trainable, 3-layer decoder, features of 512: 108,829,216."""
    teacher = TinyTeacher((14, 14), 3)
    teacher.dim = 512
    with torch.device("meta"):
        tokenizer = VQKD(image_size=(224, 224), teacher=teacher)
    trained = {name: p.numel() for name, p in tokenizer.named_parameters() if p.requires_grad}

    def count(part: str) -> int:
        return sum(size for name, size in trained.items() if name.startswith(f"{part}."))

    assert count("encoder") == 85_789_440 and count("to_code") == 615_200
    assert count("decoder") == 21_440_256 and count("to_teacher") == 984_320
    assert sum(trained.values()) == 108_829_216
