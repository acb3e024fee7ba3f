"""Official files become tokenizers that say the official codes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.golden.golden import load_case
from tests.golden.official import tensors
from unmask.tokenizers.official import from_official, is_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


def official(name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights, images, and the codes that the official code gives them."""
    case = load_case(GOLDEN / name)
    codes = "out/codes" if name == "dvae" else "out/codes_eval_after_update"
    expected = torch.from_numpy(case["expected"][codes]["values"]).flatten(1)
    return tensors(case["params"]), tensors(case["inputs"])["images"], expected


def test_dvae() -> None:
    weights, images, expected = official("dvae")
    assert is_tokenizer(weights)
    tokenizer = from_official(weights, image_size=(64, 64))
    assert torch.equal(tokenizer.codes(images), expected)
    assert from_official(weights).image_size == (112, 112)
    assert tokenizer.decode(expected).shape == images.shape
    assert not any(p.requires_grad for p in tokenizer.parameters())


def test_vqkd(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, images, expected = official("vqkd")
    assert is_tokenizer(weights)
    monkeypatch.setattr("unmask.tokenizers.official.HEAD_DIM", 8)  # the fixture has narrow heads
    teacher = {"teacher_model.visual.proj": torch.zeros(3, 3)}
    tokenizer = from_official(weights | teacher)
    # The update before these codes changes none of them, the fixture says.
    assert torch.equal(tokenizer.codes(images), expected)
    with pytest.raises(ValueError, match="for images of 64 x 64 pixels"):
        from_official(weights, image_size=(128, 128))


def test_says_what_does_not_fit() -> None:
    weights, _, _ = official("dvae")
    half = {name.removeprefix("encoder."): value for name, value in weights.items() if "encoder" in name}
    assert is_tokenizer(half)
    with pytest.raises(ValueError, match="one half"):
        from_official(half)
    with pytest.raises(ValueError, match="do not fit"):
        from_official({**weights, "decoder.blocks.output.conv.w": torch.zeros(1, 1, 1, 1)})
    with pytest.raises(ValueError, match=r"encoder\.groups\.0\.0\.path\.0\.1\.weight"):
        from_official(
            {k: v for k, v in weights.items() if "encoder.blocks.group_1.block_1.res_path.conv_1.w" not in k}
        )
    with pytest.raises(ValueError, match="Known are"):
        from_official({"blocks.0.weight": torch.zeros(1)})
    assert not is_tokenizer({"encoder.blocks.0.norm1.weight": torch.zeros(1)})
