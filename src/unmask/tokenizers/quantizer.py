"""Vectors to codes and back: a codebook that follows what it is given."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unmask.processes import from_first, gathered, processes, summed
from unmask.tokenizers.kmeans import kmeans, nearest
from unmask.tokenizers.use import CodeUse

SAMPLES = 2  # vectors of a step that are kept, for every code


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What a quantizer makes of vectors.

    Attributes:
        vectors: the codes' vectors, exactly; their gradient is passed on to the vectors given, as if nothing
            had happened in between (straight-through).
        codes: in [0, K).
        commitment: mean over vectors and their elements of the squared distance to the code's vector, which
            has no gradient.
        figures: "perplexity" and "used", as `CodeUse.figures` explains.
    """

    vectors: Float[Tensor, "*B D"]
    codes: Int[Tensor, "*B"]
    commitment: Float[Tensor, ""]
    figures: dict[str, Float[Tensor, ""]]


class Quantizer(nn.Module, ABC):
    """The nearest of K vectors, which are moving averages of those that choose them: no gradient, no loss.

    The forward pass only looks things up and notes what was chosen; `settle` moves the codebook after the
    step, by what all processes and all parts of an accumulated batch chose. In evaluation nothing is noted.
    All of it is computed in float32, whatever the autocast.

    Where the papers let codes die, two things keep them alive (both our choice, both can be left out):

    * At the end of the first step the codebook becomes the k-means centres of that step's vectors.
    * A code that nothing chose for `revive_after` steps moves to a random vector of the batch.

    Attributes:
        codebook: [K, D].
        use: how often each code is chosen.
        started: whether k-means has been, or was not wanted.
        sums: [K, D], of the vectors that chose each code since the last step.
        samples: [2 K, D], vectors of the latest batch, evenly spaced.

    Args:
        vocabulary: K.
        dim: D.
        decay: of the moving averages, in [0, 1).
        kmeans_start: begin with k-means.
        revive_after: steps; None never moves a code.
    """

    codebook: Float[Tensor, "K D"]
    started: Bool[Tensor, ""]
    sums: Float[Tensor, "K D"]
    samples: Float[Tensor, "S D"]
    spherical: bool

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        *,
        decay: float = 0.99,
        kmeans_start: bool = True,
        revive_after: int | None = 100,
    ) -> None:
        super().__init__()
        if vocabulary < 2 or dim < 1:
            raise ValueError(f"a codebook needs two codes and one dimension, not {vocabulary} and {dim}")
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a codebook must be at least 0 and less than 1, not {decay}")
        if revive_after is not None and revive_after < 1:
            raise ValueError(f"revive_after={revive_after}: at least 1 step, or none for never")
        self.decay = decay
        self.revive_after = revive_after
        self.use = CodeUse(vocabulary, decay=decay)
        self.register_buffer("codebook", self.place(torch.randn(vocabulary, dim)))
        self.register_buffer("started", torch.tensor(not kmeans_start))
        self.register_buffer("sums", torch.zeros(vocabulary, dim), persistent=False)
        self.register_buffer("samples", torch.zeros(SAMPLES * vocabulary, dim), persistent=False)

    @abstractmethod
    def place(self, vectors: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Vectors where codes can be."""

    @abstractmethod
    def follow(self, chosen: Float[Tensor, "K"], sums: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
        """Where the codes move after a step, by how many vectors chose them and the sums of those.

        Codes that none chose stay where they are, whatever this says.
        """

    @abstractmethod
    def begin(self, codebook: Float[Tensor, "K D"], moved: Bool[Tensor, "K"]) -> None:
        """Forget what is known of codes that moved to `codebook` by a jump."""

    def forward(self, vectors: Float[Tensor, "*B D"]) -> Quantized:
        with torch.autocast(vectors.device.type, enabled=False):
            placed = self.place(vectors.float())
            flat = placed.detach().flatten(0, -2)
            codes = nearest(flat, self.codebook)
            self._note(flat, codes)
            # A copy: the codebook changes in place before the gradient is computed, where steps accumulate.
            found = self.codebook[codes].view(placed.shape)
            return Quantized(
                vectors=found + (placed - placed.detach()),  # the bracket is 0, so that no bit is lost
                codes=codes.view(placed.shape[:-1]),
                commitment=F.mse_loss(placed, found),
                figures=self.use.figures(codes),
            )

    @torch.no_grad()
    def codes(self, vectors: Float[Tensor, "*B D"]) -> Int[Tensor, "*B"]:
        """The codes alone; nothing is noted."""
        with torch.autocast(vectors.device.type, enabled=False):
            placed = self.place(vectors.float())
        return nearest(placed.flatten(0, -2), self.codebook).view(placed.shape[:-1])

    def embed(self, codes: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """The vectors of codes."""
        return self.codebook[codes]

    @torch.no_grad()
    def settle(self, step: int) -> None:
        """Move the codebook by what was noted since the last call.

        To be called once after every step, by all processes together; afterwards all have the same codebook.

        Args:
            step: of the run; what is drawn at random depends on it alone.
        """
        chosen, sums = self.use.settle(), summed(self.sums)
        self.sums.zero_()
        if self.started:
            self._move(self.follow(chosen, sums), chosen > 0)
        else:
            self._start(step)
        if self.revive_after is not None:
            self._revive(step, self.use.idle >= self.revive_after)

    def _note(self, vectors: Float[Tensor, "n D"], codes: Int[Tensor, "n"]) -> None:
        if not self.training:
            return
        # A batch whose loss is no number is left out by the engine, but has been here already.
        finite = vectors.isfinite().all(1)
        kept = vectors.masked_fill(~finite[:, None], 0)
        self.use.observe(codes, finite.float())
        with torch.no_grad():
            self.sums.index_add_(0, codes, kept)
            rows = torch.arange(len(self.samples), device=vectors.device) * len(vectors) // len(self.samples)
            self.samples.copy_(kept[rows])

    def _start(self, step: int) -> None:
        """Jump to the k-means centres of the samples; those without samples count as idle."""
        samples = self._shuffled_samples(step)
        centres, members = kmeans(samples, samples[: len(self.codebook)], spherical=self.spherical)
        # Sums in another order round otherwise: all take what the first has found.
        centres, members = from_first(centres), from_first(members)
        self.use.idle.masked_fill_(members > 0, 0)
        if self.revive_after is not None:
            self.use.idle.masked_fill_(members == 0, self.revive_after)
        self.use.count.copy_(members * (self.use.count.sum() / members.sum()))
        self._jump(centres, torch.ones_like(members, dtype=torch.bool))
        self.started.fill_(True)

    def _revive(self, step: int, dead: Bool[Tensor, "K"]) -> None:
        samples = self._shuffled_samples(step)[: len(self.codebook)]
        self.use.idle.masked_fill_(dead, 0)
        self._jump(samples, dead)

    def _jump(self, codebook: Float[Tensor, "K D"], moved: Bool[Tensor, "K"]) -> None:
        self._move(codebook, moved)
        self.begin(self.codebook, moved)

    def _move(self, codebook: Float[Tensor, "K D"], moved: Bool[Tensor, "K"]) -> None:
        self.codebook.copy_(torch.where(moved[:, None], codebook, self.codebook))

    def _shuffled_samples(self, step: int) -> Float[Tensor, "S D"]:
        """Vectors of the latest batch of all processes, in a random order that is the same for all."""
        # Every n-th sample of each of n processes: together as many as one process would have, and the same.
        samples = gathered(self.samples[:: processes()])
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(step))
        return samples[order.to(samples.device)]


class EuclideanQuantizer(Quantizer):
    """Nearest by Euclidean distance; every vector weighs the same in its code's moving average (VQ-VAE, van
    den Oord et al. 2017, appendix A.1; PeCo).

    N <- d N + (1 - d) n and m <- d m + (1 - d) s, where n vectors of sum s chose the code; then it is m / N,
    with N smoothed so that it is never 0.

    Attributes:
        total: [K, D], the m above; N is `use.count`.
    """

    total: Float[Tensor, "K D"]
    spherical = False

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        *,
        decay: float = 0.99,
        kmeans_start: bool = True,
        revive_after: int | None = 100,
        smoothing: float = 1e-5,
    ) -> None:
        super().__init__(vocabulary, dim, decay=decay, kmeans_start=kmeans_start, revive_after=revive_after)
        self.smoothing = smoothing
        self.register_buffer("total", torch.zeros(vocabulary, dim))

    def place(self, vectors: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return vectors

    def follow(self, chosen: Float[Tensor, "K"], sums: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
        self.total.lerp_(sums, 1 - self.decay)
        count = self.use.count
        everything = count.sum()
        smoothed = (count + self.smoothing) / (everything + len(count) * self.smoothing) * everything
        return self.total / smoothed[:, None]

    def begin(self, codebook: Float[Tensor, "K D"], moved: Bool[Tensor, "K"]) -> None:
        total = codebook * self.use.count[:, None]
        self.total.copy_(torch.where(moved[:, None], total, self.total))


class CosineQuantizer(Quantizer):
    """Nearest by angle; vectors and codes have length 1, and every step weighs the same in a code's moving
    average however many vectors chose the code (VQ-KD, BEiT v2).

    e <- l2(d e + (1 - d) l2(mean of those that chose e)).
    """

    spherical = True

    def place(self, vectors: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return F.normalize(vectors, dim=-1)

    def follow(self, chosen: Float[Tensor, "K"], sums: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
        # The direction of the mean is that of the sum.
        return self.place(torch.lerp(self.codebook, self.place(sums), 1 - self.decay))

    def begin(self, codebook: Float[Tensor, "K D"], moved: Bool[Tensor, "K"]) -> None:
        pass  # nothing is known but where the code is
