"""From an official file to a folder that all commands read."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import SAFE_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import nn

from unmask import __version__
from unmask.convert.finding import Finding
from unmask.convert.recognise import recognise
from unmask.convert.weights import load_official
from unmask.data.views import imagenet_statistics
from unmask.encoders import Encoder
from unmask.encoders.itpn import Pyramid
from unmask.engine.files import beside, flush, publish, remove, write_text
from unmask.engine.run import require_new
from unmask.errors import UserError
from unmask.export import save_encoder
from unmask.methods import Method
from unmask.reading import Checkpoint, read_checkpoint
from unmask.recipes.base import Recipe
from unmask.recipes.build import build_encoder, build_method, with_paths_from
from unmask.recipes.resolve import resolve_recipe
from unmask.recipes.settings import parse_value


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What `convert` made.

    Attributes:
        folder: of the run, or of the encoder.
        facts: what the file is: label -> value, for people.
        notes: what the file does not tell and was taken, and other things to know; sentences.
        complete: whether there are the method's own weights too, so that it can reconstruct.
    """

    folder: Path
    facts: dict[str, str]
    notes: tuple[str, ...]
    complete: bool


def convert(
    file: str | Path,
    *,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Converted:
    """Turn weights that others trained into a folder that `load_encoder`, `evaluate`, `export` and, where the
    decoder is in the file, `reconstruct` take.

    Files of MAE (facebookresearch/mae), SimMIM (microsoft/SimMIM and microsoft/Swin-Transformer), HiViT
    (zhangxiaosong18/hivit) and iTPN (sunsmarterjie/iTPN), from pre-training or fine-tuning; CMAE
    (ZhichengHuang/CMAE); MILAN (zejiangh/MILAN); BEiT and BEiT v2 (microsoft/unilm) and CAE (lxtGH/CAE);
    CLIP's visual towers; ViT, BEiT, Swin and SwinV2 in timm's names. What learned from a teacher or a
    tokenizer is a whole run where `method.teacher` or `method.tokenizer` is named. Sizes are read off the
    shapes of the weights, and every weight must find its place.

    Args:
        file: what `torch.save` wrote, or safetensors. No code in it is run.
        out: folder to make; None is `runs/<name of the file>`.
        overrides: dotted key -> value ("encoder.num_heads", "method.norm_target", "data.mean", ...), for what
            the weights do not tell.

    Raises:
        UserError: a file that is damaged, not safe or not known, weights that do not fit, a folder that is
            in use.
    """
    path = Path(file).expanduser()
    folder = Path("runs") / path.stem if out is None else Path(out).expanduser()
    require_new(folder)
    checkpoint = read_checkpoint(path)
    given = {key: parse_value(value) for key, value in (overrides or {}).items()}
    try:
        named = {part: given.get(f"method.{part}") for part in ("teacher", "tokenizer")}
        finding = recognise(checkpoint, path.stem, **named)
        recipe = with_paths_from(resolve_recipe(finding.recipe, overrides=given), folder)
        built, pyramid = _build(finding, recipe)
    except ValueError as error:
        raise UserError(f"{path} cannot be converted: {error}") from error
    encoder = built.encoder if isinstance(built, Method) else built
    origin = {"file": path.name, "sha256": _digest(path), "epoch": checkpoint.epoch}
    made_by = {"unmask": __version__, "recipe": recipe.name, "converted_from": origin}
    if finding.complete:
        made_by["method"] = recipe.method.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = beside(folder)
    try:
        _write(unfinished, built, encoder, pyramid, recipe, made_by)
        publish(unfinished, folder)
    finally:
        remove(unfinished)
    return Converted(
        folder=folder,
        facts=_facts(finding, checkpoint, recipe, encoder),
        notes=(*_guesses(finding, recipe, given), *finding.notes),
        complete=finding.complete,
    )


def _build(finding: Finding, recipe: Recipe) -> tuple[Method | Encoder, Pyramid | None]:
    """The method, or the encoder alone, with the weights of the file; and the pyramid that comes with it."""
    pyramid = None
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn first, which should disturb nobody
        built = build_method(recipe) if finding.complete else build_encoder(recipe)
        if finding.pyramid is not None:
            pyramid = Pyramid(**finding.pyramid)
    parts = {"encoder": built} if pyramid is None else {"encoder": built, "pyramid": pyramid}
    whole = built if isinstance(built, Method) else nn.ModuleDict(parts)
    load_official(whole, finding.weights, finding.rename, kept=finding.kept)
    return built.eval(), built.feature_pyramid if isinstance(built, Method) else pyramid


def _write(
    folder: Path,
    built: Method | Encoder,
    encoder: Encoder,
    pyramid: Pyramid | None,
    recipe: Recipe,
    made_by: dict[str, Any],
) -> None:
    """All files, in a folder that is not yet in its place."""
    mean, std = imagenet_statistics(recipe.data.channels, recipe.data.mean, recipe.data.std)
    save_encoder(encoder, folder, mean=mean, std=std, made_by=made_by, pyramid=pyramid)
    if isinstance(built, Method):
        checkpoint = folder / "checkpoints" / "step_00000000"
        checkpoint.mkdir(parents=True)
        weights = {name: tensor.contiguous() for name, tensor in built.state_dict().items()}
        save_file(weights, checkpoint / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
        for path in (checkpoint / SAFE_WEIGHTS_NAME, checkpoint):
            flush(path)
        write_text(folder / "recipe.json", recipe.to_json())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _facts(finding: Finding, checkpoint: Checkpoint, recipe: Recipe, encoder: Encoder) -> dict[str, str]:
    height, width = encoder.image_size
    millions = sum(parameter.numel() for parameter in encoder.model.parameters()) / 1e6
    options = {key: value for key, value in recipe.encoder.options.items() if key not in ("position", "init")}
    changed = ", ".join(f"{key}={value}" for key, value in options.items())
    facts = {
        "file": finding.title + (f", epoch {checkpoint.epoch}" if checkpoint.epoch is not None else ""),
        "encoder": f"{finding.family}, {millions:.3g} M parameters",
        "timm model": recipe.encoder.name + (f" with {changed}" if changed else ""),
        "images": f"{height} x {width} pixels, {encoder.channels} channels, patches of {encoder.patch_size}",
    }
    if finding.complete:
        facts["method"] = ", ".join(f"{key}={value}" for key, value in recipe.method.options.items())
    if finding.left_out:
        facts["left out"] = ", ".join(finding.left_out)
    return facts


def _guesses(finding: Finding, recipe: Recipe, given: Mapping[str, Any]) -> list[str]:
    """What was taken where the weights do not tell, unless a person told."""
    taken = recipe.model_dump()
    return [
        f"{key}={taken[key.split('.')[0]][key.split('.')[1]]} is a guess: the weights do not tell; {reason}."
        for key, reason in finding.guessed.items()
        if key not in given
    ]
