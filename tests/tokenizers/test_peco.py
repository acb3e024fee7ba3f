"""PeCo: its terms, its adversary, its sizes."""

import pytest
import torch
from torch import Tensor

from tests.tokenizers.tiny import TinyTeacher, pictures, tiny_tokenizer
from unmask.tokenizers.adversary import Adversary, balanced
from unmask.tokenizers.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from unmask.tokenizers.peco import PeCo


def test_the_terms_of_the_loss() -> None:
    tokenizer, images = tiny_tokenizer("peco"), pictures()
    losses = tokenizer(images)
    terms = 4 * losses["pixels"] + 0.25 * losses["commitment"] + losses["perceptual"]
    torch.testing.assert_close(losses["loss"], terms)
    vectors = tokenizer.vectors(images)
    codes = tokenizer.codes(images)
    squared = (vectors - tokenizer.embed(codes)).square().mean()
    torch.testing.assert_close(losses["commitment"], squared)


def test_decoding_codes_is_the_round_trip_bit_for_bit() -> None:
    tokenizer, images = tiny_tokenizer("peco").eval(), pictures()
    with torch.no_grad():
        quantized = tokenizer.quantizer(tokenizer.vectors(images))
        trip = tokenizer.draw(quantized.vectors).clamp(0, 1)
    assert torch.equal(tokenizer.decode(tokenizer.codes(images)), trip)


def test_without_a_teacher_pixels_alone_count() -> None:
    tokenizer = PeCo(image_size=(16, 16), teacher=None, width=8, factors=(1, 1), vocabulary=8, blocks=1)
    losses = tokenizer(pictures(2, (16, 16)))
    assert "perceptual" not in losses
    torch.testing.assert_close(losses["loss"], 4 * losses["pixels"] + 0.25 * losses["commitment"])


def test_parameters_of_the_published_size() -> None:
    """Counted on a list of the same modules: encoder 29,298,176, decoder 42,449,795."""
    sizes = {"width": 128, "factors": (1, 1, 2, 2, 4), "blocks": 2}
    with torch.device("meta"):
        halves = ConvolutionalEncoder(3, 256, **sizes), ConvolutionalDecoder(256, 3, **sizes)
    assert [sum(p.numel() for p in half.parameters()) for half in halves] == [29_298_176, 42_449_795]


def gradients_of(tokenizer: PeCo, images: Tensor) -> dict[str, Tensor]:
    tokenizer.zero_grad()
    torch.manual_seed(0)
    tokenizer(images)["loss"].backward()
    return {name: p.grad.clone() for name, p in tokenizer.named_parameters() if p.grad is not None}


def test_before_its_start_the_adversary_is_not_heard() -> None:
    torch.manual_seed(0)
    tokenizer, images = tiny_tokenizer("peco adversary"), pictures()
    tokenizer.adversarial_start = 0.5
    tokenizer.after_step(4, 10)
    quiet = gradients_of(tokenizer, images)
    adversary, tokenizer.adversary = tokenizer.adversary, None
    without = gradients_of(tokenizer, images)
    tokenizer.adversary = adversary
    assert all(not grad.any() for name, grad in quiet.items() if name.startswith("adversary"))
    torch.testing.assert_close({name: quiet[name] for name in without}, without)
    tokenizer.after_step(5, 10)
    loud = gradients_of(tokenizer, images)
    # The last bias rises as much for images as it falls for pictures, while neither is told from the other.
    heard = [name for name, grad in loud.items() if name.startswith("adversary") and grad.any()]
    assert len(heard) >= len([name for name in loud if name.startswith("adversary")]) - 1


def test_the_second_gradient_is_scaled_to_the_first() -> None:
    picture = torch.randn(2, 3, 4, 4, requires_grad=True)
    first, second = torch.randn(2, 2, 3, 4, 4)
    one, other = balanced(picture, torch.tensor(0.8))
    assert torch.equal(one, picture) and torch.equal(other, picture)
    ((one * first).sum() + 1000 * (other * second).sum()).backward()
    wanted = first + 0.8 * second * first.norm() / second.norm()
    torch.testing.assert_close(picture.grad, wanted)


def test_each_term_of_the_adversary_moves_one_side_only() -> None:
    adversary, images = Adversary(3, width=8), pictures()
    made = pictures().flip(0).requires_grad_()
    adversary.verdict(made).backward()
    assert made.grad is not None and made.grad.any()
    assert all(p.grad is None for p in adversary.parameters())
    made.grad = None
    adversary.own_loss(images, made).backward()
    assert made.grad is None and all(p.grad is not None for p in adversary.parameters())


def test_an_adversary_learns_to_tell_pictures_from_images() -> None:
    torch.manual_seed(0)
    adversary, images = Adversary(3, width=8), pictures()
    made = images + 0.2 * torch.randn(images.shape)
    optimiser = torch.optim.Adam(adversary.parameters(), lr=1e-3)
    assert adversary.own_loss(images, made) > 0.8
    for _ in range(20):
        optimiser.zero_grad()
        adversary.own_loss(images, made).backward()
        optimiser.step()
    assert adversary.own_loss(images, made) < 0.2
    assert adversary(images).mean() > adversary(made).mean()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": (32, 30)}, "multiples of 4"),
        ({"pixel_weight": -1.0}, "negative"),
        ({"adversarial_start": 2.0}, "share"),
        ({"factors": ()}, "no network"),
    ],
)
def test_refuses_what_cannot_be(options: dict[str, object], said: str) -> None:
    fitting = {"image_size": (32, 32), "teacher": TinyTeacher((4, 4), 3), "factors": (1, 1, 2), "width": 8}
    with pytest.raises(ValueError, match=said):
        PeCo(**{**fitting, **options})
