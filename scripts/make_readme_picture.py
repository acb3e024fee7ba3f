"""Draw docs/images/reconstructions.png from the run of `make demo`: validation pictures, never trained on.

make demo && .venv/bin/python scripts/make_readme_picture.py
"""

import tempfile
import zipfile
from pathlib import Path

from PIL import Image

from unmask import reconstruct
from unmask.demo_data import demo_archive

ROOT = Path(__file__).resolve().parents[1]
PICTURES = (
    "signs/no_entry",
    "signs/keep_left",
    "food/lemon_half_ganson",
    "flags/south_africa",
    "bugs/bug_nicu_buculei_01",
    "signs/corrosif_yves_guillou_01",
    "plants/sakura_dave_pena_01",
    "birds/puffin-md",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(demo_archive()) as archive:
        pictures = [Path(archive.extract(f"validation/{name}.png", folder)) for name in PICTURES]
        strip = Image.open(reconstruct(ROOT / "runs/demo", pictures, out=Path(folder, "strip.png")))
        page = Image.new("RGBA", strip.size, "white")
        page.alpha_composite(strip.convert("RGBA"))
    # 256 colours: a quarter of the bytes that every clone would carry.
    page.convert("RGB").quantize(256).save(ROOT / "docs/images/reconstructions.png", optimize=True)


if __name__ == "__main__":
    main()
