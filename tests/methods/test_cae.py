"""CAE: encoding and solving the task are apart, and what the alignment moves."""

import pytest
import torch
from torch import Tensor

from tests.tiny import TinyTokenizer, tiny_encoder, tiny_method, tiny_tokenizer, views_of
from unmask.encoders import create_encoder
from unmask.masking import Mask
from unmask.methods import CAE


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def gradients(method: CAE, loss: Tensor) -> dict[str, Tensor | None]:
    named = dict(method.named_parameters())
    learned = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    return dict(zip(learned, found, strict=True))


@pytest.mark.parametrize("name", ["cae", "cae narrow"])
def test_the_alignment_moves_encoder_and_regressor_and_not_the_decoder(name: str) -> None:
    method = tiny_method(name, "beit_placed")
    found = gradients(method, method(**views_of(method, images()))["alignment"])
    silent = {part.split(".")[0] for part, gradient in found.items() if gradient is None}
    moved = {
        part.split(".")[0] for part, gradient in found.items() if gradient is not None and gradient.any()
    }
    assert silent == {"decoder", "head"}
    assert moved == {"encoder", "regressor"} | ({"bridge"} if "narrow" in name else set())
    cls = found["encoder.model.cls_token"]
    assert cls is not None and cls.any(), "through attention, although it is left out behind the encoder"


def test_the_target_is_the_encoder_on_the_hidden_patches() -> None:
    method = tiny_method("cae", "beit_placed").train()
    mask = method.draw(images())
    target = method.encoded_hidden(images(), mask)
    assert method.encoder.training, "as it was"
    expected = method.encoder.eval().visible(images(), mask.inverse()).patches
    assert torch.equal(target, expected) and not target.requires_grad
    hidden = mask.pixels(8)
    assert torch.equal(target, method.encoded_hidden(torch.where(hidden, images(), 9.0), mask))


def test_the_target_has_no_stochastic_depth() -> None:
    encoder = create_encoder(
        "vit_tiny_patch16_224", image_size=(64, 64), embed_dim=48, depth=4, num_heads=3, patch_size=8,
        drop_path_rate=0.5,
    )  # fmt: skip
    method = CAE(encoder, tokenizer=tiny_tokenizer(encoder), regressor_depth=1, decoder_depth=1).train()
    mask = method.draw(images())
    assert torch.equal(method.encoded_hidden(images(), mask), method.encoded_hidden(images(), mask))
    assert not torch.equal(*(method.encoder.visible(images(), mask).patches for _ in range(2)))


def test_what_the_encoder_says_depends_on_visible_pixels_only() -> None:
    method = tiny_method("cae", "beit_placed").eval()
    mask = method.draw(images())
    other = torch.where(mask.pixels(8), 7.0, images())
    first, second = (method.encoder.visible(view, mask).patches for view in (images(), other))
    assert torch.equal(first, second)


def test_the_regressor_takes_visible_patches_in_any_order() -> None:
    """As long as their positions go with them."""
    regressor = tiny_method("cae", "beit_placed").regressor.eval()
    for parameter in regressor.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    visible, hidden = torch.randn(2, 5, 48), torch.randn(2, 3, 48)
    places = torch.randn(2, 8, 48)
    block, order = regressor.blocks[0], torch.tensor([3, 1, 4, 0, 2])
    expected = block(hidden, visible, places[:, 5:], places)
    shuffled = torch.cat([places[:, :5][:, order], places[:, 5:]], dim=1)
    torch.testing.assert_close(block(hidden, visible[:, order], places[:, 5:], shuffled), expected)


def test_the_lagging_target_is_one_step_behind() -> None:
    encoder = tiny_encoder("beit_placed")
    tokenizer = tiny_tokenizer(encoder)
    lagging = CAE(encoder, tokenizer=tokenizer, regressor_depth=1, decoder_depth=1, lagging_target=True)
    mask, views = lagging.draw(images()), views_of(lagging, images())
    optimiser = torch.optim.SGD([p for p in lagging.parameters() if p.requires_grad], lr=0.5)
    targets, encoded = [], []
    for _ in range(3):
        encoded.append(encoder.visible(images(), mask.inverse()).patches.detach())
        norm = lagging.teacher.module.model.norm
        hook = norm.register_forward_hook(lambda _m, _i, output: targets.append(output[:, 1:]))
        optimiser.zero_grad()
        lagging(**views, mask=mask)["loss"].backward()
        hook.remove()
        optimiser.step()
    assert torch.equal(targets[1], encoded[0]) and torch.equal(targets[2], encoded[1])
    assert not torch.equal(encoded[1], encoded[0])
    assert all(parameter.grad is None for parameter in lagging.teacher.parameters())


def test_a_look_at_the_loss_does_not_move_the_lagging_target() -> None:
    encoder = tiny_encoder("beit_placed")
    method = CAE(encoder, tokenizer=tiny_tokenizer(encoder), lagging_target=True)
    with torch.no_grad():
        encoder.model.cls_token += 1
    for moves in (False, True):
        before = method.teacher.module.model.cls_token.clone()
        method.train(moves)(**views_of(method, images()))
        assert torch.equal(method.teacher.module.model.cls_token, before) != moves


def test_start_is_the_chance_of_codes_and_two_for_the_alignment() -> None:
    """Two sets of independent numbers, both normalised, differ by 2 on average."""
    torch.manual_seed(0)
    encoder = tiny_encoder("beit_placed")
    method = CAE(encoder, tokenizer=tiny_tokenizer(encoder)).eval()
    losses = method(**views_of(method, images(8)))
    torch.testing.assert_close(losses["loss"], losses["codes"] + 2 * losses["alignment"])
    assert losses["alignment"].item() == pytest.approx(2, abs=0.4)


@pytest.mark.parametrize(("lagging", "parameters"), [(False, 148_832_768), (True, 234_640_640)])
def test_sizes_are_those_of_the_official_model(lagging: bool, parameters: int) -> None:
    """148,681,472 trained ones and the fixed table of positions; with the official copy of the encoder."""
    with torch.device("meta"):
        encoder = create_encoder(
            "beit_base_patch16_224", position="sincos", use_abs_pos_emb=True, use_rel_pos_bias=False
        )
        tokenizer = TinyTokenizer(image_size=(224, 224), stride=16, vocabulary=8192).to("meta")
        method = CAE(encoder, tokenizer=tokenizer, lagging_target=lagging)
    assert sum(parameter.numel() for parameter in method.parameters()) == parameters


def test_pictures_show_predicted_codes_where_patches_are_hidden() -> None:
    method = tiny_method("cae", "vit_registers").eval()
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.copy_(torch.eye(6)[4])
    hidden = torch.zeros(2, 64, dtype=torch.bool)
    hidden[:, 8:40] = True
    mask = Mask.of(hidden, (8, 8), 32)
    picture = method.reconstruct(images(), mask) * method.codes.std + method.codes.mean
    inside = picture[:, :, 16:32].transpose(0, 1).flatten(1)  # rows 2 and 3: no border to what is visible
    colour = method.codes.tokenizer.network.colours[4]
    torch.testing.assert_close(inside, colour[:, None].expand_as(inside), atol=1e-5, rtol=0)
