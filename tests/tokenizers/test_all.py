"""The properties that every tokenizer must have."""

import copy
import json
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.tokenizers.tiny import OPTIONS, pictures, tiny_tokenizer, views_of
from unmask.tokenizers import TOKENIZERS, Tokenizer

SIZES = {"square": ((32, 32), 3), "wide, four channels": ((32, 48), 4)}
every_tokenizer = pytest.mark.parametrize("name", OPTIONS)


@cache
def _built(name: str) -> Tokenizer:
    torch.manual_seed(0)
    return tiny_tokenizer(name)


def build(name: str) -> Tokenizer:
    """Built once, handed out as fresh copies."""
    return copy.deepcopy(_built(name))


def losses_of(tokenizer: Tokenizer, images: Tensor, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return tokenizer(**views_of(tokenizer, images))


def started(name: str, steps: int = 2) -> Tokenizer:
    """After some steps, so that codebooks have begun."""
    tokenizer = build(name)
    optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=1e-3)
    for step in range(1, steps + 1):
        losses_of(tokenizer, pictures(), step)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        tokenizer.after_step(step, steps)
    return tokenizer


def test_every_tokenizer_is_covered() -> None:
    assert {name.split()[0] for name in OPTIONS} == set(TOKENIZERS)


@every_tokenizer
def test_every_trainable_parameter_gets_a_gradient_and_no_frozen_one(name: str) -> None:
    tokenizer = started(name)
    losses = losses_of(tokenizer, pictures())
    assert all(value.shape == () and torch.isfinite(value) for value in losses.values())
    losses["loss"].backward()
    silent = [
        key
        for key, parameter in tokenizer.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not silent
    assert all(p.grad is None for p in tokenizer.parameters() if not p.requires_grad)


@every_tokenizer
@pytest.mark.parametrize("shape", SIZES)
def test_codes_of_any_shape(name: str, shape: str) -> None:
    size, channels = SIZES[shape]
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(name, image_size=size, channels=channels)
    images = pictures(2, size, channels)
    assert torch.isfinite(losses_of(tokenizer, images)["loss"])
    codes = tokenizer.codes(images)
    assert codes.shape == (2, tokenizer.grid[0] * tokenizer.grid[1]) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < tokenizer.vocabulary
    assert tokenizer.embed(codes).shape[:2] == codes.shape
    picture = tokenizer.decode(codes)
    assert picture is None or picture.shape == images.shape


@every_tokenizer
def test_training_mode_and_loss_leave_codes_alone(name: str) -> None:
    """Codes are those of evaluation; asking for them leaves no trace."""
    tokenizer, images = started(name), pictures()
    before = copy.deepcopy(tokenizer.state_dict())
    codes = tokenizer.train().codes(images)
    assert torch.equal(codes, tokenizer.eval().codes(images))
    tokenizer(**views_of(tokenizer, images))
    after = tokenizer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@every_tokenizer
def test_figures_are_in_range(name: str) -> None:
    tokenizer = started(name)
    losses = losses_of(tokenizer, pictures())
    assert 1 <= losses["perplexity"] <= tokenizer.vocabulary
    assert 1 / tokenizer.vocabulary <= losses["used"] <= 1
    assert not losses["used"].requires_grad and not losses["perplexity"].requires_grad


@every_tokenizer
def test_state_dict_round_trip(name: str) -> None:
    tokenizer, images = started(name).eval(), pictures()
    torch.manual_seed(99)
    other = tiny_tokenizer(name).eval()
    assert losses_of(tokenizer, images)["loss"] != losses_of(other, images)["loss"]
    other.load_state_dict(tokenizer.state_dict(), strict=True)
    assert torch.equal(losses_of(tokenizer, images)["loss"], losses_of(other, images)["loss"])
    assert torch.equal(tokenizer.codes(images), other.codes(images))


@every_tokenizer
def test_a_tokenizer_for_use_alone_has_the_same_codes(name: str) -> None:
    tokenizer, images = started(name), pictures()
    named = type(tokenizer).__init__.__annotations__
    options = OPTIONS[name] | {part: None for part in tokenizer.training_only if part in named}
    alone = type(tokenizer)(image_size=tokenizer.image_size, channels=tokenizer.channels, **options)
    alone.load_for_use(tokenizer.state_dict())
    codes = alone.codes(images)
    assert torch.equal(codes, tokenizer.codes(images))
    pictured = alone.decode(codes), tokenizer.decode(codes)
    assert pictured == (None, None) or torch.equal(*pictured)
    state = {key: value for key, value in tokenizer.state_dict().items() if "codebook" not in key}
    with pytest.raises(ValueError, match="do not fit"):
        alone.load_for_use(state | {"other": torch.zeros(1)})


@pytest.fixture(scope="session")
def traces() -> dict[str, str]:
    """What hindered each tokenizer from tracing as one graph."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.tokenizers.trace"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@every_tokenizer
def test_traces_as_one_graph(name: str, traces: dict[str, str]) -> None:
    assert traces[name] == ""


@every_tokenizer
def test_bfloat16_stays_close(name: str) -> None:
    tokenizer, images = started(name), pictures()
    exact = losses_of(tokenizer, images)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses_of(tokenizer, images)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in tokenizer.parameters())


@every_tokenizer
def test_the_seed_decides_everything(name: str) -> None:
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer(name)
        losses.append(losses_of(tokenizer, pictures(), seed)["loss"].item())
    assert losses[0] == losses[1] != losses[2]


# What falls, and to what share of its first value.
GOALS = {"dvae": ("pixels", 0.4), "vqkd": ("distance", 0.4), "peco": ("pixels", 0.3)}


@every_tokenizer
def test_overfits_one_batch(name: str) -> None:
    tokenizer = build(name)
    key, share = GOALS[name.split()[0]]
    optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    first, steps = losses_of(tokenizer, pictures())[key].item(), 300
    for step in range(1, steps + 1):
        losses = losses_of(tokenizer, pictures(), step)
        if losses[key].item() < share * first:
            return
        losses["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        tokenizer.after_step(step, steps)
    pytest.fail(f"{key} fell only from {first:.3f} to {losses[key].item():.3f}")
