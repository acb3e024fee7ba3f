"""BEiT v2: what each prediction depends on, how its further blocks are made, and BEiT as a special case."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import TRANSFORMER, TinyTokenizer, tiny_encoder, tiny_method, tiny_tokenizer, views_of
from unmask.encoders import create_encoder
from unmask.methods import BEiT, BEiTv2


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_without_the_second_prediction_it_is_beit() -> None:
    encoder = tiny_encoder("beit_shared")
    tokenizer = tiny_tokenizer(encoder)
    plain, aggregating = (
        BEiT(encoder, tokenizer=tokenizer),
        BEiTv2(encoder, tokenizer=tokenizer, head_depth=0),
    )
    aggregating.load_state_dict(plain.state_dict(), strict=True)
    mask, views = plain.draw(images()), views_of(plain, images())
    first, second = (method.eval()(**views, mask=mask) for method in (plain, aggregating))
    assert first.keys() == second.keys() == {"loss", "accuracy"}
    # BEiT's last block leaves out what is not scored, which rounds differently.
    torch.testing.assert_close(first["loss"], second["loss"], rtol=1e-6, atol=0)
    assert aggregating.chance_loss == plain.chance_loss


def test_the_loss_starts_at_twice_log_k() -> None:
    torch.manual_seed(0)
    tokenizer = TinyTokenizer(image_size=(32, 32), stride=4, vocabulary=8192)
    method = BEiTv2(tiny_encoder("beit_shared"), tokenizer=tokenizer).eval()
    losses = method(**views_of(method, images(8)))
    assert method.chance_loss == pytest.approx(2 * math.log(8192))
    assert losses["loss"].item() == pytest.approx(2 * math.log(8192), rel=0.01)
    torch.testing.assert_close(losses["loss"], losses["patches"] + losses["cls"])


@pytest.mark.parametrize("encoder", ["beit_shared", "vit_registers"])
def test_each_prediction_has_its_own_way_to_the_last_block(encoder: str) -> None:
    """The second one knows of the last block the class token alone, the main one everything else."""
    method = tiny_method("beitv2", encoder).eval()
    for parameter in method.parameters():  # scales and tables that start at 0 would hide much
        parameter.data += 0.05 * torch.randn_like(parameter)
    mask, views = method.draw(images()), views_of(method, images())
    before = method(**views, mask=mask)

    def changed(place: slice) -> dict[str, Tensor]:
        def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, place] += torch.randn(output[:, place].shape)
            return output

        hook = method.encoder.model.blocks[-1].register_forward_hook(add)
        try:
            return method(**views, mask=mask)
        finally:
            hook.remove()

    patches, cls = changed(slice(method.encoder.prefix, None)), changed(slice(0, 1))
    assert torch.equal(patches["cls"], before["cls"]) and not torch.equal(
        patches["patches"], before["patches"]
    )
    assert torch.equal(cls["patches"], before["patches"]) and not torch.equal(cls["cls"], before["cls"])


def base(**options: object) -> BEiTv2:
    encoder = create_encoder(
        "beit_base_patch16_224", image_size=(64, 64), embed_dim=48, num_heads=3, **options
    )
    return BEiTv2(encoder, tokenizer=TinyTokenizer(image_size=(64, 64), stride=16))


def test_the_further_blocks_continue_the_ladder_of_stochastic_depth() -> None:
    method = base(drop_path_rate=0.1)
    assert method.early_depth == 9
    rates = [block.drop_path1.drop_prob for block in method.further]
    assert rates == pytest.approx([0.1 * 9 / 11, 0.1 * 10 / 11])
    own = [block.drop_path1 for block in method.encoder.model.blocks]
    assert isinstance(own[0], nn.Identity) and own[-1].drop_prob == pytest.approx(0.1)


@pytest.mark.parametrize(("init", "std"), [("beit", 0.0108), ("pytorch", 1 / math.sqrt(3 * 48))])
def test_how_further_blocks_are_drawn(init: str, std: float) -> None:
    torch.manual_seed(0)
    encoder = create_encoder("beit_base_patch16_224", image_size=(64, 64), embed_dim=48, num_heads=3)
    tokenizer = TinyTokenizer(image_size=(64, 64), stride=16)
    method = BEiTv2(encoder, tokenizer=tokenizer, head_init=init)
    for number, block in enumerate(method.further, start=10):
        assert block.attn.qkv.weight.std().item() == pytest.approx(std, rel=0.05)
        assert block.attn.proj.weight.std().item() == pytest.approx(std / math.sqrt(2 * number), rel=0.05)
        copied = encoder.model.blocks[number - 1]
        assert not torch.equal(block.attn.qkv.weight, copied.attn.qkv.weight)
    fresh = method.further[0].state_dict().keys()
    assert fresh == encoder.model.blocks[9].state_dict().keys()


def test_what_does_not_fit_is_said() -> None:
    for name in ("rope_axial", "vit_no_class_token", "swin"):
        encoder = tiny_encoder(name)
        with pytest.raises(ValueError, match="class token"):
            BEiTv2(encoder, tokenizer=tiny_tokenizer(encoder))
    encoder = tiny_encoder("beit_shared")
    assert encoder.depth == TRANSFORMER["depth"]
    for options, match in (({"early_depth": 2}, "after block 1 to 1"), ({"head_depth": -1}, "0 further")):
        with pytest.raises(ValueError, match=match):
            BEiTv2(encoder, tokenizer=tiny_tokenizer(encoder), **options)
