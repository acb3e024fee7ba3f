"""MILAN: what the teacher looks at stays visible, prompts stay as they are, all tokens are scored."""

import logging

import pytest
import torch

from tests.tiny import tiny_encoder, tiny_method, tiny_teacher, views_of
from unmask.encoders.base import Encoder
from unmask.masking import Mask, WeighableMask
from unmask.methods import MILAN
from unmask.targets import Taught, Teacher

DECODER = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2}


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Constant(Teacher):
    """Looks at the same patches in every image, or, without class token, at none."""

    def __init__(self, encoder: Encoder, importance: torch.Tensor | None, *, dim: int = 24) -> None:
        super().__init__()
        self.image_size, self.grid, self.dim, self.description = encoder.image_size, encoder.grid, dim, {}
        self.has_cls, self.importance, self.calls = importance is not None, importance, 0

    def forward(self, images: torch.Tensor, *, importance: bool = False) -> Taught:
        self.calls += 1
        patches = torch.ones(len(images), self.grid[0] * self.grid[1], self.dim)
        if self.importance is None:
            assert not importance
            return Taught(patches=patches)
        return Taught(patches=patches, cls=patches[:, 0], importance=self.importance.expand(len(images), -1))


def used_mask(method: MILAN, batch: int, **given: Mask) -> Mask:
    """The mask that a forward pass encodes with."""
    seen: list[Mask] = []
    encode = method.encoder.visible

    def noted(view: torch.Tensor, mask: Mask) -> object:
        seen.append(mask)
        return encode(view, mask)

    method.encoder.visible = noted  # type: ignore[method-assign]
    method(**views_of(method, images(batch)), **given)
    method.encoder.visible = encode  # type: ignore[method-assign]
    return seen[0]


def test_a_quarter_stays_visible_whatever_the_teacher_says() -> None:
    encoder = tiny_encoder("vit", image_size=(112, 112))  # 14 x 14 patches, as 224 pixels in patches of 16
    for spread in (0.0, 1.0, 30.0):
        attention = torch.softmax(spread * torch.randn(196), 0)
        method = MILAN(encoder, teacher=Constant(encoder, attention), **DECODER)
        mask = method.weighed(
            method.draw(torch.zeros(3, 3, 112, 112)), method.teacher(images(3), importance=True)
        )
        assert (mask.hidden.sum(1) == 147).all() and mask.count == 147


def test_what_the_teacher_looks_at_is_always_kept() -> None:
    encoder = tiny_encoder("vit")
    attention = torch.full((64,), 1e-9)
    attention[5:21] = 1 / 16
    method = MILAN(encoder, teacher=Constant(encoder, attention), **DECODER)
    mask = used_mask(method, 8)
    assert not mask.hidden[:, 5:21].any() and mask.hidden.sum() == 8 * 48


def test_even_attention_is_even_masking_and_any_other_mask_is_taken_as_it_is() -> None:
    encoder = tiny_encoder("vit")
    method = MILAN(encoder, teacher=Constant(encoder, torch.full((64,), 1 / 64)), **DECODER)
    drawn = method.draw(images(4))
    assert isinstance(drawn, WeighableMask)
    assert torch.equal(used_mask(method, 4, mask=drawn).hidden, drawn.hidden)
    attentive = MILAN(encoder, teacher=Constant(encoder, torch.randn(64).mul(3).softmax(0)), **DECODER)
    plain = Mask.of(drawn.hidden, drawn.grid, 48)
    assert torch.equal(used_mask(attentive, 4, mask=plain).hidden, plain.hidden)
    assert not torch.equal(used_mask(attentive, 4, mask=drawn).hidden, drawn.hidden)


@pytest.mark.parametrize("sampling", ["attention", "random"])
def test_the_teacher_is_asked_once_a_step(sampling: str) -> None:
    encoder = tiny_encoder("vit")
    teacher = Constant(encoder, torch.full((64,), 1 / 64))
    method = MILAN(encoder, teacher=teacher, sampling=sampling, **DECODER)  # type: ignore[arg-type]
    method(**views_of(method, images()))["loss"].backward()
    assert teacher.calls == 1


def test_visible_and_class_tokens_do_not_depend_on_the_decoders_blocks() -> None:
    method = tiny_method("milan", "vit").eval()
    assert isinstance(method, MILAN)
    mask = Mask.of(torch.rand(2, 64).argsort(1) < 48, (8, 8), 48)
    seen = method.encoder.visible(images(), mask)
    before = method.decoder(seen, mask)
    for parameter in method.decoder.blocks.parameters():
        torch.nn.init.normal_(parameter)
    after = method.decoder(seen, mask)
    assert torch.equal(before[:, 0], after[:, 0])
    assert torch.equal(mask.visible(before[:, 1:]), mask.visible(after[:, 1:]))
    assert not torch.equal(mask.masked(before[:, 1:]), mask.masked(after[:, 1:]))
    # The class token: embedded, at its position (zeros), normalised.
    assert seen.cls is not None
    torch.testing.assert_close(before[:, 0], method.decoder.norm(method.decoder.embed(seen.cls)))


def test_the_loss_is_the_squared_distance_of_directions() -> None:
    method = tiny_method("milan", "vit").eval()
    assert isinstance(method, MILAN)
    views = views_of(method, images())
    mask = Mask.of(torch.rand(2, 64).argsort(1) < 48, (8, 8), 48)
    loss = method(**views, mask=mask)["loss"]
    predicted = method.head(method.decoder(method.encoder.visible(views["images"], mask), mask))
    wanted = method.target(method.teacher(views["teacher_images"]))
    assert predicted.shape == wanted.shape == (2, 65, 48)  # class token, visible and hidden patches
    unit = torch.nn.functional.normalize
    distance = (unit(predicted, dim=-1) - unit(wanted, dim=-1)).square().sum(-1)
    torch.testing.assert_close(loss, distance.mean())
    assert 0 <= loss <= 4


def test_pictures_show_features_as_the_loss_compares_them() -> None:
    method = tiny_method("milan", "vit_no_class_token").eval()
    views = views_of(method, images())
    mask = Mask.of(torch.rand(2, 64).argsort(1) < 48, (8, 8), 48)
    pair = method.predict_features(**views, mask=mask)
    assert pair is not None
    distance = (pair[0] - pair[1]).square().sum(-1)
    torch.testing.assert_close(method(**views, mask=mask)["loss"], distance.mean())
    # Whatever is hidden from the encoder, the prediction does not know it.
    views["images"] = torch.where(mask.pixels(8), 3.0, views["images"])
    again = method.predict_features(**views, mask=mask)
    assert again is not None and torch.equal(pair[0], again[0])


def test_nobody_trains_the_teacher_or_the_position_tables() -> None:
    method = tiny_method("milan", "vit")
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())  # type: ignore[union-attr]
    names = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
    assert not [name for name in names if "pos" in name]
    assert not method.train().teacher.training  # type: ignore[union-attr]


def test_a_teacher_without_class_token_scores_patches_alone(caplog: pytest.LogCaptureFixture) -> None:
    encoder = tiny_encoder("vit")
    with caplog.at_level(logging.WARNING):
        method = MILAN(encoder, teacher=Constant(encoder, None), **DECODER)
    assert "patches are hidden evenly" in caplog.text
    views = views_of(method, images())
    assert method.target(method.teacher(views["teacher_images"])).shape == (2, 64, 24)
    assert torch.isfinite(method(**views)["loss"])
    assert not isinstance(method.draw(images()), WeighableMask)


def test_what_cannot_work_is_refused() -> None:
    encoder = tiny_encoder("vit")
    with pytest.raises(ValueError, match=r"use a ViT as teacher, or method.sampling=random"):
        MILAN(encoder, teacher=Constant(encoder, None), sampling="attention")
    other = tiny_teacher(tiny_encoder("vit", image_size=(96, 96)))
    with pytest.raises(ValueError, match="12 x 12 features and the encoder 8 x 8"):
        MILAN(encoder, teacher=other)
    with pytest.raises(ValueError, match="MILAN encodes only visible patches"):
        MILAN(tiny_encoder("swin"), teacher=tiny_teacher(encoder))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), [("base", 111_776_512), ("large", 329_410_560)])
def test_the_released_model_has_its_size(name: str, parameters: int) -> None:
    from unmask.encoders import create_encoder

    encoder = create_encoder(f"vit_{name}_patch16_224", position="sincos")
    method = MILAN(encoder, teacher=Constant(encoder, torch.ones(196), dim=512))
    # The official file counts the decoder's fixed table of positions.
    found = sum(parameter.numel() for parameter in method.parameters()) + method.decoder.positions.numel()
    assert found == parameters
