"""The documentation tells the truth: its example of a method runs."""

import re
from pathlib import Path

import torch

from unmask.encoders import create_encoder
from unmask.methods.base import Method

DOCS = Path(__file__).resolve().parents[1] / "docs"


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.M | re.S)


def test_the_example_method_learns_and_reconstructs() -> None:
    (source,) = python_blocks("add-a-method.md")
    namespace: dict[str, object] = {"__name__": "example"}
    exec(compile(source, "add-a-method.md", "exec"), namespace)
    example = namespace["MeanColour"]
    assert isinstance(example, type)
    assert issubclass(example, Method)

    torch.manual_seed(0)
    encoder = create_encoder("vit_tiny_patch16_224", image_size=(32, 48), patch_size=8, embed_dim=48, depth=2)
    method = example(encoder, mask_ratio=0.5)
    images = torch.rand(2, 3, 1, 1).expand(2, 3, 32, 48)  # one colour a picture: nothing is left to guess
    mask = method.draw(images)
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    first = method(images, mask=mask)["loss"]
    for _ in range(60):
        optimiser.zero_grad()
        method(images, mask=mask)["loss"].backward()
        optimiser.step()
    assert method(images, mask=mask)["loss"] < 0.2 * first
    reconstruction = method.reconstruct(images, mask)
    hidden = mask.pixels(encoder.patch_size).expand_as(images)
    assert (reconstruction - images)[hidden].abs().mean() < 0.2 * first


def test_the_example_states_the_five_steps_in_order() -> None:
    (source,) = python_blocks("add-a-method.md")
    assert re.findall(r"^        # (\w+)$", source, flags=re.M) == [
        "mask",
        "encode",
        "predict",
        "target",
        "compare",
    ]
