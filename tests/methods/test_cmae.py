"""CMAE: squares are hidden, a moving average is contrasted with, queues and processes see all images."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import tiny_encoder, tiny_method
from unmask.data.colour import ColourChange
from unmask.masking import RandomMask
from unmask.methods import CMAE

OPTIONS = {
    "mask_size": 16, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2,
    "feature_depth": 1, "projection_dim": 24, "projection_hidden": 32,
}  # fmt: skip


def images(batch: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def built(**options: object) -> CMAE:
    torch.manual_seed(0)
    return CMAE(tiny_encoder("vit"), **(OPTIONS | options))  # type: ignore[arg-type]


def test_the_official_mask_keeps_68_patches_in_squares_of_32_pixels() -> None:
    for rounding in ("nearest", "mae_official"):
        mask = RandomMask(ratio=0.65, unit=2, rounding=rounding)(5, (14, 14))
        assert (~mask.hidden).sum(1).tolist() == [68] * 5
        squares = mask.hidden.view(5, 7, 2, 7, 2)
        assert torch.equal(squares.any(4).any(2), squares.all(4).all(2))


def test_an_image_is_found_among_the_others() -> None:
    method = built()
    keys = torch.linalg.qr(torch.randn(24, 24))[0][:4]
    assert method.confusion(keys, keys) < 1e-5
    assert method.confusion(keys.roll(1, 0), keys) > 10
    torch.testing.assert_close(
        method.confusion(torch.ones(4, 24), torch.ones(4, 24)), torch.tensor(math.log(4))
    )
    # Lengths do not count.
    torch.testing.assert_close(
        method.confusion(keys, keys.roll(1, 1)), method.confusion(5 * keys, keys.roll(1, 1))
    )


def test_the_loss_has_two_parts_and_each_its_decoder() -> None:
    for weights, silent, taught in (
        ((1.0, 0.0), "feature_decoder", "decoder"),
        ((0.0, 1.0), "decoder", "feature_decoder"),
    ):
        method = built(reconstruction_weight=weights[0], contrast_weight=weights[1])
        losses = method(images(), images(seed=1))
        total = weights[0] * losses["reconstruction"] + weights[1] * losses["contrast"]
        torch.testing.assert_close(losses["loss"], total)
        losses["loss"].backward()
        assert not any(p.grad.any() for p in method.get_submodule(silent).parameters() if p.grad is not None)
        assert any(p.grad.any() for p in method.get_submodule(taught).parameters() if p.grad is not None)


def test_reconstruction_is_that_of_a_masked_autoencoder() -> None:
    method = built()
    mask = method.draw(images())
    error = method.head(method.decoder(method.encoder.visible(images(), mask), mask)) - method.pixels.encode(
        images()
    )
    losses = method(images(), images(seed=1), mask=mask)
    torch.testing.assert_close(losses["reconstruction"], mask.masked(error).square().mean())


def test_the_target_follows_by_its_momentum_and_is_never_trained() -> None:
    method = built()
    method(images(), images(seed=1))["loss"].backward()
    pairs = [(method.target, method.encoder), (method.target_projector, method.projector)]
    for average, student in pairs:
        before = [parameter.clone() for parameter in average.parameters()]
        assert all(
            parameter.grad is None and not parameter.requires_grad for parameter in average.parameters()
        )
        with torch.no_grad():
            for parameter in student.parameters():
                parameter += 1.0
        method.after_step(1, 10)
        for old, new in zip(before, average.parameters(), strict=True):
            torch.testing.assert_close(new, old + (1 - 0.996) * 1.0)


def test_the_targets_projector_has_statistics_of_its_own() -> None:
    method = built().train()
    assert method.target_projector.module.norm.training and not method.target.training
    method(images(), 3 * images(seed=1))
    own, online = method.target_projector.module.norm, method.projector.norm
    assert own.num_batches_tracked == online.num_batches_tracked == 1
    assert not torch.allclose(own.running_mean, online.running_mean)
    before = own.running_mean.clone()
    method.after_step(1, 10)  # weights are averaged, statistics are not
    assert torch.equal(own.running_mean, before)
    method.eval()
    method(images(), images(seed=2))
    assert torch.equal(own.running_mean, before)


def test_the_target_sees_all_of_the_other_view_without_final_norm() -> None:
    method = built().eval()
    before = method.key(images())
    torch.nn.init.normal_(method.target.module.model.norm.weight)
    assert torch.equal(method.key(images()), before)
    changed = images()
    changed[:, :, -8:, -8:] += 1
    assert not torch.allclose(method.key(changed), before)


def test_a_query_speaks_of_visible_patches_alone() -> None:
    method = built().eval()
    mask = method.draw(images())
    other = torch.where(mask.pixels(8), 7.0, images())
    queries = [method.query(method.encoder.visible(view, mask), mask) for view in (images(), other)]
    assert torch.equal(*queries)


def test_the_queue_holds_the_newest_keys_and_others_to_tell_from() -> None:
    method = built(queue=6).train()
    assert torch.allclose(method.queue.norm(dim=1), torch.ones(6))
    first = method.queue.clone()
    keys = [F.normalize(torch.randn(4, 24), dim=1) for _ in range(2)]
    query = torch.randn(4, 24, requires_grad=True)
    loss = method.confusion(query, keys[0])
    logits = F.normalize(query, dim=1) @ torch.cat([keys[0], first]).T / 0.07
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.arange(4)))
    loss.backward()
    torch.testing.assert_close(method.queue, torch.cat([keys[0], first[:2]]))
    method.confusion(query, keys[1])
    torch.testing.assert_close(method.queue, torch.cat([keys[1], keys[0][:2]]))
    kept = method.queue.clone()
    method.confusion(query, keys[0] * torch.nan)  # a step that diverged
    method.eval().confusion(query, keys[0])  # a look at the run
    assert torch.equal(method.queue, kept)
    assert "queue" in method.state_dict()


def test_the_views() -> None:
    method = built()
    target = method.views["target_images"]
    assert target.shift == 9 and target.normalised and target.scale == 1  # 31 of 224, of 64 pixels
    assert target.colour == ColourChange(
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        jitter=0.8,
        grey=0.2,
        blur=0.5,
        sigma=(0.1, 2.0),
    )
    assert method.views["images"].colour is None
    plain = built(shift=0, colour=False).views["target_images"]
    assert plain.shift == 0 and plain.colour == ColourChange(blur=0.5)
    grey = CMAE(tiny_encoder("vit", channels=1), **OPTIONS)  # type: ignore[arg-type]
    assert grey.views["target_images"].colour == ColourChange(blur=0.5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mask_size": 12}, "take for instance method.mask_size=16"),
        ({"mask_size": 48}, "do not tile"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"queue": -1}, "must not be negative"),
        ({"momentum": 1.5}, "momentum"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        built(**wrong)
    with pytest.raises(ValueError, match="CMAE encodes only visible patches"):
        CMAE(tiny_encoder("swin"))


@pytest.mark.slow
def test_the_released_model_has_its_size() -> None:
    from unmask.encoders import create_encoder

    method = CMAE(create_encoder("vit_base_patch16_224", position="sincos"))

    def size(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    tables = method.decoder.positions.numel()  # parameters of the official code
    assert size(method.encoder) == 85_798_656
    assert size(method.decoder) + size(method.head) + tables == 26_109_184
    assert size(method.feature_decoder) + size(method.feature_head) + tables == 7_194_880
    assert size(method.projector) == 1_577_472 and size(method.predictor) == 791_040


def test_pictures_are_those_of_the_pixel_decoder() -> None:
    method = tiny_method("cmae", "vit").eval()
    mask = method.draw(images())
    picture = method.reconstruct(images(), mask)
    assert picture is not None and picture.shape == images().shape
