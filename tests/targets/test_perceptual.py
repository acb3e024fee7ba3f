"""How alike images look to a network: of any kind, with gradients."""

import pytest
import torch
import torch.nn.functional as F

from unmask.targets import Teacher, create_teacher
from unmask.targets.perceptual import Perceptual
from unmask.targets.teacher import evenly

TEACHERS = {"maps": "random:resnet10t", "tokens": "random:vit_tiny_patch16_224"}
every_teacher = pytest.mark.parametrize("name", TEACHERS)


def perceptual(name: str, depths: int = 3) -> Perceptual:
    return Perceptual(create_teacher(TEACHERS[name], grid=(2, 4)), depths=depths)


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(seed))


def test_depths_are_spread_evenly() -> None:
    assert evenly(12, 4) == [2, 5, 8, 11]  # the third, sixth, ninth and twelfth
    assert evenly(5, 4) == [1, 2, 3, 4] and evenly(3, 4) == [0, 1, 2] and evenly(7, 1) == [6]


@every_teacher
def test_zero_for_the_same_image_only(name: str) -> None:
    distance = perceptual(name)
    assert distance(images(), images()) == 0
    assert distance(images(1), images()) > 0.01


@every_teacher
def test_the_gradient_reaches_the_picture_and_nothing_else(name: str) -> None:
    distance = perceptual(name)
    picture, image = images(1).requires_grad_(), images().requires_grad_()
    distance(picture, image).backward()
    assert picture.grad is not None and picture.grad.any() and image.grad is None
    assert all(p.grad is None and not p.requires_grad for p in distance.parameters())
    # A step against it brings the picture closer.
    closer = picture.detach() - 0.01 * picture.grad / picture.grad.norm()
    assert distance(closer, images()) < distance(picture, images())


@every_teacher
def test_is_the_sum_of_normalised_differences(name: str) -> None:
    distance = perceptual(name)
    teacher: Teacher = distance.teacher
    states = zip(*(teacher.states(images(seed), depths=3) for seed in (0, 1)), strict=True)
    wanted = sum(
        (F.layer_norm(a, a.shape[-1:]) - F.layer_norm(b, b.shape[-1:])).square().mean() for a, b in states
    )
    torch.testing.assert_close(distance(images(1), images()), wanted)


@every_teacher
def test_depths_differ_and_the_last_is_the_deepest(name: str) -> None:
    teacher = create_teacher(TEACHERS[name], grid=(2, 4))
    few, more = teacher.states(images(), depths=1), teacher.states(images(), depths=3)
    assert len(more) == 3 and torch.equal(few[0], more[-1])
    assert all(state.shape[0] == 2 and state.ndim == 3 for state in more)


def test_other_sizes_are_brought_to_that_of_the_teacher() -> None:
    distance = perceptual("tokens")
    large = F.interpolate(images(), scale_factor=2, mode="bicubic")
    assert distance(large, large.clone()) == 0
    near = distance.features(large), distance.features(images())
    off = sum(F.mse_loss(a, b) for a, b in zip(*near, strict=True))
    assert off < 0.2 * distance(images(1), images())


def test_refuses_a_teacher_that_shows_nothing() -> None:
    class Silent(Teacher):
        image_size = (32, 64)

        def forward(self, images: torch.Tensor, *, importance: bool = False) -> None:
            raise NotImplementedError

    with pytest.raises(ValueError, match="a Silent does not show"):
        Perceptual(Silent())(images(), images())
    with pytest.raises(ValueError, match="one depth or more"):
        perceptual("maps", depths=0)
