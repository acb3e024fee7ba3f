"""DALL-E's dVAE: pixel mapping, distributions, schedules, sizes."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.tokenizers.tiny import pictures, tiny_tokenizer
from unmask.tokenizers.dvae import DVAE, FINEST, map_pixels, unmap_pixels


def test_pixel_mapping() -> None:
    ends = map_pixels(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([0.1, 0.9]))
    pixels = torch.rand(100)
    torch.testing.assert_close(unmap_pixels(map_pixels(pixels)), pixels)
    assert unmap_pixels(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


def test_likelihood_is_a_density() -> None:
    """It integrates to 1 over (0, 1), and its logit has the median and the mean distance of a Laplace."""
    tokenizer = tiny_tokenizer("dvae", channels=1)
    x = ((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000).view(1, 1, 1, -1)
    mean, log_scale = 0.7, -0.5
    said = torch.tensor([mean, log_scale], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 1, x.shape[-1])
    density = tokenizer.log_likelihood(said, x).exp() / x.numel()
    torch.testing.assert_close(density.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-4, atol=0)
    scale = math.exp(log_scale) + FINEST
    distance = (density * (torch.logit(x) - mean).abs()).sum()
    torch.testing.assert_close(distance.item(), scale, rtol=1e-3, atol=0)


def test_divergence_spans_nothing_to_log_k() -> None:
    tokenizer = tiny_tokenizer("dvae")
    even, certain = torch.zeros(1, 24, 2, 2), torch.zeros(1, 24, 2, 2)
    torch.testing.assert_close(
        tokenizer.divergence(even.log_softmax(1)), torch.tensor(0.0), rtol=0, atol=1e-6
    )
    certain[:, 3] = 200  # the others' probabilities are 0 in float32
    certain.requires_grad_()
    divergence = tokenizer.divergence(certain.log_softmax(1))
    torch.testing.assert_close(divergence, torch.tensor(math.log(24)))
    divergence.backward()
    assert certain.grad is not None and certain.grad.isfinite().all()


def test_unevenness_looks_at_all_places_together() -> None:
    tokenizer = tiny_tokenizer("dvae")
    assert isinstance(tokenizer, DVAE)
    certain = 200 * F.one_hot(torch.arange(24), 24).float().T.reshape(1, 24, 4, 6)
    torch.testing.assert_close(
        tokenizer.unevenness(certain.log_softmax(1)), torch.tensor(0.0), rtol=0, atol=1e-6
    )
    same = certain[:, :, :1, :1].expand(1, 24, 4, 6)
    torch.testing.assert_close(tokenizer.unevenness(same.log_softmax(1)), torch.tensor(math.log(24)))
    logits = torch.randn(2, 24, 3, 3)
    share = logits.softmax(1).mean((0, 2, 3))
    torch.testing.assert_close(
        tokenizer.unevenness(logits.log_softmax(1)), (share * (24 * share).log()).sum()
    )


def test_logits_of_every_class_begin_alike() -> None:
    torch.manual_seed(0)
    tokenizer = DVAE(image_size=(32, 32), vocabulary=24, width=16, blocks=1, decoder_dim=16, start_spread=2.0)
    images = pictures()
    few = tokenizer.codes(images).unique()
    tokenizer(images)
    tokenizer.after_step(1, 10)
    logits = tokenizer.logits(map_pixels(images))
    torch.testing.assert_close(logits.mean((0, 2, 3)), torch.zeros(24), rtol=0, atol=1e-3)
    torch.testing.assert_close(logits.std((0, 2, 3), correction=0), torch.full((24,), 2.0), rtol=1e-3, atol=0)
    assert len(tokenizer.codes(images).unique()) > len(few)
    head = tokenizer.head.weight.clone()
    tokenizer.after_step(2, 10)
    assert torch.equal(head, tokenizer.head.weight), "only once"


def test_schedules_are_shares_of_the_run() -> None:
    tokenizer = DVAE(image_size=(16, 16), vocabulary=4, width=4, temperature_share=0.5, kl_share=0.1)
    seen = {}
    for step in range(1, 101):
        tokenizer.after_step(step, 100)
        seen[step] = tokenizer.temperature.item(), tokenizer.kl_factor.item()
    torch.testing.assert_close(seen[25], ((1 + 1 / 16) / 2, 1.0))
    torch.testing.assert_close(seen[5][1], 0.5)
    assert seen[50] == seen[100] == (1 / 16, 1.0)
    temperatures = [temperature for temperature, _ in seen.values()]
    assert temperatures == sorted(temperatures, reverse=True)


def test_the_loss_is_likelihood_and_weighed_divergence() -> None:
    tokenizer = tiny_tokenizer("dvae")
    losses = tokenizer(pictures())
    assert losses["loss"] == -losses["likelihood"]  # the weight of the divergence rises from 0
    tokenizer.after_step(1, 1)
    losses = tokenizer(pictures())
    penalty = tokenizer.kl_weight * losses["divergence"]
    torch.testing.assert_close(losses["loss"], penalty / (8 * 8 * 3) - losses["likelihood"])
    tokenizer.evenness_weight = 5.0
    losses = tokenizer(pictures())
    penalty = tokenizer.kl_weight * losses["divergence"] + 5 * losses["unevenness"]
    torch.testing.assert_close(losses["loss"], penalty / (8 * 8 * 3) - losses["likelihood"])


def test_at_a_low_temperature_training_sees_what_codes_decode_to() -> None:
    tokenizer = tiny_tokenizer("dvae").eval()
    with torch.no_grad():
        tokenizer.head.weight.mul_(1e6)  # no doubt, and no noise that could matter
    tokenizer.temperature.fill_(1 / 16)
    images = pictures()
    pixels = F.mse_loss(tokenizer.decode(tokenizer.codes(images)), images)
    torch.testing.assert_close(tokenizer(images)["pixels"], pixels, rtol=1e-3, atol=0)


def test_parameters_of_the_published_model() -> None:
    """Counted on the official classes: encoder 53,786,240, decoder 43,829,766."""
    with torch.device("meta"):
        tokenizer = DVAE(image_size=(112, 112))

    def count(*names: str) -> int:
        return sum(p.numel() for name in names for p in tokenizer.get_submodule(name).parameters())

    assert count("encoder", "head") == 53_786_240
    assert count("embedding", "decoder") == 43_829_766
    assert tokenizer.grid == (14, 14) and tokenizer.vocabulary == 8192


def test_refuses_sizes_that_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="multiples of 8, for instance 32 x 40"):
        DVAE(image_size=(32, 39))
    with pytest.raises(ValueError, match="temperatures"):
        DVAE(image_size=(32, 32), last_temperature=2.0)
