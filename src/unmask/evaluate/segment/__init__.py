"""Semantic segmentation: what an encoder is worth when every pixel has to get a class."""

from unmask.evaluate.segment.recipes import RECIPES, SegmentRecipe
from unmask.evaluate.segment.run import segment
from unmask.evaluate.segment.segmenter import Segmenter, load_segmenter

__all__ = ["RECIPES", "SegmentRecipe", "Segmenter", "load_segmenter", "segment"]
