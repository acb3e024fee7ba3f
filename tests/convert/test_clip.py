"""CLIP's visual towers, converted."""

from pathlib import Path

import pytest
import torch

from tests.convert.official import case, weights
from tests.golden.golden import mismatch
from tests.golden.official import tensors
from unmask.convert import convert
from unmask.errors import UserError
from unmask.load import load_encoder
from unmask.targets import create_teacher


@pytest.mark.parametrize("whole", [True, False])
def test_a_clip_becomes_an_encoder_and_a_teacher(tmp_path: Path, whole: bool) -> None:
    state = weights("clip_visual")
    if whole:
        state = {f"visual.{name}": tensor for name, tensor in state.items()}
        state |= {"token_embedding.weight": torch.zeros(4, 8), "logit_scale": torch.ones(())}
    torch.save(state, tmp_path / "clip.pt")
    made = convert(tmp_path / "clip.pt", out=tmp_path / "clip", overrides={"encoder.num_heads": 4})
    assert made.facts["left out"] == ("text tower, projection" if whole else "projection")
    info, expected = case("clip_visual")["info"], case("clip_visual")["expected"]
    images = tensors(case("clip_visual")["inputs"])["images"]
    with torch.no_grad():
        features = load_encoder(made.folder)(images)
    key = "out/patch_tokens_ln_post"
    assert mismatch(expected[key], features.patches.numpy()) <= info["tolerance"]["out"]

    teacher = create_teacher(f"{made.folder}@resid", grid=(4, 4))
    assert teacher.description["activation"] == "QuickGELU"
    mean, std = (torch.tensor(teacher.description[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    taught = teacher(images * std + mean, importance=True)
    raw = torch.cat([taught.cls[:, None], taught.patches], 1)
    assert mismatch(expected["out/tokens_pre_ln_post"], raw.numpy()) <= 2 * info["tolerance"]["out"]


def test_a_torchscript_archive_is_not_opened(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "clip.pt"))
    with pytest.raises(UserError, match="TorchScript"):
        convert(tmp_path / "clip.pt", out=tmp_path / "clip")
