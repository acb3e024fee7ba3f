"""MaskDistill: the other methods are choices of its parts, and its parts are what their names say."""

import copy
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.tiny import tiny_encoder, tiny_method, tiny_teacher, tiny_tokenizer, views_of
from unmask.masking import BlockMask, RandomMask
from unmask.methods import MAE, MaskDistill, Method, SimMIM
from unmask.targets.features import distance, normalise


def pictures(size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))


def losses_and_gradients(method: Method, **inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    loss = method(**inputs)["loss"]
    loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return loss, gradients


# The unified view


@pytest.mark.parametrize("encoder", ["beit_shared", "vit_registers"])
@pytest.mark.parametrize("loss", ["l1", "smooth_l1"])
def test_simmim_is_a_choice_of_its_parts_bit_for_bit(encoder: str, loss: Any) -> None:
    torch.manual_seed(0)
    simmim = SimMIM(tiny_encoder(encoder), mask_size=16, loss=loss)
    distill = MaskDistill(
        copy.deepcopy(simmim.encoder),
        mask="random",
        mask_ratio=0.6,
        mask_size=16,
        target_norm="none",
        loss=loss,
    )
    distill.load_state_dict(simmim.state_dict(), strict=True)
    images = pictures()
    masks = []
    for method in (simmim, distill):
        torch.manual_seed(1)
        masks.append(method.draw(images))
    assert torch.equal(masks[0].hidden, masks[1].hidden)
    one, two = (losses_and_gradients(method, images=images, mask=masks[0]) for method in (simmim, distill))
    assert torch.equal(one[0], two[0]) and one[1].keys() == two[1].keys()
    assert all(torch.equal(one[1][name], two[1][name]) for name in one[1])
    assert torch.equal(simmim.reconstruct(images, masks[0]), distill.reconstruct(images, masks[0]))
    guess = torch.zeros_like(images)
    assert torch.equal(simmim.loss_of(guess, images, masks[0]), distill.loss_of(guess, images, masks[0]))


def test_simmim_on_a_swin() -> None:
    torch.manual_seed(0)
    simmim = SimMIM(tiny_encoder("swin"))
    distill = MaskDistill(copy.deepcopy(simmim.encoder), target_norm="none", loss="l1")
    distill.load_state_dict(simmim.state_dict(), strict=True)
    images = pictures()
    mask = distill.draw(images)
    one, two = (losses_and_gradients(method, images=images, mask=mask) for method in (simmim, distill))
    torch.testing.assert_close(one, two)


def test_mae_is_a_choice_of_its_parts() -> None:
    torch.manual_seed(0)
    small = {"decoder_dim": 32, "decoder_depth": 1}
    mae = MAE(tiny_encoder("vit"), decoder_heads=1, **small)
    distill = MaskDistill(
        copy.deepcopy(mae.encoder), mask="random", head="vit", target_norm="patch_std", loss="l2", **small
    )
    images = pictures()
    assert torch.equal(distill.target(images, None, None), mae.pixels.encode(images))
    state = mae.state_dict()
    for name in ("head.weight", "head.bias"):  # the order of PixelShuffle
        state[name] = rearrange(state[name], "(p q c) ... -> (c p q) ...", p=8, q=8)
    distill.load_state_dict(state, strict=True)
    mask = mae.draw(images)
    torch.testing.assert_close(distill(images, mask=mask), mae(images, mask=mask))
    torch.testing.assert_close(distill.reconstruct(images, mask), mae.reconstruct(images, mask))
    guess = torch.zeros_like(images)
    torch.testing.assert_close(
        distill.loss_of(guess, images, mask), mae.loss_of(guess, images, mask), rtol=1e-5, atol=0
    )


def test_beit_is_a_choice_of_its_parts_bit_for_bit() -> None:
    torch.manual_seed(0)
    beit = tiny_method("beit", "beit_shared")
    distill = MaskDistill(copy.deepcopy(beit.encoder), tokenizer=tiny_tokenizer(beit.encoder))
    distill.load_state_dict(beit.state_dict(), strict=True)
    views, mask = views_of(beit, pictures()), beit.draw(pictures())
    one, two = (losses_and_gradients(method, **views, mask=mask) for method in (beit, distill))
    assert torch.equal(one[0], two[0]) and one[1].keys() == two[1].keys()
    assert all(torch.equal(one[1][name], two[1][name]) for name in one[1])


def test_codes_have_the_cross_entropy_of_hidden_places() -> None:
    torch.manual_seed(0)
    encoder = tiny_encoder("beit_shared")
    method = MaskDistill(encoder, tokenizer=tiny_tokenizer(encoder))
    images = pictures()
    tokens = views_of(method, images)["token_images"]
    mask = method.draw(images)
    loss = method(images, token_images=tokens, mask=mask)["loss"]
    logits = method.head(method.encoder(images, mask, method.token).patches)
    labels = method.codes.encode(tokens)
    expected = cross_entropy(logits[mask.hidden], labels[mask.hidden])
    torch.testing.assert_close(loss, expected)
    assert method.chance_loss == method.codes.chance_loss is not None
    everywhere = MaskDistill(copy.deepcopy(encoder), tokenizer=tiny_tokenizer(encoder), scope="all")
    everywhere.load_state_dict(method.state_dict())
    torch.testing.assert_close(
        everywhere(images, token_images=tokens, mask=mask)["loss"],
        cross_entropy(logits.flatten(0, 1), labels.flatten()),
    )
    ragged = BlockMask(ratio=0.4, official=True)(4, method.encoder.grid)
    assert torch.isfinite(method(images, token_images=tokens, mask=ragged)["loss"])


# Its parts


def test_normalised_targets() -> None:
    vectors = 3 * torch.randn(2, 5, 64) + 1
    plain = normalise(vectors, "layer")
    torch.testing.assert_close(plain.mean(-1), torch.zeros(2, 5), rtol=0, atol=1e-6)
    torch.testing.assert_close(plain.var(-1, correction=0), torch.ones(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalise(2.5 * vectors - 4, "layer"), plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(normalise(vectors, "patch_std") * (64 / 63) ** 0.5, plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(normalise(vectors, "l2").norm(dim=-1), torch.ones(2, 5))
    assert normalise(vectors, "none") is vectors


@pytest.mark.parametrize(("beta", "expected"), [(1.0, 0.4247), (2.0, 0.2471)])
def test_what_an_untrained_head_should_lose(beta: float, expected: float) -> None:
    """A prediction of zero against normally distributed targets of variance 1."""
    targets = torch.randn(1, 1000, 1000, generator=torch.Generator().manual_seed(0))
    loss = distance(torch.zeros_like(targets), targets, "smooth_l1", beta=beta).mean()
    assert loss.item() == pytest.approx(expected, abs=1e-3)


def test_distances() -> None:
    one, two = torch.randn(2, 3, 5, 64)
    directions = normalise(one, "l2") - normalise(two, "l2")
    torch.testing.assert_close(distance(one, two, "cosine"), directions.square().sum(-1))
    centred = [normalise(x, "layer") for x in (one, two)]
    correlation = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(one[0], two[0], strict=True)]
    )
    torch.testing.assert_close(distance(*centred, "l2")[0], 2 - 2 * correlation, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(distance(one, two, "l1"), (one - two).abs().mean(-1))


def test_only_hidden_features_are_scored() -> None:
    torch.manual_seed(0)
    method = tiny_method("mask_distill", "vit").eval()
    images = pictures()
    views, mask = views_of(method, images), method.draw(images)
    prediction = method.predict(
        method.encode(images, mask, hidden_only=False), mask, hidden_only=False
    ).detach()
    target = method.target(*views.values(), None)
    prediction.requires_grad_()
    method.compare(prediction, target, mask)["loss"].backward()
    assert torch.equal(prediction.grad.abs().sum(-1) > 0, mask.hidden)


def test_the_start_is_near_that_of_predicting_nothing() -> None:
    torch.manual_seed(0)
    method = tiny_method("mask_distill", "vit")
    nothing = torch.zeros(1)
    targets = method.target(*views_of(method, pictures()).values(), None)
    expected = distance(nothing.expand_as(targets), targets, "smooth_l1").mean()
    loss = method(**views_of(method, pictures()))["loss"]
    torch.testing.assert_close(loss, expected, rtol=0.1, atol=0)


def test_the_paper_hides_78_of_196_patches() -> None:
    method = MaskDistill(tiny_encoder("beit_shared", image_size=(112, 112)))
    assert method.draw(pictures((112, 112))).count == 78


def test_whole_features_of_a_swin_are_hidden() -> None:
    encoder = tiny_encoder("swin", image_size=(128, 128))
    method = MaskDistill(encoder, teacher=tiny_teacher(encoder))
    mask = method.draw(pictures((128, 128)))
    shares = rearrange(mask.hidden, "b (h p w q) -> b (h w) (p q)", h=4, p=8, w=4).float().mean(-1)
    assert torch.equal(shares, shares.round()) and mask.count == 6 * 64
    assert torch.equal(mask.coarser(8).hidden, shares.bool()) and mask.coarser(8).count == 6


def test_features_can_be_drawn() -> None:
    torch.manual_seed(0)
    method, images = tiny_method("mask_distill", "swin"), pictures()
    mask = method.draw(images)
    prediction, target = method.predict_features(**views_of(method, images), mask=mask)
    assert prediction.shape == target.shape == (4, 256, method.teacher.dim)
    expected = mask.mean(distance(prediction, target, "smooth_l1"))
    torch.testing.assert_close(method(**views_of(method, images), mask=mask)["loss"], expected)
    pixels = tiny_method("mask_distill pixels", "vit")
    assert pixels.predict_features(images, mask=pixels.draw(images)) is None


def test_pictures_are_of_pixels_only() -> None:
    method, images = tiny_method("mask_distill", "vit"), pictures()
    mask = RandomMask(ratio=0.5)(4, method.encoder.grid)
    assert method.reconstruct(images, mask) is None and method.loss_of(images, images, mask) is None
    assert method.chance_loss is None


def test_checkpoints_hold_what_the_teacher_was_and_not_its_weights() -> None:
    method = tiny_method("mask_distill", "vit")
    assert [name for name in method.state_dict() if "teacher" in name] == ["teacher._extra_state"]
    assert not any("teacher" in name for name, _ in method.named_parameters())


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        ("vit", {"teacher": "of a Swin"}, "1 x 2 features and the encoder 8 x 8"),
        ("vit", {"tokenizer": "tiny", "loss": "l2"}, "cross-entropy"),
        ("swin", {"tokenizer": "tiny"}, "MaskDistill predicts the code of every patch"),
        ("vit", {"loss": "l1", "beta": 2.0}, "method.beta"),
        ("swin", {"mask_size": 16}, "multiple of 32"),
        ("swin", {"head": "vit"}, "method.head=vit encodes only visible patches"),
    ],
)
def test_what_does_not_fit_is_said_at_once(encoder: str, options: dict[str, Any], message: str) -> None:
    if "teacher" in options:
        options = {**options, "teacher": tiny_teacher(tiny_encoder("swin", image_size=(32, 64)))}
    student = tiny_encoder(encoder)
    if "tokenizer" in options:
        options = {**options, "tokenizer": tiny_tokenizer(student)}
    with pytest.raises(ValueError, match=message):
        MaskDistill(student, **options)


def test_a_teacher_and_a_tokenizer_are_one_too_many() -> None:
    encoder = tiny_encoder("vit")
    with pytest.raises(ValueError, match="set one of them to none"):
        MaskDistill(encoder, teacher=tiny_teacher(encoder), tokenizer=tiny_tokenizer(encoder))
