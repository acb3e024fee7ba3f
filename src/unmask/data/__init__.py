"""Sources of pictures, decoding, views and batches."""

from unmask.data.decode import MAX_PIXELS, DecodeError, decode, load_pixels, open_image, oriented_size
from unmask.data.files import EXTENSIONS, Source
from unmask.data.loader import EvaluationLoader, PretrainLoader
from unmask.data.sources import Subset, labels_of, open_source, open_splits, split
from unmask.data.views import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augment,
    View,
    evaluation_view,
    make_views,
    normalise,
)

__all__ = [
    "EXTENSIONS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MAX_PIXELS",
    "Augment",
    "DecodeError",
    "EvaluationLoader",
    "PretrainLoader",
    "Source",
    "Subset",
    "View",
    "decode",
    "evaluation_view",
    "labels_of",
    "load_pixels",
    "make_views",
    "normalise",
    "open_image",
    "open_source",
    "open_splits",
    "oriented_size",
    "split",
]
