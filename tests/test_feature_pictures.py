"""Feature strips: what is coloured, what is left pale, and what the number below them means."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.tiny import METHOD_OPTIONS, tiny_method, views_of
from unmask.data.views import View
from unmask.drawing import GAP
from unmask.feature_pictures import FRAME, agreement, feature_strip, principal_colours
from unmask.masking import Mask, RandomMask
from unmask.methods import Method
from unmask.visualize import picture_views, prediction_strip

SIDE = 24  # pixels of a patch in a strip of images of 64 pixels in 8 x 8 patches
STATISTICS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def features(batch: int = 2, dim: int = 5) -> Tensor:
    return torch.randn(batch, 64, dim, generator=torch.Generator().manual_seed(0))


def upper_half(batch: int = 2) -> Mask:
    return Mask.of((torch.arange(64) < 32).expand(batch, 64), (8, 8), 32)


def panels(strip: Image.Image) -> list[np.ndarray]:
    """The six pictures of the first sample of a strip without titles."""
    array = np.asarray(strip)[..., :3].astype(int)
    return [array[:192, index * (192 + GAP) :][:, :192] for index in range(6)]


def draw(predicted: Tensor, target: Tensor, mask: Mask, *, titles: bool = False) -> Image.Image:
    images = torch.zeros(len(target), 3, 64, 64)
    return feature_strip(images, predicted, target, mask, **STATISTICS, titles=titles)


def test_a_right_prediction_looks_like_the_target_where_patches_are_hidden() -> None:
    _, masked, target, predicted, like_target, like_predicted = panels(
        draw(features(), features(), upper_half())
    )
    assert np.array_equal(target[:96], predicted[:96])
    assert np.array_equal(like_target[:96], like_predicted[:96])
    assert not np.array_equal(
        target[96:], predicted[96:]
    )  # visible: the target is known, nothing is predicted
    assert len(np.unique(predicted[96:].reshape(-1, 3), axis=0)) == 1  # a pale photo, here of one grey
    assert np.ptp(masked[96:]) == 0 and (predicted[96:] > 150).all()


def test_a_target_that_is_unknown_is_left_pale() -> None:
    target = features()
    target[:, 32:] = torch.nan
    _, _, shown, _, _, _ = panels(draw(features(), target, upper_half()))
    assert len(np.unique(shown[96:].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(shown[:96].reshape(-1, 3), axis=0)) > 20


def test_the_framed_patch_is_hidden_near_the_middle_and_most_like_itself() -> None:
    *_, like_target, like_predicted = panels(draw(features(), features(), upper_half()))
    for picture in (like_target, like_predicted):
        rows, columns = np.nonzero((picture == FRAME).all(-1))
        assert (rows.min(), rows.max()) == (3 * SIDE, 4 * SIDE - 1)  # the last hidden row, left of the middle
        assert (columns.min(), columns.max()) == (3 * SIDE, 4 * SIDE - 1)
        own = picture[3 * SIDE + SIDE // 2, 3 * SIDE + SIDE // 2]
        assert own.tolist() == [253, 231, 37]  # the end of the map


def test_agreement_is_one_up_to_scale_and_none_for_the_same_answer_everywhere() -> None:
    target, hidden = features(), upper_half().hidden
    centre = target[hidden].mean(0)
    assert agreement(target, target, hidden) == pytest.approx(1)
    assert agreement(centre + 0.1 * (target - centre), target, hidden) == pytest.approx(1, abs=1e-6)
    assert agreement(2 * centre - target, target, hidden) == pytest.approx(-1)
    assert agreement(centre.expand_as(target), target, hidden) == pytest.approx(0, abs=1e-3)
    other = torch.where(hidden[..., None], target, 7.0)  # visible patches have no part in it
    assert agreement(other, target, hidden) == pytest.approx(1)


def test_the_strongest_direction_of_the_reference_is_red() -> None:
    reference = features(1)[0] * torch.tensor([0.1, 10.0, 0.1, 1.0, 0.1])
    colours = principal_colours(reference[None], reference)[0].astype(float)
    correlation = np.corrcoef(colours[:, 0], reference[:, 1])[0, 1]
    assert correlation > 0.95  # and the sign follows a rule
    assert abs(np.corrcoef(colours[:, 1], reference[:, 3])[0, 1]) > 0.95


def test_features_narrower_than_three_still_have_colours() -> None:
    assert principal_colours(features(1, 2), features(1, 2)[0]).shape == (1, 64, 3)


class Oracle(Method):
    """Predicts the mean colour of each hidden patch of another view, and knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = tiny_method("mae", "vit").encoder
        self.masking = RandomMask(ratio=0.75)
        self.views = {"images": View(), "teacher_images": View(scale=0.5, normalised=False)}

    def forward(self, images: Tensor, teacher_images: Tensor, mask: Mask | None = None) -> dict[str, Tensor]:
        raise AssertionError("pictures need no loss")

    def predict_features(
        self, images: Tensor, teacher_images: Tensor, *, mask: Mask
    ) -> tuple[Tensor, Tensor]:
        assert not self.training
        assert (
            teacher_images.shape[-2:] == (32, 32) and 0 <= teacher_images.min() <= teacher_images.max() <= 1
        )
        colours = torch.nn.functional.avg_pool2d(teacher_images, 4).flatten(2).mT
        return colours, colours


def read(size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)


def test_methods_without_pixels_draw_features_from_all_of_their_views() -> None:
    method = Oracle().train()
    views = picture_views(method, read, (0.5,) * 3, (0.25,) * 3)
    assert views["images"].shape == (2, 3, 64, 64) and views["images"].min() < 0
    strip = prediction_strip(method, views, method.draw(views["images"]), **STATISTICS)
    assert strip is not None and strip.width == 6 * (192 + GAP) - GAP
    assert method.training


@pytest.mark.parametrize("weight", [0.3, 0.0])
def test_itpn_draws_the_features_of_its_moving_average_when_asked(
    weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHOD_OPTIONS, "itpn", METHOD_OPTIONS["itpn"] | {"feature_weight": weight})
    torch.manual_seed(0)
    method = tiny_method("itpn", "hivit")
    images = torch.randn(2, 3, 64, 64)
    mask = method.draw(images)
    views = views_of(method, images)
    drawn = prediction_strip(method, views, mask, **STATISTICS, features=True)
    assert (drawn is None) == (weight == 0.0)
    if drawn is None:
        return
    pair = method.eval().predict_features(**views, mask=mask)
    assert pair is not None
    predicted, target = pair
    losses = method(**views, mask=mask)
    assert torch.equal(target.isnan().all(-1), ~mask.hidden)
    coarsest = mask.masked(target)
    torch.testing.assert_close(coarsest.mean(-1), torch.zeros(coarsest.shape[:2]), rtol=0, atol=1e-5)
    # one of the three scales whose errors are averaged
    error = (mask.masked(predicted) - coarsest).square().mean()
    assert 0 < error / 3 < losses["features"]
