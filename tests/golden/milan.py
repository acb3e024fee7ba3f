"""MILAN from a fixture's `constructor`, with what the fixture's teacher says of its images."""

from typing import Any

import torch
from torch import Tensor

from tests.golden.hierarchical import in_order
from tests.golden.official import Case, Quantities, build_vit, gradients, size, tensors, watch
from unmask.convert.names import mae_name
from unmask.convert.weights import load_official
from unmask.masking import WeighableMask
from unmask.methods import MILAN
from unmask.targets import Taught, Teacher


class Recorded(Teacher):
    """Says of any images what is in the fixture."""

    def __init__(self, spec: dict[str, Any], features: Tensor, attention: Tensor) -> None:
        super().__init__()
        self.image_size = size(spec["image_size"])
        rows, columns = (side // spec["patch_size"] for side in self.image_size)
        self.grid, self.dim, self.has_cls, self.description = (rows, columns), spec["output_width"], True, {}
        self.taught = Taught(patches=features[:, 1:], cls=features[:, 0], importance=attention[:, 0, 1:])

    def forward(self, images: Tensor, *, importance: bool = False) -> Taught:
        return self.taught


def measure_milan(case: Case) -> Quantities:
    spec, weights, inputs = case["info"]["constructor"], tensors(case["params"]), tensors(case["inputs"])
    images, shuffled = inputs["images"], inputs["ids_shuffle"]
    encoder = build_vit(spec)
    method = MILAN(
        encoder,
        teacher=Recorded(spec["teacher"], inputs["teacher_features"], inputs["teacher_attention"]),
        mask_ratio=spec["mask_ratio"],
        decoder_dim=spec["decoder_width"],
        decoder_depth=spec["decoder_depth"],
        decoder_heads=spec["decoder_heads"],
        rounding="mae_official",
    ).eval()
    torch.testing.assert_close(method.decoder.positions, weights["decoder_pos_embed"], rtol=0, atol=1e-6)
    names = load_official(method, weights, mae_name)
    drawn = method.draw(images)
    assert drawn.count is not None
    # From the noise that the fixture holds, to be weighed by its attention.
    drawn = WeighableMask.from_noise(inputs["gumbel"], encoder.grid, drawn.count)
    result: Quantities = {}
    watch(method.decoder, result, "out/decoder_norm")
    watch(method.head, result, "out/pred")
    loss = method(images, images, mask=drawn)["loss"]
    mask = method.weighed(drawn, method.teacher(images))
    kept = shuffled[:, : shuffled.shape[1] - drawn.count]
    seen = encoder.visible(images, mask)
    assert seen.cls is not None
    order = kept.argsort(1).argsort(1)  # places among those in raster order
    return (
        gradients(loss, method, names, weights, "grad")
        | result
        | {
            "out/ids_keep": mask.visible_index.gather(1, order),
            "out/ids_restore": shuffled.argsort(1),
            "out/mask": mask.hidden,
            "out/latent": torch.cat([seen.cls[:, None], in_order(seen.patches, order)], dim=1),
            "out/loss": loss,
        }
    )
