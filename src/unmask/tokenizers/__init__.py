"""Networks that turn images into codes, one of K classes for every place: what BEiT and its descendants
predict."""

from unmask.tokenizers.base import Tokenizer

__all__ = ["TOKENIZERS", "Tokenizer"]

TOKENIZERS: dict[str, type[Tokenizer]] = {}
