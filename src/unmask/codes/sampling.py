"""A fair sample of the places that have each code, from any number of images in bounded memory."""

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor


class Reservoir:
    """Up to N places of every code, each place as likely as any other of its code.

    Every place gets a random number, and of a code the N places with the largest ones stay; so the order in
    which images come does not matter.

    Args:
        vocabulary: K.
        size: N.
        generator: of the random numbers, on the CPU.

    Attributes:
        image: [K, N], index of a place's image; -1 where a code has fewer places.
        place: [K, N], which place of the image, in raster order.
    """

    def __init__(self, vocabulary: int, size: int, generator: torch.Generator) -> None:
        self._generator = generator
        self._keys: Float[Tensor, "K N"] = torch.full((vocabulary, size), -1.0)
        self.image: Int64[Tensor, "K N"] = torch.full((vocabulary, size), -1)
        self.place: Int64[Tensor, "K N"] = torch.full((vocabulary, size), -1)

    def add(self, codes: Int[Tensor, "B P"], indices: Int64[Tensor, " B"]) -> None:
        """Note the codes of some images.

        Args:
            indices: of the images.
        """
        places = codes.shape[1]
        flat, size = codes.flatten().cpu().long(), self._keys.shape[1]
        keys = torch.rand(len(flat), generator=self._generator)
        # By code, the largest numbers first; then the rank of each among the places of its code.
        order = torch.argsort(keys, descending=True)
        order = order[torch.argsort(flat[order], stable=True)]
        met, counts = torch.unique_consecutive(flat[order], return_counts=True)
        rank = torch.arange(len(flat)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        taken = order[rank < size]
        row = torch.arange(len(met)).repeat_interleave(counts.clamp(max=size))
        column = rank[rank < size]
        images = indices.cpu().repeat_interleave(places)
        positions = torch.arange(places).repeat(len(codes))
        best: Tensor | None = None
        for kept, given in ((self._keys, keys), (self.image, images), (self.place, positions)):
            new = torch.full((len(met), size), -1, dtype=kept.dtype)
            new[row, column] = given[taken]
            both = torch.cat([kept[met], new], dim=1)
            best = both.topk(size, dim=1).indices if best is None else best
            kept[met] = both.gather(1, best)
