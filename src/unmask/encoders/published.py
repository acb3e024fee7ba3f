"""Where timm's published weights are: on this machine, on the Hugging Face hub, or nowhere."""

from collections.abc import Iterable
from typing import Any

import timm
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

PATIENCE = 5.0  # seconds; the hub's client alone tries for most of a minute


def require_weights(name: str) -> None:
    """Fail at once where the weights of a timm model are not cached and the hub cannot be reached.

    Raises:
        ConnectionError: they must be fetched, and the hub does not answer.
    """
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id or constants.HF_HUB_OFFLINE or _cached(published):
        return  # timm knows what to say
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:  # its type differs between versions of the client
        raise ConnectionError(f"{constants.ENDPOINT} does not answer") from error


def _cached(published: timm.models.PretrainedCfg) -> bool:
    repository, _, revision = published.hf_hub_id.partition("@")
    names = [published.hf_hub_filename, constants.SAFETENSORS_SINGLE_FILE, constants.PYTORCH_WEIGHTS_NAME]
    return any(
        isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str)
        for name in names
        if name
    )


def untrained(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What timm wants to know of models of ours, of which nobody has published weights in its format."""
    return {
        f"{name}.untrained": {
            "input_size": (3, 224, 224),
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "num_classes": 1000,
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        for name in names
    }
