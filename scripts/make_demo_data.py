"""Make the demo pictures (src/unmask/demo_data/pictures.zip and sources.csv) out of Debian's openclipart-png.

    apt-get install openclipart-png
    python scripts/make_demo_data.py

The clip art is dedicated to the public domain. A labelled subset is chosen by folder (the table CLASSES).
Every drawing is cut to its own extent, scaled so that its longest side is at most 88 px and centred on a
white canvas of 96 x 96. Left out are drawings that are broken, empty, tiny, thin, huge, or the copy of
another one. Drawings that belong together (one drawing in several colours, numbered parts of a series) stay
on the same side of the split, so that a validation picture is no variant of a training picture, as far as
names and shapes tell.
Same package and same Pillow: same bytes, however often it is run.
"""

import argparse
import csv
import hashlib
import io
import re
import sys
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

CANVAS, EXTENT = 96, 88  # px: side of the white canvas; longest side of the drawing on it
SMALLEST = 48  # px: a drawing whose longest side is shorter in the source is left out
MAX_PIXELS = 20_000_000  # one source picture has 623 million pixels
LEAST_INK = 0.03  # share of canvas pixels that are visibly not white
COPY_DISTANCE = (
    4.0  # mean absolute difference (0..255) of 32 x 32 thumbnails below which two drawings are copies
)
VARIANT_BITS = 20  # of 256 gradient-hash bits: at most so many differ between two variants of one drawing
VALIDATION_SHARE = 0.2
PALETTE = 128  # colours a picture

PACKAGE_ROOT = Path("/usr/share/openclipart/png")
OUTPUT = Path(__file__).resolve().parents[1] / "src" / "unmask" / "demo_data"


@dataclass(frozen=True)
class Folder:
    """Blank-separated patterns: of paths below the package's png folder, and of file names to leave out."""

    patterns: str
    without: str = ""
    limit: int = 140  # pictures


# A picture that several classes name belongs to the first of them. What `without` names was judged by eye:
# filed in the wrong place, drawn without its linked image, a photograph of a person, unfit for children, or
# nothing that shows its class.
CLASSES = {
    "signs": Folder(
        patterns="""
            transportation/roadsigns/* transportation/vehicles/c[ruy]*_* signs_and_symbols/hazard/*
            signs_and_symbols/[A-Z]* signs_and_symbols/protection_* signs_and_symbols/sortie_*
            signs_and_symbols/defense_* signs_and_symbols/interdiction_* signs_and_symbols/*_yves_g*
        """,
        without="""
            ampel* simple_cross* 2_dead_frogs* Motorway_on* chauss_e* cute_skull* nws_* passo_carrabile*
            poison_* route_jakob* stop.png yield.png bus_symbol* triangle_yves*
        """,
    ),
    "pictograms": Folder(patterns="transportation/aiga-symbols/*"),
    "flags": Folder(
        patterns="signs_and_symbols/flags/a*/**/* signs_and_symbols/flags/[eo]*/**/*",
        without="""
            *_outline* andalusia* aragon_01* arkansas_symbol* asturias_01* australia_christmas* balearian*
            bretagne_01* *umbrella* cantabria_01* castilla_y_leon_01* catalunya_01* citt_di_torino* *map_*
            euskadi_01* extremadura_01* flag_of_padania* fleur_de_lis* galicia_01* ile_de_france* inuit_*
            japan.png madrid_01* murcia_01* navarra_01* rios_de* saxony_coat* spain_peninsule*
            spanish_regions* us_capitol* ampel* valencia*
        """,
    ),
    "mammals": Folder(
        patterns="animals/mammals/**/*",
        without="""
            bat_orlando* cartoon_vgcats* cat_scrathing* dog_01_drawn* sleeping_bear_under* toro_al_tramonto*
            sleeping_cat_ron*
        """,
    ),
    "birds": Folder(
        patterns="""
            animals/birds/**/* unsorted/Pinguino* unsorted/[Cc]olombo* unsorted/Anatra* unsorted/pennuto*
            unsorted/gabbiano_piccolo* unsorted/struzzo* unsorted/papera*
        """,
        without="""
            baby?tux_* cigno_di_notte* duck_yellow_ii* mirjam* plush_tux* turkey_on* wing_* contour_bat*
        """,
    ),
    "bugs": Folder(patterns="animals/bugs/*", without="blue_dragonfly* zanzara_cretina* virus_*"),
    "food": Folder(
        patterns="food/**/*",
        without="""
            *_teapot* crawfish* flower-pot* food_leif* garlic_toast* habanero* hash_browns* icecube*
            kallisti* libro_di* meatgrinder* mix_cucina* slate-apple* straw_tote* lattine_di* wine.png
            wine_glass_c*
        """,
    ),
    "plants": Folder(
        patterns="plants/**/* unsorted/rosa* unsorted/rose* unsorted/foglie_*",
        without="bowsaw* bypasspruner* cannabis* christmas_balls* human_*",
    ),
    "buildings": Folder(
        patterns="buildings/* buildings/homes/* unsorted/igloo* unsorted/fattoria* unsorted/Condominio*",
        without="""
            brick_* capitello* city_horizon* houses_jon* old_sign* wall.png wall1.png school_hallway*
        """,
    ),
    "vehicles": Folder(
        patterns="transportation/vehicles/* transportation/*",
        without="""
            anchor* lighthouse* little_tan* sledge* street_sign* the_mad* toy_paper* beach_trip* car_ride*
            grain_*
        """,
    ),
    "people": Folder(
        patterns="people/*",
        without="""
            a_happy_boy* a_youngster* a_boy_plays* a_man_singing* angry_punk* architetto_arch* backpacker*
            blue_eye* boy_symbol* camper* chat_icon* dancer_sketch* don_t_panic* eyes_* elfish* fata_*
            feet_in* female_roll* finger* fire_engine* fireman_en* future_beckham* gender* golf_drive*
            grandpa* hand* hide_girl* hygieia* icons_* jazz_* john_coltrane* left_hand* man_in_chair*
            martin_luther* my_lovely* pace_e_bene* ppls* pregnancy* reminder* right_hand* safety_pin* samoa*
            saxo* sexy* silhouette* silvia* skull* stripper* stylized_yoga* van_gogh* woman_eye*
            signorina_arch* donna_incinta* girl_symbol* 3_faces* alien* einstein*
        """,
    ),
    "music": Folder(
        patterns="recreation/music/*", without="violin_mo* war_drum*01* boombox* a_man* *_ganson[12]*"
    ),
    "tools": Folder(
        patterns="tools/*",
        without="""
            airbrush* bottle* cellular* compass* digital_camera* electric_lighter* green_burner* insecticide*
            lampada_di* metal_cage* mattone* natural_gas* nodding* orange_burner* paint_brush_linda*
            paint_roller_wall* panel_* pansement* smoke_* umbrella* gallows* route_* stefan_* nunchaku*
        """,
    ),
}


@dataclass
class Picture:
    name: str  # of the class
    source: Path
    image: Image.Image  # RGB, CANVAS x CANVAS
    thumbnail: np.ndarray  # float32 [32 * 32 * 3]
    gradient: np.ndarray  # bool [256]


def candidates(root: Path) -> list[tuple[str, Path]]:
    """Class and file of every picture the table names; the package links some from several folders."""
    seen: set[Path] = set()
    found = []
    for name, folder in CLASSES.items():
        files = {
            path.resolve()
            for pattern in folder.patterns.split()
            for path in root.glob(pattern)
            if path.suffix == ".png"
        }
        unwanted = folder.without.split()
        found += [
            (name, p) for p in sorted(files - seen) if not any(p.match(pattern) for pattern in unwanted)
        ]
        seen |= files
    return found


def on_white(path: Path) -> Image.Image | None:
    """The drawing, cut to its extent and centred on the canvas; None when it is unfit."""
    with Image.open(path) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            return None
        drawing = opened.convert("RGBA")
    page = Image.new("RGBA", drawing.size, "white")
    page.alpha_composite(drawing)
    page = page.convert("RGB")
    ink = (np.asarray(page).min(axis=2) < 240).astype(np.uint8)
    extent = Image.fromarray(ink).getbbox()
    if extent is None or max(extent[2] - extent[0], extent[3] - extent[1]) < SMALLEST:
        return None
    page = page.crop(extent)
    scale = min(1.0, EXTENT / max(page.size))
    size = (max(1, round(page.width * scale)), max(1, round(page.height * scale)))
    page = page.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    canvas = Image.new("RGB", (CANVAS, CANVAS), "white")
    canvas.paste(page, ((CANVAS - page.width) // 2, (CANVAS - page.height) // 2))
    share = (np.asarray(canvas).min(axis=2) < 225).mean()
    return canvas if share >= LEAST_INK else None


def load(name: str, path: Path) -> Picture | None:
    image = on_white(path)
    if image is None:
        return None
    small = image.resize((32, 32), Image.Resampling.BOX)
    grey = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    gradient = (grey[:, 1:] > grey[:, :-1] + 2).ravel()
    return Picture(name, path, image, np.asarray(small, dtype=np.float32).ravel(), gradient)


def without_copies(pictures: list[Picture]) -> list[Picture]:
    """Keeps the first of several copies of one drawing."""
    kept: list[Picture] = []
    thumbnails = np.empty((len(pictures), 32 * 32 * 3), dtype=np.float32)
    for picture in pictures:
        others = thumbnails[: len(kept)]
        if len(kept) and np.abs(others - picture.thumbnail).mean(axis=1).min() < COPY_DISTANCE:
            continue
        thumbnails[len(kept)] = picture.thumbnail
        kept.append(picture)
    return kept


def families(pictures: list[Picture]) -> list[list[Picture]]:
    """Groups of pictures that are variants of each other by file name (digits aside) or by shape."""
    leader = list(range(len(pictures)))

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    names = [re.sub(r"(_bw|_colou?r)?(_?\d+|_?[a-z]$)*_*$", "", p.source.stem.lower()) for p in pictures]
    for i, picture in enumerate(pictures):
        for j in range(i):
            close = int((picture.gradient != pictures[j].gradient).sum()) <= VARIANT_BITS
            if names[i] == names[j] or close:
                leader[find(i)] = find(j)
    groups: dict[int, list[Picture]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        groups[find(index)].append(picture)
    return sorted(groups.values(), key=lambda group: hashlib.sha256(group[0].source.name.encode()).digest())


def split(pictures: list[Picture], limit: int) -> dict[str, list[Picture]]:
    """At most `limit` pictures of one class in two parts that share no family."""
    chosen: list[list[Picture]] = []
    for family in families(pictures):
        if sum(map(len, chosen)) + len(family) <= limit:
            chosen.append(family)
    goal = round(VALIDATION_SHARE * sum(map(len, chosen)))
    parts: dict[str, list[Picture]] = {"train": [], "validation": []}
    for family in chosen:
        fits = len(parts["validation"]) + len(family) <= goal and len(family) <= max(1, goal // 3)
        parts["validation" if fits else "train"] += family
    return parts


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    palette = image.quantize(PALETTE, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write(rows: list[tuple[str, Picture]], root: Path, output: Path) -> None:
    """pictures.zip (stored, one fixed date, sorted) and sources.csv."""
    output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output / "pictures.zip", "w", zipfile.ZIP_STORED) as archive:
        for entry, picture in rows:
            info = zipfile.ZipInfo(entry, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, encode(picture.image))
    with (output / "sources.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["picture", "source"])
        table.writerows([entry, picture.source.relative_to(root).as_posix()] for entry, picture in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=PACKAGE_ROOT, help="the package's png folder")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    if not options.root.is_dir():
        sys.exit(f"{options.root} does not exist; install Debian's package openclipart-png or give --root")
    Image.MAX_IMAGE_PIXELS = None  # the size is checked before a picture is decoded
    loaded = [load(name, path) for name, path in candidates(options.root)]
    pictures = without_copies([picture for picture in loaded if picture is not None])
    rows = []
    for name in sorted(CLASSES):
        parts = split([picture for picture in pictures if picture.name == name], CLASSES[name].limit)
        print(f"{name:12} train {len(parts['train']):4}  validation {len(parts['validation']):4}")
        for part, members in parts.items():
            rows += [(str(PurePosixPath(part, name, f"{p.source.stem}.png")), p) for p in members]
    rows.sort(key=lambda row: row[0])
    assert len({entry for entry, _ in rows}) == len(rows), "two sources of one class share a file name"
    write(rows, options.root, options.output)
    print(f"{len(rows)} pictures, {(options.output / 'pictures.zip').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
