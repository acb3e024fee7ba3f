"""Weights out of a file, without running code that it may hold.

A PyTorch file is a pickle, and a pickle can call anything. PyTorch's restricted reader takes tensors and
plain data only; official files also hold the settings of their training as objects of `argparse` or `yacs`,
which are read as plain data here. Whatever else a file names is refused before it is called.
"""

import re
import warnings
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unmask.errors import UserError

# Where the repositories and timm keep the weights in what they save; the first that is there counts.
HOMES = ("model", "module", "state_dict", "weights")
SETTINGS = ("args", "config")
WRAPPERS = ("module.", "_orig_mod.")


class _Settings:
    """Stands in for `yacs.config.CfgNode`, a dictionary: its items are read, the class is not."""

    def __new__(cls) -> Any:
        return OrderedDict()


class _Ignored:
    """Stands in for what no weights depend on (NumPy's numbers, mmengine's history of losses): it takes what
    it is given and keeps none."""

    def __init__(self, *_given: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


READ_AS: list[Any] = [
    Namespace,
    (_Settings, "yacs.config.CfgNode"),
    (_Ignored, "numpy.core.multiarray.scalar"),
    (_Ignored, "numpy._core.multiarray.scalar"),
    (_Ignored, "numpy.dtype"),
    (_Ignored, "numpy.ndarray"),
    (_Ignored, "numpy.core.multiarray._reconstruct"),
    (_Ignored, "numpy._core.multiarray._reconstruct"),
    (_Ignored, "mmengine.logging.history_buffer.HistoryBuffer"),
]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        weights: by their names in the file, without the prefixes of wrappers.
        settings: of the training: nested dictionaries (`yacs`) or a flat one (`argparse`); may be empty.
        epoch: counted as the file does; None if it says nothing.
    """

    weights: dict[str, Tensor]
    settings: Mapping[str, Any]
    epoch: int | None

    def setting(self, *path: str) -> Any:
        """A setting by the names on the way to it; None if there is none."""
        value: Any = self.settings
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `.safetensors` file or what `torch.save` wrote.

    Raises:
        UserError: no such file, no weights in it, or more in it than data.
    """
    if not path.is_file():
        what = "a folder; give the file in it" if path.is_dir() else "not there; check the spelling"
        raise UserError(
            f"{path} is {what}. What can be read are PyTorch files (.pth, .pt, .bin) and safetensors."
        )
    content: Any = _safetensors(path) if path.suffix == ".safetensors" else _pytorch(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    found: Mapping[Any, Any] = next(
        (content[home] for home in HOMES if isinstance(content.get(home), Mapping)), content
    )
    weights = {_unwrapped(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise UserError(
            f"{path} holds no weights under a name that official files use ({', '.join(HOMES)}); it holds "
            f"{', '.join(map(str, list(content)[:8])) or 'nothing'}"
        )
    kept: Any = next((content[name] for name in SETTINGS if name in content), {})
    settings = vars(kept) if isinstance(kept, Namespace) else kept
    epoch = content.get("epoch")
    return Checkpoint(
        weights,
        settings if isinstance(settings, Mapping) else {},
        epoch if isinstance(epoch, int) else None,
    )


def _unwrapped(name: object) -> str:
    text = str(name)
    for wrapper in WRAPPERS:
        text = text.removeprefix(wrapper)
    return text


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error})") from error


def _pytorch(path: Path) -> Any:
    if _is_torchscript(path):
        raise UserError(
            f"{path} is a TorchScript archive, a program with its weights, as OpenAI publishes CLIP; it was "
            'not opened. If you trust its source, save the weights alone: python -c "import torch; '
            f"torch.save(torch.jit.load('{path.name}', map_location='cpu').state_dict(), 'weights.pt')\""
        )
    with torch.serialization.safe_globals(READ_AS), warnings.catch_warnings(action="ignore"):
        try:
            # Mapped where the format can be: the optimiser's states, which nobody asks for, are not read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
        except UnpicklingError as error:
            if wanted := _wanted(path, error):
                raise UserError(
                    f"{path} holds more than weights and settings: it asks for {', '.join(wanted[:4])}"
                    f"{', ...' if len(wanted) > 4 else ''}, which could run any code. It was not opened. If "
                    "you trust its source, load it with the code that wrote it and save its state_dict "
                    "alone, best as safetensors."
                ) from error
            reason = "it is a pickle of another kind, or text"
        except Exception as error:  # there is no end to what a damaged pickle can raise
            reason = next(iter(str(error).strip().splitlines()), "it ends too early")
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK") and not is_zipfile(path):
        reason = "its end is missing"
    raise UserError(
        f"{path} is damaged or no PyTorch file: {reason}. It begins with {start!r}; a page of text is a "
        "download that went wrong."
    )


def _is_torchscript(path: Path) -> bool:
    """Whether a file holds code beside its tensors."""
    if not is_zipfile(path):
        return False
    with ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _wanted(path: Path, error: UnpicklingError) -> list[str]:
    """What a pickle names that is not read, as far as it can be told; empty if that was not the trouble."""
    if is_zipfile(path):
        try:
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except (UnpicklingError, RuntimeError, ValueError, EOFError):
            pass  # the reader's own complaint names the first of them
    return re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
