"""Strips: what is grey, what is original, what is predicted, and where; and pictures from a run folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import SAFE_WEIGHTS_NAME
from PIL import Image
from safetensors.torch import save_file

from tests.tiny import DECODER, PAIRS, tiny_method
from unmask.data import IMAGENET_MEAN, IMAGENET_STD, normalise
from unmask.drawing import BLOCK_GAP, GAP, HIDDEN, HIDDEN_EDGE, denormalise
from unmask.engine.checkpoint import AVERAGE
from unmask.errors import UserError
from unmask.masking import Mask, RandomMask
from unmask.methods import METHODS, Method
from unmask.recipes.base import Choice, Data, Recipe
from unmask.recipes.build import build_method
from unmask.runs import load_method
from unmask.visualize import reconstruct, reconstruction_strip

MEAN, STD = (0.5,), (0.25,)


class Painter(Method):
    """Believes that every pixel has one value."""

    def __init__(self, value: float, *, channels: int = 3) -> None:
        super().__init__()
        self.encoder = tiny_method("simmim", "vit", channels=channels).encoder
        self.masking = RandomMask(ratio=0.75)
        self.value = value

    def forward(self, images: torch.Tensor, mask: Mask | None = None) -> dict[str, torch.Tensor]:
        raise AssertionError("pictures need no loss")

    def reconstruct(self, images: torch.Tensor, mask: Mask) -> torch.Tensor:
        assert not self.training
        return torch.full_like(images, self.value)


def draw(pixels: torch.Tensor, method: Method, mask: Mask, *, titles: bool = False) -> Image.Image:
    mean, std = MEAN * pixels.shape[1], STD * pixels.shape[1]
    return reconstruction_strip(method, normalise(pixels, mean, std), mask, mean=mean, std=std, titles=titles)


def noise(count: int, channels: int = 3, size: int = 64) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)


def panels(strip: Image.Image, side: int) -> list[np.ndarray]:
    """The three pictures of the first sample."""
    array = np.asarray(strip)[..., :3]
    return [array[:side, index * (side + GAP) :][:, :side] for index in range(3)]


def test_denormalise_inverts_normalise() -> None:
    pixels = noise(2)
    restored = denormalise(normalise(pixels), IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(restored, pixels)


def test_denormalise_clips_and_survives_numbers_that_are_not_finite() -> None:
    images = torch.tensor([-9.0, 9.0, float("nan"), float("inf")]).view(1, 1, 2, 2)
    assert denormalise(images, (0.5,), (0.25,)).flatten().tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize(("size", "side"), [(64, 192), (160, 160), (224, 224)])
def test_small_images_are_enlarged_by_a_whole_factor(size: int, side: int) -> None:
    patches = size // 8
    method = Painter(0.0)
    mask = RandomMask(ratio=0.5)(1, (patches, patches))
    strip = draw(noise(1, size=size), method, mask)
    assert strip.size == (3 * side + 2 * GAP, side)
    assert strip.mode == "RGBA"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_what_each_panel_shows(channels: int) -> None:
    pixels = noise(1, channels)
    if channels == 4:
        pixels[:, 3] = 255
    mask = RandomMask(ratio=0.75)(1, (8, 8))
    # 2 standard deviations of 0.25 above 0.5 is white
    original, masked, rebuilt = panels(draw(pixels, Painter(2.0, channels=channels), mask), 192)
    hidden = mask.pixels(8 * 3)[0, 0].numpy()
    assert 0 < hidden.sum() < hidden.size
    assert set(map(tuple, masked[hidden])) == {HIDDEN, HIDDEN_EDGE}
    assert np.array_equal(masked[~hidden], original[~hidden])
    assert np.array_equal(rebuilt[~hidden], original[~hidden])
    inside = torch.nn.functional.max_pool2d(1.0 - mask.pixels(24).float(), 9, 1, 4)[0, 0].numpy() == 0
    assert (rebuilt[inside] == 255).all()  # away from visible patches nothing but the prediction
    # the enlarged original is the original: averaging each block of 3 x 3 nearly gives it back
    centre = original[1::3, 1::3].astype(int)
    expected = pixels[0, :3].permute(1, 2, 0).expand(-1, -1, 3).numpy().astype(int)
    assert np.abs(centre - expected).max() <= 1


def test_prediction_at_visible_patches_is_not_shown() -> None:
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    mask = Mask.of(torch.arange(64)[None] < 32, (8, 8), 32)  # upper half
    _, _, rebuilt = panels(draw(pixels, Painter(2.0), mask), 192)
    assert (rebuilt[96:] == 0).all()
    assert (rebuilt[:93] == 255).all()


def test_transparent_parts_become_white() -> None:
    pixels = torch.zeros(1, 4, 64, 64, dtype=torch.uint8)
    original, _, _ = panels(draw(pixels, Painter(0.0, channels=4), RandomMask(ratio=0.5)(1, (8, 8))), 192)
    assert (original == 255).all()


@pytest.mark.parametrize("channels, shown", [(2, 1), (5, 3)])
def test_of_other_channels_the_first_are_shown(channels: int, shown: int) -> None:
    images, mask = noise(1, channels), RandomMask(ratio=0.5)(1, (8, 8))
    whole, part = (
        reconstruction_strip(Painter(0.0), pixels, mask, mean=(0.5,) * count, std=(0.25,) * count)
        for pixels, count in ((images, channels), (images[:, :shown], shown))
    )
    assert whole is not None and part is not None and whole.tobytes() == part.tobytes()


def test_many_samples_stand_side_by_side() -> None:
    width = 3 * 192 + 2 * GAP
    strips = {
        count: draw(noise(count), Painter(0.0), RandomMask(ratio=0.5)(count, (8, 8))) for count in (4, 8)
    }
    height = 4 * (192 + GAP) - GAP
    assert strips[4].size == (width, height)
    assert strips[8].size == (2 * width + BLOCK_GAP, height)
    # between samples there is nothing: the page shines through
    assert np.asarray(strips[8])[:, width : width + BLOCK_GAP, 3].max() == 0


def test_titles_add_a_line_that_is_written_on() -> None:
    mask = RandomMask(ratio=0.5)(1, (8, 8))
    plain, titled = (draw(noise(1), Painter(0.0), mask, titles=titles) for titles in (False, True))
    line = titled.height - plain.height
    assert line > 0
    array = np.asarray(titled)
    assert np.array_equal(array[line:], np.asarray(plain))
    for index in range(3):
        assert array[:line, index * (192 + GAP) :][:, :192, 3].max() > 200


@pytest.mark.parametrize("training", [True, False])
def test_method_keeps_its_mode(training: bool) -> None:
    method = Painter(0.0).train(training)
    draw(noise(1), method, RandomMask(ratio=0.5)(1, (8, 8)))
    assert method.training is training


@pytest.mark.parametrize("name", METHODS)
def test_real_methods_draw(name: str) -> None:
    method = tiny_method(name, next(encoder for method, encoder in PAIRS if method == name))
    mask = method.draw(torch.zeros(2, 3, 64, 64))
    if method.reconstruct(torch.zeros(2, 3, 64, 64), mask) is None:
        assert draw(noise(2), method, mask) is None
        return
    original, _, rebuilt = panels(draw(noise(2), method, mask), 192)
    hidden = mask.pixels(3 * method.encoder.patch_size)[0, 0].numpy()
    assert not np.array_equal(rebuilt[hidden], original[hidden])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a recipe and one checkpoint."""
    recipe = Recipe(
        name="tiny",
        method=Choice(name="mae", **DECODER),
        encoder=Choice(name="vit_tiny_patch16_224", embed_dim=48, depth=1, num_heads=3, patch_size=8),
        data=Data(image_size=(32, 48)),
    )
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoints" / "step_00000007"
    checkpoint.mkdir(parents=True)
    (folder / "recipe.json").write_text(recipe.to_json())
    torch.manual_seed(3)
    save_file(build_method(recipe).state_dict(), checkpoint / SAFE_WEIGHTS_NAME)
    return folder


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (90, 61)) -> Path:
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    image.convert(mode).save(path)
    return path


def test_reconstruct_pictures_of_any_size_and_mode(run: Path, tmp_path: Path) -> None:
    pictures = [picture(tmp_path / "a.jpg"), picture(tmp_path / "b.png", "P", (20, 200))]
    made = reconstruct(run, pictures)
    assert made == run / "reconstructions" / "a.png"
    with Image.open(made) as strip:
        assert strip.width == 3 * 5 * 48 + 2 * GAP  # 32 pixels become 160
        assert strip.height > 2 * 5 * 32


def test_one_picture_and_names_as_text_will_do(run: Path, tmp_path: Path) -> None:
    given = picture(tmp_path / "a.jpg")
    made = [
        reconstruct(folder, pictures, out=tmp_path / out).read_bytes()
        for folder, pictures, out in (
            (run, [given], "1.png"),
            (str(run), [str(given)], "2.png"),
            (str(run), str(given), "3.png"),
            (run, given, "4.png"),
        )
    ]
    assert made == made[:1] * 4
    assert reconstruct(str(run), str(given), out=str(tmp_path / "5.png")) == tmp_path / "5.png"


def test_method_without_pictures_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["mae"], "reconstruct", Method.reconstruct)
    with pytest.raises(UserError, match="mae does not predict anything that can be shown"):
        reconstruct(run, [picture(tmp_path / "a.png")])
    assert not (run / "reconstructions").exists()


def test_reconstruct_depends_on_seed_and_ratio_only(run: Path, tmp_path: Path) -> None:
    given = [picture(tmp_path / "a.png")]
    before = torch.random.get_rng_state()

    def hidden(name: str, seed: int, ratio: float | None = None) -> np.ndarray:
        made = reconstruct(run, given, out=tmp_path / name, seed=seed, mask_ratio=ratio)
        array = np.asarray(Image.open(made))[..., :3]
        return (array == HIDDEN).all(-1)

    first = hidden("1.png", 0)
    assert np.array_equal(first, hidden("2.png", 0))
    assert not np.array_equal(first, hidden("3.png", 1))
    assert first.sum() > 1.4 * hidden("4.png", 0, 0.5).sum()  # 75 % of the patches are 1.5 times 50 %
    assert torch.equal(torch.random.get_rng_state(), before)


def test_averaged_weights_are_preferred_and_wrappers_names_understood(run: Path) -> None:
    saved = load_method(run).state_dict()
    doubled = {f"module._orig_mod.{name}": 2 * tensor for name, tensor in saved.items()}
    save_file(doubled, run / "checkpoints" / "step_00000007" / AVERAGE)
    method = load_method(run)
    assert not method.training
    assert all(torch.equal(tensor, 2 * saved[name]) for name, tensor in method.state_dict().items())


def test_newest_checkpoint_is_used(run: Path) -> None:
    saved = load_method(run).state_dict()
    newer = run / "checkpoints" / "step_00000100"
    newer.mkdir()
    save_file({name: tensor + 1 for name, tensor in saved.items()}, newer / SAFE_WEIGHTS_NAME)
    assert all(torch.equal(tensor, saved[name] + 1) for name, tensor in load_method(run).state_dict().items())


def test_mistakes_are_explained(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    given = picture(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"broken\.jpg cannot be read as a picture"):
        reconstruct(run, [broken])
    with pytest.raises(UserError, match=r"missing\.jpg cannot be read as a picture: No such file"):
        reconstruct(run, [tmp_path / "missing.jpg"])
    with pytest.raises(UserError, match="no picture was given"):
        reconstruct(run, [])
    with pytest.raises(UserError, match=r"ends in \.png"):
        reconstruct(run, [given], out=tmp_path / "out.jpg")
    with pytest.raises(UserError, match="between 0 and 1"):
        reconstruct(run, [given], mask_ratio=1.5)
    with pytest.raises(UserError, match=r"no recipe\.json"):
        reconstruct(tmp_path, [given])
    assert not (run / "reconstructions").exists()


def test_checkpoint_that_is_missing_or_does_not_fit(run: Path, tmp_path: Path) -> None:
    weights = run / "checkpoints" / "step_00000007" / SAFE_WEIGHTS_NAME
    save_file({"head.bias": torch.zeros(3)}, weights)
    with pytest.raises(UserError, match="does not hold the weights"):
        load_method(run)
    weights.unlink()
    weights.parent.rmdir()
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_method(run)
