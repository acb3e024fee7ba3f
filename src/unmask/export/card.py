"""The model card: what a network was trained on, how to prepare images for it, how to load it."""

from pathlib import Path
from typing import Any

from unmask.export.saved import unit_of

CROP = 0.875  # of the shorter side: the centre that evaluations look at

_CARD = """\
---
library_name: {library}
pipeline_tag: image-feature-extraction
tags:
- masked-image-modeling
- {library}
---

# {title}

A vision backbone without a classifier, pre-trained on unlabelled images{method} with unmask.

```python
{load}```

{note}
| | |
|---|---|
{facts}
"""


def write_model_card(folder: Path, card: dict[str, Any], *, library: str, load: str, note: str = "") -> None:
    """`README.md` of a folder, as the Hugging Face hub shows it.

    Args:
        card: of the encoder, see `save_encoder`.
        library: what loads the folder.
        load: the Python that does.
        note: a paragraph below it.
    """
    made_by = card.get("made_by") or {}
    facts = {
        "architecture": f"{card['architecture']['model_name']}, {card['dim']} features",
        "images": " × ".join(map(str, card["image_size"])) + f" pixels, {card['channels']} channels",
        "view": f"shorter side scaled to the size / {CROP}, centre cut out, bicubic",
        f"mean of pixels{unit_of(card)}": ", ".join(f"{value:g}" for value in card["mean"]),
        "standard deviation": ", ".join(f"{value:g}" for value in card["std"]),
        **{f"made by: {name}": value for name, value in made_by.items()},
    }
    text = _CARD.format(
        library=library,
        title=card["architecture"]["model_name"],
        method=f" ({made_by['method']})" if "method" in made_by else "",
        load=load,
        note=note,
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
