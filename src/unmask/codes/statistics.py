"""How often the codes of a tokenizer are used."""

from typing import Any

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from unmask.tokenizers.use import perplexity


class CodeCount:
    """Counts codes, batch by batch.

    Args:
        vocabulary: K.

    Attributes:
        counts: [K], on the CPU.
    """

    def __init__(self, vocabulary: int) -> None:
        self.counts: Int64[Tensor, " K"] = torch.zeros(vocabulary, dtype=torch.int64)

    def add(self, codes: Int[Tensor, "B N"]) -> None:
        """Count the codes of some images."""
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts)).cpu()

    @property
    def places(self) -> int:
        """Codes counted."""
        return int(self.counts.sum())

    @property
    def used(self) -> int:
        """Codes that were met at least once."""
        return int((self.counts > 0).sum())

    @property
    def expected(self) -> float:
        """Codes that would be met if all were equally frequent: K (1 - (1 - 1/K)^n) of n places. Few places
        cannot show all codes of a large vocabulary."""
        size = len(self.counts)
        return (
            size
            * -torch.expm1(self.places * torch.log1p(torch.tensor(-1 / size, dtype=torch.float64))).item()
        )

    @property
    def perplexity(self) -> float:
        """exp of the entropy of how often the codes are used: the number of equally frequent codes that would
        say as much."""
        return float(perplexity(self.counts.double()))

    @property
    def largest(self) -> float:
        """Share of the places that the most frequent code has."""
        return float(self.counts.max()) / max(self.places, 1)

    def ranked(self) -> Int64[Tensor, " K"]:
        """The codes, the most frequent first."""
        return self.counts.argsort(descending=True, stable=True)

    def facts(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return {
            "vocabulary": len(self.counts),
            "places": self.places,
            "used": self.used,
            "expected": round(self.expected, 1),
            "perplexity": round(self.perplexity, 2),
            "largest": round(self.largest, 4),
        }
