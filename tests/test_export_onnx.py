"""An exported graph must give our features in onnxruntime, for any number of images, or not be there."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_export import CASES, MEAN, STD, save, tiny
from unmask.encoders import Encoder, create_encoder
from unmask.errors import UserError
from unmask.export import export
from unmask.export.onnx import write_onnx

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ONNX = sys.modules[write_onnx.__module__]


def run(path: Path, images: torch.Tensor) -> dict[str, torch.Tensor]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {"images": images.numpy()})), strict=True))


QUICK = ("vit", "beit_bias_each_block")
SMALL_SWIN = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
SWINS = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}
SLOW = [case for case in CASES if case not in (*QUICK, *SWINS)]


def encoder_of(case: str) -> Encoder:
    """The cases of timm's export; of the Swins, which take long to translate, two stages."""
    if case not in SWINS:
        return tiny(case)
    torch.manual_seed(0)
    encoder = create_encoder(SWINS[case], image_size=(64, 64), **SMALL_SWIN)
    for parameter in encoder.model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return encoder.eval()


@pytest.mark.parametrize(
    "case",
    [
        *QUICK,
        *SWINS,
        *(pytest.param(case, marks=pytest.mark.slow) for case in CASES if case not in (*QUICK, *SWINS)),
    ],
)
def test_onnxruntime_gives_our_features(case: str, tmp_path: Path) -> None:
    encoder = encoder_of(case)
    save(encoder, tmp_path)
    path = export(tmp_path, to="onnx")
    assert path == tmp_path / "export" / "onnx" / "encoder.onnx"
    assert sorted(file.name for file in path.parent.iterdir()) == ["encoder.json", "encoder.onnx"]
    for count in (1, 5):
        images = torch.randn(count, encoder.channels, *encoder.image_size)
        found = run(path, images)
        with torch.inference_mode():
            features = encoder(images)
        assert list(found) == ["patches", *(["cls"] if encoder.has_cls else []), "pooled"]
        torch.testing.assert_close(found["patches"], features.patches, atol=1e-4, rtol=0)
        torch.testing.assert_close(found["pooled"], features.patches.mean(1), atol=1e-4, rtol=0)
        if features.cls is not None:
            torch.testing.assert_close(found["cls"], features.cls, atol=1e-4, rtol=0)
    assert json.loads(path.with_suffix(".json").read_text())["difference_from_pytorch"] < 1e-4


def test_the_card_stands_in_the_graph_and_its_snippet_runs(tmp_path: Path) -> None:
    encoder = tiny("vit")
    save(encoder, tmp_path)
    path = export(tmp_path, to="onnx", out=tmp_path / "out" / "backbone.onnx")
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["mean"], card["std"], card["crop_fraction"]) == (MEAN[:3], STD[:3], 0.875)
    inside = ort.InferenceSession(path).get_modelmeta().custom_metadata_map["unmask"]
    assert json.loads(inside) == {
        name: value for name, value in card.items() if name != "difference_from_pytorch"
    }
    pixels = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    head, *rest = card["load"].replace(repr(path.name), repr(str(path))).split("# images:")
    names: dict[str, object] = {}
    exec(head, names)
    names["images"] = pixels
    exec("# images:" + "".join(rest), names)
    mean, std = (torch.tensor(values[:3])[:, None, None] for values in (MEAN, STD))
    expected = encoder((torch.from_numpy(pixels) - mean) / std).patches.mean(1).detach()
    assert np.allclose(names["features"]["pooled"], expected, atol=1e-4)  # type: ignore[index]


def test_normalisation_inside(tmp_path: Path) -> None:
    encoder = tiny("vit")
    save(encoder, tmp_path)
    path = export(tmp_path, to="onnx", normalise=True)
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values[:3])[:, None, None] for values in (MEAN, STD))
    expected = encoder((pixels - mean) / std).patches.detach()
    torch.testing.assert_close(run(path, pixels)["patches"], expected, atol=1e-4, rtol=0)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["input"] == "pixels in 0..1" and "normalised" not in card["load"]


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ONNX, "ONE_FILE", 1000)
    save(tiny("vit"), tmp_path)
    path = export(tmp_path, to="onnx")
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["encoder.json", "encoder.onnx", "encoder.onnx.data"]
    run(path, torch.rand(1, 3, 32, 32))


def test_wrong_features_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ONNX, "TOLERANCE", -1.0)
    save(tiny("vit"), tmp_path)
    with pytest.raises(RuntimeError, match="differ from PyTorch's"):
        export(tmp_path, to="onnx")
    assert not any((tmp_path / "export" / "onnx").iterdir())


def test_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tiny("vit"), tmp_path)
    monkeypatch.setattr(ONNX, "find_spec", lambda name: None if name == "onnxruntime" else name)
    path = export(tmp_path, to="onnx")
    assert "was not checked" in caplog.text
    assert json.loads(path.with_suffix(".json").read_text())["difference_from_pytorch"] is None
    monkeypatch.setattr(ONNX, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx: pip install 'unmask\[onnx\]'"):
        export(tmp_path, to="onnx")


def test_normalise_is_for_onnx(tmp_path: Path) -> None:
    save(tiny("vit"), tmp_path)
    with pytest.raises(UserError, match="Only an ONNX graph"):
        export(tmp_path, to="timm", normalise=True)
