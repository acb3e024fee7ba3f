"""Which codes are in use."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.processes import summed

RECENT = 100  # steps; of so many the figures speak


class CodeUse(nn.Module):
    """Counts how often every code is chosen; evaluation changes nothing of it.

    In training `observe` counts the codes of a batch, or of its parts one after another, and `settle`, after
    the step, adds the counts of all processes to what is known of earlier steps.

    Attributes:
        count: [K], moving average of how many vectors of a step choose a code.
        idle: [K], steps since a code was chosen last; `RECENT` at first.
        batch: [K], what was chosen since the last step.
    """

    count: Float[Tensor, "K"]
    idle: Int[Tensor, "K"]
    batch: Float[Tensor, "K"]

    def __init__(self, vocabulary: int, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("count", torch.zeros(vocabulary))
        self.register_buffer("idle", torch.full((vocabulary,), RECENT))
        self.register_buffer("batch", torch.zeros(vocabulary), persistent=False)

    @torch.no_grad()
    def observe(self, codes: Int[Tensor, "n"], weight: Float[Tensor, "n"] | None = None) -> None:
        """Note what a batch chose.

        Args:
            weight: 0 for codes that do not count; None counts all.
        """
        if self.training:
            self.batch += histogram(codes, len(self.count), weight)

    @torch.no_grad()
    def settle(self) -> Float[Tensor, "K"]:
        """Take the step's counts over; to be called once after every step, by all processes together.

        Returns:
            How often all processes chose every code in this step.
        """
        chosen = summed(self.batch)
        self.batch.zero_()
        self.count.lerp_(chosen, 1 - self.decay)
        self.idle.add_(1).masked_fill_(chosen > 0, 0)
        return chosen

    @torch.no_grad()
    def figures(self, codes: Int[Tensor, "n"]) -> dict[str, Float[Tensor, ""]]:
        """How well the codes are used, by the last steps and the batch `codes` together.

        Returns:
            "perplexity", exp(entropy) of how often each is chosen: in [1, K], K if all are chosen alike.
            "used", the share of the K codes that was chosen at all.
        """
        chosen = histogram(codes, len(self.count))
        share = torch.lerp(self.count, chosen, 1 - self.decay)
        used = (self.idle < RECENT) | (chosen > 0)
        return {"perplexity": perplexity(share), "used": used.float().mean()}


def histogram(
    codes: Int[Tensor, "n"], vocabulary: int, weight: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "K"]:
    """How often each of the K codes occurs."""
    ones = torch.ones(codes.shape, device=codes.device) if weight is None else weight
    return ones.new_zeros(vocabulary).index_add_(0, codes, ones)


def perplexity(count: Float[Tensor, "K"]) -> Float[Tensor, ""]:
    """exp(entropy) of shares that are proportional to `count`; of nothing at all 1."""
    share = count / count.sum().clamp(min=torch.finfo(count.dtype).tiny)
    return torch.special.entr(share).sum().exp()
