"""iTPN with a teacher: what is hidden stays hidden, what is learned is the teacher's."""

import pytest
import torch
import torch.nn.functional as F

from tests.golden.golden import load_case
from tests.golden.hierarchical import build_hivit
from tests.golden.itpn import build_itpn_teacher
from tests.golden.official import tensors
from tests.golden.test_models import FOLDER
from tests.tiny import tiny_encoder, tiny_teacher
from unmask.convert.names_itpn import hivit_name, itpn_teacher_name
from unmask.convert.weights import load_official
from unmask.masking import Mask
from unmask.methods.itpn_teacher import ITPNTeacher

SIZES = {"pyramid_dim": 16}
PREFIX = "encoder.model."


def build(encoder: str = "hivit_bias", **options: object) -> ITPNTeacher:
    torch.manual_seed(0)
    built = tiny_encoder(encoder)
    return ITPNTeacher(built, teacher=tiny_teacher(built), **{**SIZES, **options}).eval()


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 64, 64, generator=generator), torch.rand(2, 3, 32, 32, generator=generator)


def predictions(method: ITPNTeacher, images: torch.Tensor, mask: Mask) -> tuple[torch.Tensor, torch.Tensor]:
    seen = method.encoder(images, mask, method.token, take=(method.branch,))
    auxiliary = method.predict_early(seen.taps[0])
    assert auxiliary is not None
    return method.predict(seen, mask), auxiliary


@pytest.mark.parametrize("encoder", ["hivit_bias", "fast_itpn"])
def test_hidden_pixels_do_not_leak_unless_asked_for(encoder: str) -> None:
    images, _ = pictures()
    for method in (build(encoder), build(encoder, leaking_laterals=True)):
        mask = method.draw(images)
        other = torch.where(mask.pixels(16), -images, images)
        before, after = predictions(method, images, mask), predictions(method, other, mask)
        leaks = bool(len(method.lateral_tokens) == 0)
        assert torch.equal(before[0], after[0]) != leaks
        assert torch.equal(before[1], after[1]), "the branch starts behind the token"
        if leaks:  # through the pyramid of the unit itself and nothing else
            changed = (before[0] != after[0]).any(-1)
            assert torch.equal(changed, mask.hidden)


def test_the_loss_is_the_mean_over_all_units() -> None:
    method, (images, second) = build(), pictures()
    mask = method.draw(images)
    losses = method(images, second, mask=mask)
    taught = method.teacher(second).patches
    assert not taught.requires_grad
    centred = taught - taught.mean(-1, keepdim=True)
    target = centred / (taught.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    parts = [F.huber_loss(part, target) for part in predictions(method, images, mask)]
    torch.testing.assert_close(losses["loss"], parts[0] + parts[1])
    alone = build(auxiliary_weight=0.0)
    alone.load_state_dict(method.state_dict(), strict=False)
    single = alone(images, second, mask=mask)
    assert set(single) == {"loss"}
    torch.testing.assert_close(single["loss"], losses["main"])


def test_a_squeezed_teacher_sees_the_upper_half() -> None:
    method, (_, second) = build(squeezed_range=True), pictures()
    plain = build()
    torch.testing.assert_close(method.target(2 * second - 1), plain.target(second))


def test_masks_are_exact_unless_official() -> None:
    images = torch.zeros(64, 3, 64, 64)
    assert build().draw(images).count == round(75 / 196 * 16)
    method = build(official_masks=True, mask_ratio=0.5)
    mask = method.draw(images)
    assert mask.count is None and 0 < mask.hidden.sum(1).max() <= 8
    assert torch.isfinite(method(images, torch.rand(64, 3, 32, 32), mask=mask)["loss"])


def test_views_are_the_students_and_the_teachers() -> None:
    views = build().views
    assert views["images"].normalised and not views["teacher_images"].normalised
    assert views["teacher_images"].scale == 0.5


def test_what_does_not_fit_is_refused() -> None:
    hivit, vit = tiny_encoder("hivit"), tiny_encoder("vit")
    with pytest.raises(ValueError, match="hivit_tiny"):
        ITPNTeacher(vit, teacher=tiny_teacher(vit))
    with pytest.raises(ValueError, match="8 x 8 features and the encoder 4 x 4"):
        ITPNTeacher(hivit, teacher=tiny_teacher(vit))
    for wrong in ({"auxiliary_start": 1.0}, {"auxiliary_weight": -1.0}):
        with pytest.raises(ValueError, match="auxiliary_weight"):
            ITPNTeacher(hivit, teacher=tiny_teacher(hivit), **wrong)


def test_the_classifier_takes_the_pre_trained_backbone_as_it_is() -> None:
    """Loading is exact: the official classifier's features with relative positions."""
    case, tuned = load_case(FOLDER / "itpn_clip"), load_case(FOLDER / "itpn_clip_classifier")
    method = build_itpn_teacher(case, leaking_laterals=True)
    load_official(method, tensors(case["params"]), itpn_teacher_name)
    classifier = build_hivit(tuned["info"]["constructor"], num_classes=10).eval()
    load_official(classifier, tensors(tuned["params"]), lambda name: hivit_name(name).removeprefix(PREFIX))
    images = tensors(tuned["inputs"])["images"]
    assert torch.equal(classifier.forward_features(images), method.encoder(images).patches)
