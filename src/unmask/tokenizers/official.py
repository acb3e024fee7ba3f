"""Official files of tokenizers: their names, and the tokenizer that a file holds."""

import math
import re
from collections.abc import Callable, Mapping

from torch import Tensor

from unmask.tokenizers.base import Tokenizer
from unmask.tokenizers.dvae import DVAE
from unmask.tokenizers.vqkd import VQKD

PUBLISHED_SIZE = (112, 112)  # of the images that BEiT gives to the dVAE
HEAD_DIM = 64  # of every published VQ-KD

# openai/DALL-E: its encoder and its decoder are two files; here the names of both begin with what they are.
_DVAE = (
    (r"^encoder\.blocks\.output\.conv\.", "head."),
    (r"^decoder\.blocks\.input\.", "embedding."),
    (r"^(encoder|decoder)\.blocks\.(input)\.", r"\1.\2."),
    (r"^(encoder|decoder)\.blocks\.output\.conv\.", r"\1.output."),
)


def dvae_name(official: str) -> str:
    """DALL-E's dVAE, both halves."""
    block = re.match(r"^(encoder|decoder)\.blocks\.group_(\d+)\.block_(\d+)\.", official)
    if block:
        path = re.sub(r"^id_path", "skip", official[block.end() :])
        path = re.sub(r"^res_path\.conv_(\d+)", lambda found: f"path.{int(found[1]) - 1}.1", path)
        ours = f"{block[1]}.groups.{int(block[2]) - 1}.{int(block[3]) - 1}.{path}"
    else:
        ours = official
        for pattern, replacement in _DVAE:
            ours = re.sub(pattern, replacement, ours)
    return re.sub(r"\.b$", ".bias", re.sub(r"\.w$", ".weight", ours))


# microsoft/unilm, beit2. What only training uses: a moving average that is never updated, what tells that
# k-means has been, and the teacher with the mean and standard deviation of its images.
_VQKD_UNUSED = ("quantize.embedding.", "scaling_layer.", "teacher_model.")


def vqkd_name(official: str) -> str | None:
    """BEiT v2's tokenizer; None for what is not needed."""
    if official == "quantize.embedding.weight":
        return "quantizer.codebook"
    if official.startswith(_VQKD_UNUSED):
        return None
    transformer = re.match(r"^(encoder|decoder)\.", official)
    if transformer:
        return f"{transformer[1]}.model." + re.sub(r"^fc_norm\.", "norm.", official[transformer.end() :])
    renames = {
        "encode_task_layer": "to_code",
        "decode_task_layer": "to_teacher",
        "quantize.cluster_size": "quantizer.use.count",
    }
    for theirs, ours in renames.items():
        official = re.sub(rf"^{re.escape(theirs)}\b", ours, official)
    return official


def is_tokenizer(weights: Mapping[str, Tensor]) -> bool:
    """Whether `from_official` should be asked: the names are those of DALL-E's dVAE or of VQ-KD."""
    return any(
        key.startswith(("blocks.group_", "encoder.blocks.group_", "quantize.embedding.")) for key in weights
    )


def from_official(weights: Mapping[str, Tensor], *, image_size: tuple[int, int] | None = None) -> Tokenizer:
    """A tokenizer with the weights of an official file, frozen, in evaluation mode.

    VQ-KD comes without its decoder, which only its training needs.

    Args:
        weights: by their official names; of DALL-E's dVAE, which is two files, those of the encoder behind
            "encoder." and those of the decoder behind "decoder.".
        image_size: of the images that it is to take; None is what it was published with. VQ-KD takes no
            other.

    Raises:
        ValueError: no tokenizer that is known, weights that are missing, left over or of another shape.
    """
    rename: Callable[[str], str | None]
    tokenizer: Tokenizer
    if "encoder.blocks.input.w" in weights:
        tokenizer, rename = _dvae(weights, image_size or PUBLISHED_SIZE), dvae_name
    elif "quantize.embedding.weight" in weights:
        tokenizer, rename = _vqkd(weights, image_size), vqkd_name
    elif "blocks.input.w" in weights:
        raise ValueError(
            "it holds one half of DALL-E's dVAE. Put both into one file: "
            "torch.save({f'{half}.{name}': tensor for half, model in (('encoder', encoder), ('decoder', "
            "decoder)) for name, tensor in model.state_dict().items()}, 'dvae.pth')"
        )
    else:
        raise ValueError(
            f"its tensors are named like {', '.join(list(weights)[:4])}. Known are DALL-E's dVAE and BEiT "
            "v2's VQ-KD"
        )
    _load(tokenizer, weights, rename)
    return tokenizer.requires_grad_(False).eval()


def _dvae(weights: Mapping[str, Tensor], image_size: tuple[int, int]) -> DVAE:
    if "decoder.blocks.input.w" not in weights:
        raise ValueError("it looks like DALL-E's dVAE, but the decoder is missing")
    width, channels = weights["encoder.blocks.input.w"].shape[:2]
    return DVAE(
        image_size=image_size,
        channels=channels,
        vocabulary=len(weights["encoder.blocks.output.conv.w"]),
        width=width,
        decoder_dim=len(weights["decoder.blocks.input.w"]),
        groups=_count(weights, r"encoder\.blocks\.group_(\d+)\."),
        blocks=_count(weights, r"encoder\.blocks\.group_1\.block_(\d+)\."),
    )


def _vqkd(weights: Mapping[str, Tensor], image_size: tuple[int, int] | None) -> VQKD:
    needed = ("encoder.patch_embed.proj.weight", "encoder.pos_embed", "quantize.embedding.weight")
    if missing := [name for name in needed if name not in weights]:
        raise ValueError(f"it looks like VQ-KD, but there is no {', '.join(missing)}")
    projection, vocabulary = weights[needed[0]], weights[needed[2]]
    dim, channels, patch_size = projection.shape[:3]
    side = math.isqrt(weights[needed[1]].shape[1] - 1) * patch_size
    if image_size not in (None, (side, side)):
        raise ValueError(f"this VQ-KD is for images of {side} x {side} pixels, not {image_size}")
    return VQKD(
        image_size=(side, side),
        channels=channels,
        teacher=None,
        vocabulary=len(vocabulary),
        code_dim=vocabulary.shape[1],
        patch_size=patch_size,
        dim=dim,
        depth=_count(weights, r"encoder\.blocks\.(\d+)\."),
        heads=max(1, dim // HEAD_DIM),
        kmeans_start=False,
    )


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand at a place of the names."""
    return len({found[1] for found in (re.match(pattern, name) for name in weights) if found})


def _load(tokenizer: Tokenizer, weights: Mapping[str, Tensor], rename: Callable[[str], str | None]) -> None:
    """All weights to their places; what a tokenizer counts while it learns is not in every file."""
    own = tokenizer.state_dict()
    counted = {name: value for name, value in own.items() if ".use." in f".{name}" or value.ndim == 0}
    named = {ours: tensor for official, tensor in weights.items() if (ours := rename(official)) is not None}
    tokenizer.load_for_use({**counted, **named})
