"""Teachers by name."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from unmask.encoders import Encoder, create_encoder, list_encoders
from unmask.encoders.published import require_weights
from unmask.errors import UserError
from unmask.load import load_encoder, read_card, resized
from unmask.masking import Grid
from unmask.targets.teacher import Teacher
from unmask.targets.teachers.encoders import TAPS, EncoderTeacher
from unmask.targets.teachers.lite0 import ADVICE, LITE0, MEAN, STD, TRAINED_ON, efficientnet_lite0
from unmask.targets.teachers.maps import MapTeacher, strides_of
from unmask.targets.teachers.openclip import open_clip_tower

TIMM, OPEN_CLIP, RANDOM = "timm:", "open_clip:", "random:"
FORMS = (
    f"{LITE0}, timm:NAME, random:NAME (a timm model with random weights), open_clip:MODEL/WEIGHTS, or the "
    "path of a run or an exported encoder; what is taught may stand behind it, as in timm:NAME@resid"
)


def create_teacher(name: str, *, grid: Grid, channels: int = 3) -> Teacher:
    """A frozen network for a student.

    Names are `efficientnet_lite0`, the one that needs no connection; `timm:NAME`, with the published weights
    of any ViT or network with feature maps; `open_clip:MODEL/WEIGHTS`; `random:NAME`, a timm model with
    random weights, always the same, to compare with; or the path of a run or an exported encoder. Behind "@"
    stands what is taught: of a ViT `norm` (default), `resid` or `proj` (`TAPS`); of a network with maps the
    stride of the map, and how many times it is enlarged (default 32x2, on grids of odd sides 32).

    The random generator of the caller stays as it is.

    Args:
        grid: rows and columns of the student's features; the size of the teacher's images follows.
        channels: of the student's images.

    Raises:
        UserError: an unknown name, weights that are not there, a teacher that does not fit the student.
    """
    source, tap = _split(name)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        try:
            return _create(name, source, tap, grid, channels)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"the teacher {name}: {error}") from error


def _split(name: str) -> tuple[str, str]:
    """Where the network comes from, and what of it is taught ("" if that is not said)."""
    source, at, tap = name.rpartition("@")
    if not at or Path(name).expanduser().exists():
        return name, ""
    return source, tap


def _create(name: str, source: str, tap: str, grid: Grid, channels: int) -> Teacher:
    common = {"name": name, "channels": channels}
    if source == LITE0:
        facts = {"mean": MEAN, "std": STD, "trained_on": TRAINED_ON, "advice": ADVICE}
        return MapTeacher(efficientnet_lite0(), grid=grid, **_map(tap), **common, **facts)
    if source.startswith((TIMM, RANDOM)):
        prefix = TIMM if source.startswith(TIMM) else RANDOM
        return _of_timm(source.removeprefix(prefix), tap, grid, pretrained=prefix == TIMM, **common)
    if source.startswith(OPEN_CLIP):
        encoder, projection, mean, std = open_clip_tower(source.removeprefix(OPEN_CLIP))
        facts = {"mean": mean, "std": std, "trained_on": "pairs of pictures and texts"}
        return _of_encoder(encoder, tap, grid, projection=projection, **facts, **common)
    if Path(source).expanduser().exists():
        _, card = read_card(source)
        facts = {"mean": card["mean"], "std": card["std"], "trained_on": _origin(card)}
        return _of_encoder(load_encoder(source), tap, grid, **facts, **common)
    near = difflib.get_close_matches(source, [LITE0, *list_encoders()], n=1, cutoff=0.6)
    if timm.is_model(source.split(".")[0]):
        hint = f"; did you mean {TIMM}{source}?"
    elif near:
        hint = f"; did you mean {'' if near[0] == LITE0 else TIMM}{near[0]}?"
    else:
        hint = ", and there is no such path."
    raise UserError(f"no teacher is called {name!r}{hint} Possible are {FORMS}.")


def _of_timm(model: str, tap: str, grid: Grid, *, pretrained: bool, name: str, channels: int) -> Teacher:
    """A ViT or Swin by its encoder, any other by its maps."""
    published = timm.get_pretrained_cfg(model) if timm.is_model(model.split(".")[0]) else None
    if published is None:
        near = difflib.get_close_matches(model, timm.list_models(), n=3, cutoff=0.6)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"timm has no model {model!r}{hint}")
    if pretrained and not published.has_weights:
        tags = timm.list_pretrained(f"{model.split('.')[0]}.*")
        offered = f"; there are {', '.join(tags)}" if tags else ""
        raise UserError(f"timm has no weights for {model}{offered}")
    if "quickgelu" not in model and any("QuickGELU" in note for note in published.notes or ()):
        right = model.replace("_clip_", "_clip_quickgelu_")
        raise UserError(
            f"the weights of {model} were trained with QuickGELU, and timm would run them with the exact "
            f"GELU: other features, without a word. Use method.teacher=timm:{right}"
        )
    facts: dict[str, Any] = {"mean": published.mean, "std": published.std, "name": name, "channels": channels}
    facts["trained_on"] = f"what timm calls {published.tag or 'its default'}" if pretrained else "nothing"
    if model.split(".")[0] in list_encoders():
        native = published.input_size[1:]
        options = {"num_classes": published.num_classes} if tap == "proj" else {}
        encoder = create_encoder(model, image_size=native, pretrained=pretrained, **options)
        return _of_encoder(encoder, tap, grid, projection=_head(encoder) if options else None, **facts)
    network, which = _network(model, pretrained), _map(tap)
    try:
        return MapTeacher(network, grid=grid, **which, **facts)
    except ValueError as error:
        height, width = published.input_size[1:]
        raise UserError(f"{error}. It was made for images of {height} x {width} pixels") from error


def _of_encoder(
    encoder: Encoder, tap: str, grid: Grid, *, projection: nn.Linear | None = None, **facts: Any
) -> EncoderTeacher:
    """The encoder at the size that gives the student's grid."""
    if tap and tap not in TAPS:
        raise ValueError(f"there are no features {tap!r}; behind @ can stand {', '.join(TAPS)}")
    size = grid[0] * encoder.stride, grid[1] * encoder.stride
    if size != encoder.image_size:
        encoder = resized(encoder, size).eval()
    if tap != "proj":
        return EncoderTeacher(encoder, tap="resid" if tap == "resid" else "norm", **facts)
    if projection is None:
        raise ValueError("it has no projection, which belongs to CLIP; use @norm or @resid")
    return EncoderTeacher(encoder, tap="proj", projection=projection, **facts)


def _head(encoder: Encoder) -> nn.Linear:
    """CLIP's projection, which timm keeps as a classifier."""
    head: Any = encoder.model.get_submodule("head")
    if not isinstance(head, nn.Linear):
        raise ValueError("it has no projection; use @norm or @resid")
    encoder.model.head = nn.Identity()
    return head


def _network(model: str, pretrained: bool) -> nn.Module:
    """A timm model that is no encoder of ours."""
    try:
        if pretrained:
            require_weights(model)
        built = timm.create_model(model, pretrained=pretrained)
    except Exception as error:  # what hub clients raise without a network differs between versions
        if not pretrained:
            raise
        raise UserError(
            f"the published weights of {model} are not on this machine and could not be fetched: "
            f"{type(error).__name__}. Go online once, or name another teacher, such as {LITE0}."
        ) from error
    strides_of(built)
    return built


def _map(tap: str) -> dict[str, int]:
    """Which map: "32" is its stride, "32x2" that of one that is enlarged."""
    if tap and not re.fullmatch(r"\d+(x\d+)?", tap):
        raise ValueError(
            "behind @ stands the stride of a map, as in @16, or of one to be enlarged, as in @32x2"
        )
    return dict(zip(("stride", "enlarged"), map(int, tap.split("x") if tap else ()), strict=False))


def _origin(card: Mapping[str, Any]) -> str:
    made_by = card.get("made_by") or {}
    return f"your images by {made_by['method']}" if made_by.get("method") else "what its card does not say"
