"""The codes of a frozen tokenizer as a target: where they lie, what is frozen, pictures without leaks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny import TinyTokenizer, tiny_encoder, tiny_method, tiny_tokenizer
from unmask.masking import Mask, RandomMask
from unmask.methods import BEiT
from unmask.tokenizers.codes import Codes, score_codes


class Blurred(TinyTokenizer):
    """A tokenizer that looks beyond the square that a code stands for."""

    def codes(self, images: Tensor) -> Tensor:
        return super().codes(F.avg_pool2d(images, 9, stride=1, padding=4, count_include_pad=False))


def test_a_code_for_every_patch_of_a_rectangle() -> None:
    encoder = tiny_encoder("vit", image_size=(64, 96))
    codes = Codes.per_patch(tiny_tokenizer(encoder), encoder, by="this test")
    assert (codes.grid, codes.cell) == ((8, 12), 8) == (encoder.grid, encoder.patch_size)
    view = codes.views["token_images"]
    assert view.scale == 0.5 and not view.normalised
    assert codes.encode(torch.rand(2, 3, 32, 48)).shape == (2, 96)


def test_several_codes_for_a_feature_of_a_swin() -> None:
    encoder = tiny_encoder("swin")
    codes = Codes(tiny_tokenizer(encoder, cell=16), encoder)
    assert (codes.grid, codes.cell) == ((4, 4), 16)
    mask = RandomMask(ratio=0.5, unit=2)(3, encoder.grid)  # squares of 8 pixels, a quarter of a code
    quarters = mask.hidden.reshape(3, 4, 4, 4, 4).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(codes.hidden(mask), quarters.any(-1).flatten(1))


def test_what_does_not_fit_is_said() -> None:
    vit, swin = tiny_encoder("vit"), tiny_encoder("swin")
    with pytest.raises(ValueError, match=r"method\.target=codes"):
        Codes.per_patch(tiny_tokenizer(swin), swin, by="BEiT")
    with pytest.raises(ValueError, match=r"6 x 6 codes .* 8 x 8, .* for images of 64 x 64 pixels"):
        Codes(TinyTokenizer(image_size=(48, 48), stride=8), vit)
    with pytest.raises(ValueError, match="1 channels"):
        Codes(TinyTokenizer(image_size=(64, 64), stride=8, channels=1), vit)


def test_the_tokenizer_is_frozen_and_no_part_of_checkpoints() -> None:
    encoder = tiny_encoder("vit")
    tokenizer = tiny_tokenizer(encoder).train()
    method = BEiT(encoder, tokenizer=tokenizer).train()
    assert not tokenizer.training and not tokenizer.colours.requires_grad
    assert not any("tokenizer" in name for name in method.state_dict())
    assert not any("tokenizer" in name for name, _ in method.named_parameters())
    method.double()
    assert tokenizer.colours.dtype == torch.float64, "it moves with the method"


def test_pictures_show_nothing_of_hidden_pixels_even_if_the_tokenizer_looks_around() -> None:
    encoder = tiny_encoder("vit")
    method = BEiT(encoder, tokenizer=Blurred(image_size=(64, 64), stride=8, vocabulary=64)).eval()
    images = torch.randn(2, 3, 64, 64)
    mask = method.draw(images)
    other = torch.where(mask.pixels(8), torch.randn_like(images), images)
    tokenizer = method.codes.tokenizer.network
    leaking = tokenizer.codes(images)[~mask.hidden] != tokenizer.codes(other)[~mask.hidden]
    assert leaking.any(), "codes of visible places tell of hidden pixels"
    assert torch.equal(method.reconstruct(images, mask), method.reconstruct(other, mask))


def test_the_error_of_a_map_is_that_of_its_places() -> None:
    encoder = tiny_encoder("swin")
    codes = Codes(tiny_tokenizer(encoder, cell=16), encoder)
    prediction, target = torch.randn(2, 6, 4, 4), torch.randint(6, (2, 16))
    error = codes.error(prediction, target)
    assert error.shape == (2, 1, 4, 4)
    loss = score_codes(prediction.flatten(2).mT, target)["loss"]
    torch.testing.assert_close(error.mean(), loss)


def test_targets_have_no_gradient_and_one_mask_takes_all() -> None:
    method = tiny_method("beit", "vit_registers")
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    codes = method.codes.encode(images)
    assert codes.dtype == torch.int64 and not codes.requires_grad
    everything = Mask.of(torch.ones(2, 64, dtype=torch.bool), (8, 8), 64)
    assert torch.equal(everything.masked(codes), codes)
