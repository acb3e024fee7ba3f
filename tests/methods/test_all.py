"""The properties that every method must have, with every encoder family that it works with."""

import copy
import json
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.tiny import DROPPING, PAIRS, method_of, tiny_method, views_of
from unmask.masking import Mask
from unmask.methods import METHODS, Method
from unmask.methods.card import Card

SIZES = {"square": ((64, 64), 3), "wide, four channels": ((64, 96), 4)}


@cache
def _built(name: str, encoder: str) -> Method:
    torch.manual_seed(0)
    return tiny_method(name, encoder)


def build(name: str, encoder: str) -> Method:
    """Built once, handed out as fresh copies."""
    return copy.deepcopy(_built(name, encoder))


def pictures(batch: int = 4, size: tuple[int, int] = (64, 64), channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, *size, generator=generator)


def loss_of(method: Method, images: Tensor, mask: Mask | None = None) -> Tensor:
    return method(**views_of(method, images), mask=mask)["loss"]


def wake(method: Method) -> None:
    """Move every parameter off its initial value: SwinV2's norms start at 0, which switches its blocks
    off.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


every_pair = pytest.mark.parametrize(("name", "encoder"), PAIRS)


def test_every_method_is_covered() -> None:
    assert {method_of(name) for name, _ in PAIRS} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_card_of_its_own(name: str) -> None:
    card = vars(METHODS[name])["card"]
    assert isinstance(card, Card)
    assert [other for other, method in METHODS.items() if method.card == card] == [name]


@every_pair
def test_every_trainable_parameter_gets_a_gradient(name: str, encoder: str) -> None:
    method = build(name, encoder)
    wake(method)
    loss = loss_of(method, pictures())
    assert loss.shape == () and torch.isfinite(loss)
    loss.backward()
    silent = [
        key
        for key, parameter in method.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not silent


@every_pair
def test_hidden_pixels_change_the_target_only(name: str, encoder: str) -> None:
    """The prediction may not depend on what is hidden; only its comparison with the target may."""
    method, images = build(name, encoder).eval(), pictures()
    wake(method)
    mask = method.draw(images)
    hidden = mask.pixels(method.encoder.patch_size)
    other = torch.where(hidden, torch.randn_like(images), images)
    assert not torch.equal(images, other)
    with torch.no_grad():
        same = method.reconstruct(images, mask), method.reconstruct(other, mask)
        losses = loss_of(method, images, mask), loss_of(method, other, mask)
    if same[0] is not None:
        torch.testing.assert_close(*same, rtol=0, atol=1e-6)
    assert losses[0] != losses[1]


@every_pair
@torch.no_grad()
def test_features_in_pictures_owe_nothing_to_hidden_pixels(name: str, encoder: str) -> None:
    method, images = build(name, encoder).eval(), pictures()
    wake(method)
    mask = method.draw(images)
    other = torch.where(mask.pixels(method.encoder.patch_size), torch.randn_like(images), images)
    pairs = [method.predict_features(**views_of(method, view), mask=mask) for view in (images, other)]
    if pairs[0] is None or pairs[1] is None:
        return
    (predicted, target), (predicted_of_other, _) = pairs
    assert predicted.shape == target.shape == (4, mask.hidden.shape[1], target.shape[-1])
    assert target[mask.hidden].isfinite().all() and predicted[mask.hidden].std() > 0
    torch.testing.assert_close(mask.masked(predicted), mask.masked(predicted_of_other), rtol=0, atol=1e-6)


@pytest.mark.parametrize("encoder", DROPPING)
def test_hidden_pixels_cannot_influence_a_visible_only_encoder(encoder: str) -> None:
    method, images = build("mae", encoder).eval(), pictures()
    mask = method.draw(images)
    other = torch.where(mask.pixels(method.encoder.patch_size), torch.full_like(images, 7.0), images)
    before, after = (method.encoder.visible(view, mask, take=(0, -1)) for view in (images, other))
    assert torch.equal(before.patches, after.patches)
    assert all(torch.equal(a, b) for a, b in zip(before.taps, after.taps, strict=True))


@every_pair
@pytest.mark.parametrize("shape", SIZES)
def test_exact_counts_on_any_shape(name: str, encoder: str, shape: str) -> None:
    size, channels = SIZES[shape]
    torch.manual_seed(0)
    method = tiny_method(name, encoder, image_size=size, channels=channels)
    images = pictures(5, size, channels)
    mask = method.draw(images)
    assert mask.hidden.shape == (5, method.encoder.grid[0] * method.encoder.grid[1])
    assert (mask.hidden.sum(1) == mask.count).all()
    assert torch.isfinite(loss_of(method, images, mask))
    picture = method.reconstruct(images, mask)
    assert picture is None or picture.shape == images.shape


@pytest.fixture(scope="session")
def traces(request: pytest.FixtureRequest) -> dict[str, str]:
    """What hindered each pair that is asked for from tracing as one graph."""
    chosen = {
        f"{item.callspec.params['name']}-{item.callspec.params['encoder']}"
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_traces_as_one_graph
    }
    command = [sys.executable, "-m", "tests.methods.trace", *sorted(chosen)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# Tracing takes seconds: of every method the first pair, and SimMIM with the encoders that others have too.
TRACED = {method_of(name): (name, encoder) for name, encoder in reversed(PAIRS)}.values()
ALSO_TRACED = [("simmim", "swin"), ("simmim", "beit_shared")]


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        pytest.param(*pair, marks=[] if pair in [*TRACED, *ALSO_TRACED] else pytest.mark.slow)
        for pair in PAIRS
    ],
)
def test_traces_as_one_graph(name: str, encoder: str, traces: dict[str, str]) -> None:
    assert traces[f"{name}-{encoder}"] == ""


@every_pair
def test_bfloat16_stays_close(name: str, encoder: str) -> None:
    method, images = build(name, encoder), pictures()
    mask = method.draw(images)
    exact = loss_of(method, images, mask)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(method, images, mask)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in method.parameters())


@every_pair
def test_state_dict_round_trip(name: str, encoder: str) -> None:
    method, images = build(name, encoder).eval(), pictures()
    mask = method.draw(images)
    torch.manual_seed(99)
    other = tiny_method(name, encoder).eval()
    assert not torch.equal(loss_of(method, images, mask), loss_of(other, images, mask))
    other.load_state_dict(method.state_dict(), strict=True)
    assert torch.equal(loss_of(method, images, mask), loss_of(other, images, mask))


@every_pair
def test_activation_checkpointing_changes_nothing(name: str, encoder: str) -> None:
    method, images = build(name, encoder), pictures()
    mask = method.draw(images)
    gradients = []
    for method.encoder.checkpointing in (False, True):
        method.zero_grad()
        loss_of(method, images, mask).backward()
        gradients.append([p.grad.clone() for p in method.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@every_pair
def test_overfits_one_batch(name: str, encoder: str) -> None:
    method = build(name, encoder)
    # Smooth pictures, so that something can be known of the hidden pixels.
    images = torch.nn.functional.interpolate(pictures(4, (4, 4)), size=(64, 64), mode="bilinear")
    mask = method.draw(images)
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    first = loss_of(method, images, mask).item()
    for _ in range(300):
        optimiser.zero_grad()
        loss = loss_of(method, images, mask)
        loss.backward()
        optimiser.step()
        if loss.item() < 0.5 * first:
            return
    pytest.fail(f"the loss fell only from {first:.3f} to {loss.item():.3f}")


@every_pair
def test_the_seed_decides_everything(name: str, encoder: str) -> None:
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        method = tiny_method(name, encoder)
        losses.append(loss_of(method, pictures()).item())
    assert losses[0] == losses[1] != losses[2]


@every_pair
def test_answers_stand_for_views(name: str, encoder: str) -> None:
    """What is asked of frozen networks is all that a method wants of those views, and changes nothing."""
    method = build(name, encoder).eval()
    views = views_of(method, pictures())
    answers = {view: question.ask(views[view]) for view, question in method.questions.items()}
    assert set(answers) == set(views) & {"teacher_images", "token_images"}
    if answers:
        mask = method.draw(views["images"])
        with torch.no_grad():
            plain, answered = method(**views, mask=mask), method(**{**views, **answers}, mask=mask)
        assert all(torch.equal(plain[loss], answered[loss]) for loss in plain)
