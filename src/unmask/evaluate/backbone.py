"""What is evaluated as a backbone of four maps, for tasks that train it further."""

from dataclasses import replace
from pathlib import Path

import torch

from unmask.encoders import Encoder
from unmask.encoders.base import ImageSize
from unmask.encoders.itpn import Pyramid
from unmask.errors import UserError
from unmask.evaluate.subject import Subject, find_subject, untrained
from unmask.load import is_path, load_pyramid, with_drop_path
from unmask.necks import Backbone, NeckName, create_backbone


def backbone_of(
    subject: Subject,
    pyramid: Pyramid | None,
    *,
    neck: NeckName = "auto",
    width: int | None = None,
    drop_path_rate: float = 0.0,
    random: bool = False,
    seed: int = 0,
) -> Backbone:
    """What `find_parts` found as a backbone, whose parts that no run has trained are drawn at random.

    Args:
        neck: see `unmask.necks`.
        width: of all maps, likewise.
        random: the same architecture with the weights that the run started from; a pyramid too.
        seed: of all weights that are drawn.

    Raises:
        UserError: a neck that does not go with the encoder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        subject, pyramid = begun(subject, pyramid, drop_path_rate=drop_path_rate, random=random, seed=seed)
        assert subject.encoder is not None
        try:
            return create_backbone(subject.encoder, neck=neck, pyramid=pyramid, width=width)
        except ValueError as error:
            raise UserError(f"{subject.name}: {error}") from error


def find_parts(
    run_or_name: str | Path | Encoder, *, image_size: ImageSize | None, seed: int
) -> tuple[Subject, Pyramid | None]:
    """The subject, and the feature pyramid that was trained together with its encoder.

    Raises:
        UserError: nothing there, or pixels.
    """
    subject = find_subject(run_or_name, image_size=image_size, seed=seed)
    if subject.encoder is None:
        raise UserError(f"{run_or_name} has no weights to train; give a run, a timm name or random:NAME.")
    if isinstance(run_or_name, Encoder) or not is_path(run_or_name):
        return subject, None
    return subject, load_pyramid(run_or_name)


def begun(
    subject: Subject, pyramid: Pyramid | None, *, drop_path_rate: float, random: bool, seed: int
) -> tuple[Subject, Pyramid | None]:
    """Both as training begins with them; what is random is drawn from torch's default generator.

    Args:
        drop_path_rate: of the last block.
        random: the weights that the run started from instead of those that it ended with.
    """
    if random:
        subject = untrained(subject, seed=seed)
        pyramid = None if pyramid is None else Pyramid(**pyramid.architecture)
    assert subject.encoder is not None
    return replace(subject, encoder=with_drop_path(subject.encoder, drop_path_rate)), pyramid
