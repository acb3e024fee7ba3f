"""BEiT: a loss that starts at log K, official masks, pictures of codes, the encoder that it hands over."""

import math

import pytest
import timm
import torch
from torch import Tensor

from tests.tiny import TinyTokenizer, tiny_encoder, tiny_method, tiny_tokenizer, views_of
from unmask.masking import Mask
from unmask.methods import BEiT, PeCo, SimMIM
from unmask.patches import to_patches


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("vocabulary", [16, 8192])
def test_the_loss_starts_at_log_k(vocabulary: int) -> None:
    torch.manual_seed(0)
    tokenizer = TinyTokenizer(image_size=(32, 32), stride=4, vocabulary=vocabulary)
    method = BEiT(tiny_encoder("beit_shared"), tokenizer=tokenizer).eval()
    assert method.chance_loss == pytest.approx(math.log(vocabulary))
    assert method(**views_of(method, images(8)))["loss"].item() == pytest.approx(method.chance_loss, rel=0.01)


def test_every_hidden_patch_of_the_batch_counts_the_same() -> None:
    """Of a ragged mask, the mean over all hidden patches and not the mean of the images' means."""
    method = tiny_method("beit", "beit_shared").eval()
    hidden = torch.zeros(2, 64, dtype=torch.bool)
    hidden[0, :3] = hidden[1, 10:40] = True
    views = views_of(method, images())

    def of(row: int) -> Tensor:
        mask = Mask.ragged(hidden[row : row + 1], (8, 8))
        return method(**{name: view[row : row + 1] for name, view in views.items()}, mask=mask)["loss"]

    together = method(**views, mask=Mask.ragged(hidden, (8, 8)))["loss"]
    torch.testing.assert_close(together, (3 * of(0) + 30 * of(1)) / 33)


def test_official_masks_may_hide_fewer() -> None:
    torch.manual_seed(0)
    encoder = tiny_encoder("beit_shared")
    method = BEiT(encoder, tokenizer=tiny_tokenizer(encoder), official_masks=True)
    mask = method.draw(images(64))
    counts = mask.hidden.sum(1)
    assert mask.count is None and counts.max() == 25 and counts.min() < 25  # 38.3 % of 64
    losses = method(**views_of(method, images(64)), mask=mask)
    assert torch.isfinite(losses["loss"]) and 0 <= losses["accuracy"] <= 1


def test_accuracy_is_the_share_of_codes_that_are_right() -> None:
    method = tiny_method("beit", "beit_shared").eval()
    views = views_of(method, images())
    mask = method.draw(images())
    codes = mask.masked(method.codes.encode(views["token_images"]))
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.copy_(torch.arange(6.0))
    share = (codes == 5).float().mean()
    torch.testing.assert_close(method(**views, mask=mask)["accuracy"], share)


def test_a_picture_is_what_the_codes_stand_for() -> None:
    method = tiny_method("beit", "beit_shared").eval()
    mask = method.draw(images())
    pixels = images() * 0.02  # near grey, like the colours of the codes
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.copy_(torch.eye(6)[2])  # always code 2
    picture = to_patches(method.reconstruct(pixels, mask) * method.codes.std + method.codes.mean, 8)
    colour = method.codes.tokenizer.network.colours[2]
    inner = picture.unflatten(-1, (8, 8, 3))[:, :, 2:-2, 2:-2]  # resizing blurs the edges of the squares
    hidden = mask.masked(inner.flatten(2)).reshape(-1, 3)
    torch.testing.assert_close(hidden, colour.expand_as(hidden), atol=1e-5, rtol=0)
    own = method.codes.tokenizer.network
    halved = torch.nn.functional.interpolate(
        pixels * method.codes.std + method.codes.mean, (32, 32), mode="bilinear", antialias=True
    )
    true = own.colours[own.codes(halved)]
    seen = inner.mean((2, 3))[~mask.hidden]
    # Next to hidden patches the halved image mixes both sides, so that a code may be another there.
    right = ((seen - true[~mask.hidden]).abs().amax(-1) < 1e-5).float().mean()
    assert right > 0.8


def test_codes_of_features_have_no_picture() -> None:
    encoder = tiny_encoder("beit_shared")
    method = BEiT(encoder, tokenizer=tiny_tokenizer(encoder, decodes=False)).eval()
    assert method.reconstruct(images(), method.draw(images())) is None


def test_peco_predicts_its_codes_as_beit_does() -> None:
    encoder = tiny_encoder("beit_shared")
    beit, peco = (kind(encoder, tokenizer=tiny_tokenizer(encoder)).eval() for kind in (BEiT, PeCo))
    peco.load_state_dict(beit.state_dict(), strict=True)
    mask = beit.draw(images())
    views = views_of(beit, images())
    assert torch.equal(peco(**views, mask=mask)["loss"], beit(**views, mask=mask)["loss"])


def test_simmims_vit_is_the_same_encoder() -> None:
    """One state dict, and the same features of a masked image."""
    method = tiny_method("beit", "beit_shared").eval()
    other = SimMIM(tiny_encoder("beit_shared"), mask_size=8).eval()
    other.encoder.load_state_dict(method.encoder.state_dict(), strict=True)
    mask = method.draw(images())
    first, second = (one.encoder(images(), mask, method.token).patches for one in (method, other))
    assert torch.equal(first, second)


def test_timm_loads_the_encoder_as_it_is() -> None:
    encoder = tiny_method("beit", "beit_shared").encoder.eval()
    model = timm.create_model(**encoder.architecture).eval()
    model.load_state_dict(encoder.model.state_dict(), strict=True)
    assert torch.equal(model.forward_features(images())[:, 1:], encoder(images()).patches)
