"""dVAE: codes that a convolutional network draws the image from; DALL-E's, and BEiT's tokenizer.

Zero-Shot Text-to-Image Generation. Ramesh, Pavlov, Goh, Gray, Voss, Radford, Chen, Sutskever. ICML 2021,
arXiv 2102.12092.

A convolutional network gives every place of an image one of K classes, another draws the image from the
classes. While it learns, classes are not chosen but mixed: a softmax with Gumbel noise, whose temperature
falls until the mixture is nearly a choice, lets gradients through. The decoder says of every pixel a
distribution on (0, 1), and a penalty keeps the classes close to evenly used.

    loss = mean over pixels and channels of -log p(x) + (kl_weight / values of a code) mean over places of
           KL(q || even)

with p the logit-Laplace distribution of the mapped pixel x = 0.8 pixel + 0.1, and stride^2 * channels values
of the image to a code.

Differences: the official code holds no training. Widths are its own; loss and schedules are the paper's
(recalled, unverified), but last a share of the run instead of a number of steps that most runs never reach.
The scale of the distribution is kept above half a grey level, without which flat areas have no best value.

Two options are ours, for short runs, whose codes collapse to a few without them (docs/tokenizers.md):

* With random weights, a constant tells the logits of two classes apart more than what the image shows, and
  the same few classes win at every place. `start_spread` takes the constants out after the first step.
* `evenness_weight` adds a penalty on classes that come unevenly over all places of a batch. That of the paper
  is on each place by itself, and so on what a code says, too.
"""

import math
from collections import OrderedDict
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.data.arrays import Interpolation
from unmask.processes import gathered, processes, summed
from unmask.tokenizers.base import Tokenizer, require_places
from unmask.tokenizers.use import CodeUse

MARGIN = 0.1  # of the mapped pixels to 0 and 1, where a logit has no value (official code)
FINEST = 0.006  # half a grey level of mid-grey, as a logit of mapped pixels
ENCODER_KERNELS = (3, 3, 3, 1)
DECODER_KERNELS = (1, 3, 3, 3)


def map_pixels(pixels: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """[0, 1] -> [0.1, 0.9]"""
    return (1 - 2 * MARGIN) * pixels + MARGIN


def unmap_pixels(mapped: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """[0.1, 0.9] -> [0, 1]; what lies outside is cut off."""
    return ((mapped - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)


class Bottleneck(nn.Module):
    """skip(x) + gain * path(x), four times (ReLU, convolution) on a quarter of the width."""

    def __init__(self, width: int, out: int, *, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.skip = convolution(width, out, 1) if width != out else nn.Identity()
        widths = [width, *[out // 4] * (len(kernels) - 1), out]
        steps = zip(pairwise(widths), kernels, strict=True)
        self.path = nn.Sequential(
            *(nn.Sequential(nn.ReLU(), convolution(before, after, size)) for (before, after), size in steps)
        )

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B E h w"]:
        return self.skip(x) + self.gain * self.path(x)


def convolution(width: int, out: int, kernel: int) -> nn.Conv2d:
    """Stride 1, same size; weights normal with variance 1 / inputs, bias 0 (official code)."""
    layer = nn.Conv2d(width, out, kernel, padding=kernel // 2)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(width * kernel**2))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def groups_of(widths: list[int], kernels: tuple[int, ...], blocks: int, between: nn.Module) -> nn.Sequential:
    """Groups of blocks from one width to the next, with `between` after each but the last."""
    groups = []
    count = len(widths) - 1
    for index, (width, out) in enumerate(pairwise(widths)):
        gain = 1 / (count * blocks) ** 2
        group = OrderedDict[str, nn.Module]()
        for block in range(blocks):
            group[str(block)] = Bottleneck(out if block else width, out, kernels=kernels, gain=gain)
        if index < count - 1:
            group["resize"] = between
        groups.append(nn.Sequential(group))
    return nn.Sequential(*groups)


class DVAE(Tokenizer):
    """The tokenizer of DALL-E and BEiT: discrete, convolutional, stride 8.

    Args:
        image_size: height and width in pixels, multiples of the stride.
        channels: of the images.
        vocabulary: K.
        width: of the widest resolution on both sides; it doubles with every halving.
        decoder_dim: width of what a code stands for.
        groups: resolutions, each half of the one before: the stride is 2^(groups - 1).
        blocks: residual blocks of a group.
        first_temperature: of the softmax, at the start.
        last_temperature: at the end of its fall, along a cosine.
        temperature_share: of the run, until then.
        kl_weight: of the penalty on uneven codes, as defined above.
        kl_share: of the run, in which the weight rises from 0 along a cosine.
        evenness_weight: of the penalty on classes that come unevenly over a batch, in the unit of kl_weight.
        start_spread: standard deviation that the logits of every class get, over places, after the first
            step, and mean 0; None leaves them as the random weights have them.
    """

    interpolation: Interpolation | None = "lanczos"  # BEiT's official code
    temperature: Float[Tensor, ""]
    kl_factor: Float[Tensor, ""]
    moments: Float[Tensor, "2 K"]

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        channels: int = 3,
        vocabulary: int = 8192,  # official code
        width: int = 256,  # official code
        decoder_dim: int = 128,  # official code
        groups: int = 4,  # official code
        blocks: int = 2,  # official code
        first_temperature: float = 1.0,  # paper (recalled, unverified)
        last_temperature: float = 1 / 16,  # paper (recalled, unverified)
        temperature_share: float = 1.0,  # our choice; paper: 150,000 steps (recalled, unverified)
        kl_weight: float = 6.6,  # paper (recalled, unverified)
        kl_share: float = 0.2,  # our choice; paper: 5,000 steps (recalled, unverified)
        evenness_weight: float = 0.0,  # our option
        start_spread: float | None = None,  # our option
    ) -> None:
        super().__init__()
        stride = 2 ** (groups - 1)
        if groups < 1 or blocks < 1 or vocabulary < 2 or width < 4 or width % 4:
            raise ValueError(
                f"a dVAE needs at least one group, one block and two codes, and a width that 4 divides, not "
                f"{groups}, {blocks}, {vocabulary} and {width}"
            )
        require_places(image_size, stride)
        _require_sound(
            temperatures=(first_temperature, last_temperature),
            shares=(temperature_share, kl_share),
            weights=(kl_weight, evenness_weight),
            spread=start_spread,
        )
        self.image_size, self.stride = image_size, stride
        self.channels, self.vocabulary = channels, vocabulary
        self.first_temperature, self.last_temperature = first_temperature, last_temperature
        self.temperature_share, self.kl_share = temperature_share, kl_share
        self.kl_weight, self.evenness_weight, self.start_spread = kl_weight, evenness_weight, start_spread
        widths = [width * 2**level for level in range(groups)]
        self.encoder = nn.Sequential(
            OrderedDict(
                input=convolution(channels, width, 7),
                groups=groups_of([width, *widths], ENCODER_KERNELS, blocks, nn.MaxPool2d(2)),
                relu=nn.ReLU(),
            )
        )
        self.head = convolution(widths[-1], vocabulary, 1)
        self.embedding = convolution(vocabulary, decoder_dim, 1)
        nn.init.normal_(self.embedding.weight)  # of all its inputs a single one is not 0
        # Twice as many numbers as channels: where the distribution of a pixel lies, and how wide it is.
        self.decoder = nn.Sequential(
            OrderedDict(
                groups=groups_of(
                    [decoder_dim, *reversed(widths)], DECODER_KERNELS, blocks, nn.Upsample(scale_factor=2)
                ),
                relu=nn.ReLU(),
                output=convolution(width, 2 * channels, 1),
            )
        )
        self.use = CodeUse(vocabulary)
        self.register_buffer("temperature", torch.tensor(first_temperature))
        self.register_buffer("kl_factor", torch.tensor(0.0 if kl_share else 1.0))
        # Mean and mean square of every class's logit in the latest batch.
        self.register_buffer("moments", torch.zeros(2, vocabulary), persistent=False)

    def forward(self, images: Float[Tensor, "B C H W"]) -> dict[str, Tensor]:
        mapped = map_pixels(images.float())
        logits = self.logits(mapped)
        noise = -torch.empty_like(logits).exponential_().log()
        soft = ((logits + noise) / self.temperature).softmax(1)
        pictured = self.decoder(self.embedding(soft)).float()
        likelihood = self.log_likelihood(pictured, mapped).mean()
        log_q = logits.log_softmax(1)
        figures = {"divergence": self.divergence(log_q)}
        penalty = self.kl_factor * self.kl_weight * figures["divergence"]
        if self.evenness_weight:
            figures["unevenness"] = self.unevenness(log_q)
            penalty = penalty + self.evenness_weight * figures["unevenness"]
        with torch.no_grad():
            if self.start_spread is not None:
                self.moments.copy_(torch.stack([logits.mean((0, 2, 3)), logits.square().mean((0, 2, 3))]))
            codes = logits.argmax(1).flatten()
            self.use.observe(codes)
            pixels = F.mse_loss(self.picture(pictured), images.float())
        return {
            "loss": penalty / (self.stride**2 * self.channels) - likelihood,
            "likelihood": likelihood,
            **figures,
            "pixels": pixels,
            "temperature": self.temperature.clone(),
            **self.use.figures(codes),
        }

    def logits(self, mapped: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K h w"]:
        """Of the classes; the last layer in float32 whatever the autocast, for half precision would confuse
        classes that are nearly alike (official code)."""
        hidden = self.encoder(mapped)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.float())

    def log_likelihood(
        self, pictured: Float[Tensor, "B E H W"], mapped: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """log p of mapped pixels under logit-Laplace distributions: the logit of a pixel has a Laplace
        distribution with these means and logarithms of scales, [means, scales] along E."""
        mean, log_scale = pictured.chunk(2, dim=1)
        scale = log_scale.exp() + FINEST
        distance = (torch.logit(mapped) - mean).abs() / scale
        return -distance - (2 * scale * mapped * (1 - mapped)).log()

    def divergence(self, log_q: Float[Tensor, "B K h w"]) -> Float[Tensor, ""]:
        """KL(q || even) = log K - entropy of q, the mean over places.

        Args:
            log_q: from the logits, and not log of q, which has no gradient where a class is so unlikely that
                q is 0.
        """
        return math.log(self.vocabulary) + (log_q.exp() * log_q).sum(1).mean()

    def unevenness(self, log_q: Float[Tensor, "B K h w"]) -> Float[Tensor, ""]:
        """KL(share || even), of the share that every class has of all places of a batch: mean of q."""
        own = rearrange(log_q, "b k h w -> k (b h w)").logsumexp(1)
        every = gathered(own[None]).logsumexp(0)
        log_share = every - math.log(processes() * log_q[:, 0].numel())
        return math.log(self.vocabulary) + (log_share.exp() * log_share).sum()

    def after_step(self, step: int, total: int) -> None:
        self.use.settle()
        if step == 1 and self.start_spread is not None:
            self._spread(self.start_spread)
        done = _cosine(step, self.temperature_share * total)
        span = self.first_temperature - self.last_temperature
        self.temperature.fill_(self.first_temperature - done * span)
        self.kl_factor.fill_(_cosine(step, self.kl_share * total))

    @torch.no_grad()
    def _spread(self, spread: float) -> None:
        """Give the logits of every class mean 0 and this deviation over the places of the latest batch."""
        mean, square = summed(self.moments) / processes()
        assert self.head.bias is not None
        factor = spread / (square - mean**2).clamp(min=torch.finfo(mean.dtype).eps).sqrt()
        self.head.bias.sub_(mean).mul_(factor)
        self.head.weight.mul_(factor[:, None, None, None])

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B N"]:
        logits = self.logits(map_pixels(images.float()))
        return rearrange(logits.argmax(1), "b h w -> b (h w)")

    def embed(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N E"]:
        # A convolution of one pixel on ones and zeros picks a column.
        assert self.embedding.bias is not None
        return self.embedding.weight[:, :, 0, 0].T[codes] + self.embedding.bias

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B C H W"]:
        return self.picture(self.decoder(self.as_map(self.embed(codes))).float())

    def picture(self, pictured: Float[Tensor, "B E H W"]) -> Float[Tensor, "B C H W"]:
        """Pixels in [0, 1] from what the decoder says: the medians of its distributions."""
        return unmap_pixels(pictured[:, : self.channels].sigmoid())


def _require_sound(
    *,
    temperatures: tuple[float, float],
    shares: tuple[float, float],
    weights: tuple[float, float],
    spread: float | None,
) -> None:
    first, last = temperatures
    if not 0 < last <= first:
        raise ValueError(
            f"temperatures fall from {first} to {last}: the last must be positive and not above the first"
        )
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"temperature_share and kl_share lie in [0, 1], unlike one of {shares}")
    if min(weights) < 0:
        raise ValueError(f"kl_weight and evenness_weight are not negative, unlike one of {weights}")
    if spread is not None and not spread > 0:
        raise ValueError(f"start_spread={spread} is a standard deviation, positive, or None")


def _cosine(step: int, length: float) -> float:
    """From 0 to 1 along half a cosine in `length` steps, then 1."""
    return 1.0 if step >= length else (1 - math.cos(math.pi * step / length)) / 2
