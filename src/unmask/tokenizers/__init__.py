"""Networks that turn images into codes, one of K classes for every place: what BEiT and its descendants
predict."""

from unmask.tokenizers.base import Tokenizer
from unmask.tokenizers.dvae import DVAE
from unmask.tokenizers.peco import PeCo
from unmask.tokenizers.vqkd import VQKD

__all__ = ["DVAE", "TOKENIZERS", "VQKD", "PeCo", "Tokenizer"]

TOKENIZERS: dict[str, type[Tokenizer]] = {"dvae": DVAE, "vqkd": VQKD, "peco": PeCo}
