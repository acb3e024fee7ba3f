"""Encoders handed over: as ordinary timm and Hugging Face models, as ONNX, as plain weights."""

from pathlib import Path

from unmask.errors import UserError
from unmask.export.classifier import export_classifier
from unmask.export.huggingface import write_huggingface
from unmask.export.onnx import write_onnx
from unmask.export.saved import save_encoder, save_pyramid
from unmask.export.timm import write_timm
from unmask.load import PYRAMID, WEIGHTS, is_path, load_encoder, load_pyramid, read_card
from unmask.runs import task_of

__all__ = ["FORMATS", "export", "load_encoder", "load_pyramid", "read_card", "save_encoder"]

FOLDERS = {"timm": write_timm, "huggingface": write_huggingface}
FILES = {"onnx": "onnx/encoder.onnx", "safetensors": WEIGHTS}
CLASSIFIERS = {"timm": "timm", "huggingface": "huggingface", "onnx": "onnx/classifier.onnx"}
FORMATS = (*FOLDERS, *FILES)


def export(run: str | Path, *, to: str, out: str | Path | None = None, normalise: bool = False) -> Path:
    """Hand over a run's encoder; of a fine-tuned run its classifier.

    Args:
        run: a run folder, or whatever else holds a saved encoder.
        to: "timm", a folder in the layout of timm's hub models, for
            `timm.create_model("local-dir:FOLDER", pretrained=True)` and for uploading; "huggingface", a
            folder for `transformers.AutoModel.from_pretrained`; "onnx", a graph for any number of images; or
            "safetensors", weights alone. The last two are a file with its card beside it.
        out: the folder, or the file; None is `export/timm` and the like inside the run. Earlier exports there
            are replaced. A feature pyramid that was trained together with the encoder goes with it into
            every folder of weights, not into a graph.
        normalise: make the normalisation of pixels a part of the ONNX graph.

    Returns:
        What was written: the folder or the file.

    Raises:
        UserError: no such format or run, or a package that the format needs is missing.
    """
    if to not in FORMATS:
        raise UserError(f"Cannot export to {to!r}; possible are {', '.join(FORMATS)}.")
    if normalise and to != "onnx":
        raise UserError(f"Only an ONNX graph can normalise images itself; an export to {to} cannot.")
    if not is_path(run) or not Path(run).expanduser().exists():
        raise UserError(f"There is no run folder {run}; give one that a pre-training wrote.")
    weights, card = read_card(run)
    if to != "safetensors" and task_of(weights.parent) == "finetune":
        target = weights.parent / "export" / CLASSIFIERS[to] if out is None else Path(out).expanduser()
        if to == "onnx" and target.suffix != ".onnx":
            target = target / "classifier.onnx"
        bits = card.get("bits", 8)
        return export_classifier(weights.parent, to=to, target=target, bits=bits, normalise=normalise)
    encoder, pyramid = load_encoder(run), load_pyramid(run)
    target = weights.parent / "export" / FILES.get(to, to) if out is None else Path(out).expanduser()
    if to in FOLDERS:
        if target.exists() and not target.is_dir():
            raise UserError(f"{target} is a file; a {to} export is a folder.")
        FOLDERS[to](encoder, card, target)
        if pyramid is not None:
            save_pyramid(pyramid, target / PYRAMID)
        return target
    default = Path(FILES[to])
    if target.suffix != default.suffix:
        target = target / default.name
    if to == "onnx":
        return write_onnx(encoder, card, target, normalise=normalise)
    return save_encoder(
        encoder,
        target.parent,
        mean=card["mean"],
        std=card["std"],
        bits=card.get("bits", 8),
        made_by=card.get("made_by", {}),
        file=target.name,
        pyramid=pyramid,
    )
