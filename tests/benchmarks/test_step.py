"""The step benchmark compares the same work."""

import importlib.util

import pytest
import torch
from torch.optim import AdamW

from benchmarks.peers import Contender, Missing, lightly, ours, transformers
from benchmarks.step import Result, build, count_flops, main, ratios, step
from tests.tiny import tiny_encoder
from unmask.methods import Method
from unmask.methods.mae import MAE
from unmask.methods.simmim import SimMIM

CPU = torch.device("cpu")
DECODER = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2}
METHODS = {
    "mae": lambda: MAE(tiny_encoder("vit"), **DECODER),
    "simmim_vit": lambda: SimMIM(tiny_encoder("vit"), mask_size=16),
    # So large that no stage is smaller than a window, which transformers cannot do.
    "simmim_swin": lambda: SimMIM(tiny_encoder("swin", image_size=(128, 128)), mask_size=32),
}


def contenders(method: Method) -> list[Contender]:
    found = [ours(method, CPU, "fp32")]
    for peer in (transformers, lightly):
        try:
            found.append(peer(method))
        except Missing:
            continue
    return found


@pytest.mark.parametrize("name", METHODS)
def test_others_are_of_the_same_size_and_train(name: str) -> None:
    torch.manual_seed(0)
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    method = METHODS[name]()
    own, *others = contenders(method)
    height, width = method.encoder.image_size
    images = torch.randn(4, 3, 1, 1).expand(4, 3, height, width)  # one colour a picture: easily learned
    assert others
    parameters = sum(p.numel() for p in own.model.parameters() if p.requires_grad)
    for other in others:
        theirs = sum(p.numel() for p in other.model.parameters() if p.requires_grad)
        assert theirs == pytest.approx(parameters, rel=0.05)  # a table of positions is trained or not
        assert count_flops(other, images) == pytest.approx(count_flops(own, images), rel=0.15)
        optimiser = AdamW(other.model.parameters(), lr=1e-3)
        before = other.loss(other.model, images).item()
        for _ in range(8):
            step(other, optimiser, images, "fp32")
        assert other.loss(other.model, images).item() < before


def test_operations_of_a_known_model() -> None:
    model = torch.nn.Linear(64, 32, bias=False)
    contender = Contender(name="a matrix", model=model, loss=lambda of, images: of(images).sum())
    # Forward and the gradient of the weights; the images need none.
    assert count_flops(contender, torch.randn(8, 64)) == 2 * 2 * 8 * 64 * 32


def test_a_ratio_is_of_one_round() -> None:
    shared = {"parameters": 1, "flops": 1, "peak_memory": None}
    own = Result(name="own", seconds=[1.0, 2.0], **shared)
    other = Result(name="other", seconds=[1.5, 2.0], **shared)
    assert ratios(other, own) == [1.5, 1.0]


def test_libraries_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _, found, missing = build("simmim", "vit_tiny_patch16_224", (64, 64), device=CPU, precision="fp32")
    assert [contender.name for contender in found] == ["unmask"]
    names = ("transformers", "lightly")
    assert missing == [f"{name} is not installed (pip install {name})" for name in names]


def test_whole_benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("benchmarks.step.MATRIX_SIDES", {"cpu": 64})
    shared = {"method": "simmim", "encoder": "vit_tiny_patch16_224", "image_size": "64", "batch_size": 2}
    main(**shared, rounds=2, steps=1, precision="bf16", device="cpu", compile=False)
    printed = capsys.readouterr().out
    assert "simmim vit_tiny_patch16_224, 64 x 64, batch 2, bf16" in printed
    assert "unmask" in printed and "TFLOP/s" in printed
