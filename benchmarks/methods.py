"""One protocol, all methods: what each makes of the same images, in one table.

    python -m benchmarks.methods DATA OUT [--methods mae simmim ...] [--images N | --minutes N] [--seeds N]

DATA is a labelled folder with `train` and `validation` or `test`. Every row is pre-trained on `train`,
without labels, on the same number of images (or for the same time), once for every seed: with the encoder and
the crops of MAE's recipe for small data, and with the options of the method and the optimiser of its own.
Methods that need another kind of backbone keep that of their recipe. k-NN and a linear probe on the mean of
the last features, a place fixed beforehand, are then asked about all held-out images. Beside the runs stand
the same encoders with the random weights that the runs start from, raw pixels, and the teacher that methods
get where none is named, a network that learned ImageNet with its labels. A tokenizer that methods need is
trained on the same images first, once for all of them, and has a line of its own.

A result that is in OUT is not made again, and a run that was interrupted goes on; OUT/methods.md and
OUT/methods.json are written anew after each. Minutes are those of the processor, of all its cores together,
on a CPU, and those of the clock on a GPU.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.probing import answers, gain, held_out_parts, percent
from unmask import pretrain
from unmask.data import open_source
from unmask.data.views import as_fractions
from unmask.engine.files import write_text
from unmask.engine.first_stage import train_tokenizer
from unmask.engine.machine import choose_device
from unmask.errors import UserError
from unmask.evaluate import Extractor, Place, features_of, pixels
from unmask.evaluate.subject import find_subject
from unmask.methods import METHODS
from unmask.recipes import SMALL, Recipe
from unmask.recipes.build import build_encoder, lacking
from unmask.recipes.resolve import resolve_recipe
from unmask.recipes.stages import tokenizer_for
from unmask.runs import read_log
from unmask.targets.frozen import Frozen
from unmask.targets.teachers import LITE0, create_teacher

KINDS = ("knn", "linear")
PILOT = 40  # steps that tell how many images go into a minute
SHARED = ("image_size", "crop_scale", "crop_ratio", "flip", "interpolation")  # of the data, by all rows
RANDOM = "random weights"
BESIDE = ("pixels", "random-", "teacher", "tokenizer-")  # what stands above the rows

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method as it takes part.

    Attributes:
        own_encoder: that of the method's recipe for small data, instead of the one that all share.
        settings: of the recipe, by dotted key.
    """

    method: str
    own_encoder: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """All but length and seed."""
        common, own = SMALL["mae"](), SMALL[self.method]()
        data = own.data.model_copy(update={name: getattr(common.data, name) for name in SHARED})
        encoder = own.encoder if self.own_encoder else common.encoder
        usual = own.model_copy(update={"data": data, "encoder": encoder})
        return resolve_recipe(usual, overrides=self.settings)


# What cannot use the ViT that all others share; what a method whose recipe is for another encoder needs on
# that ViT (docs/small-data.md); and what is shown in another way too.
OWN_ENCODER = ("itpn", "itpn_teacher", "revcolv2")
ON_VIT = {
    "simmim": {
        "method.mask_ratio": 0.75,
        "method.loss": "l2",
        "optim.batch_size": 64,
        "optim.lr": 1e-3,
        "schedule.warmup_lr": 0.0,
        "schedule.final_lr": 0.0,
    }
}
VARIANTS = {
    "simmim, Swin": Row(method="simmim", own_encoder=True),
    "itpn, pixels only": Row(method="itpn", own_encoder=True, settings={"method.feature_weight": 0.0}),
}


def rows() -> dict[str, Row]:
    """Every method that has a recipe for small data, each with its variants behind it."""
    found = {}
    for name in (name for name in METHODS if name in SMALL):
        found[name] = Row(method=name, own_encoder=name in OWN_ENCODER, settings=ON_VIT.get(name, {}))
        found |= {title: row for title, row in VARIANTS.items() if row.method == name}
    return found


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all results of a table have in common.

    Attributes:
        data: with `train` and what is held out.
        out: for runs, results and the table.
        images: seen by every run, repetitions counted; None if `minutes` decide.
        minutes: of training for every run, as a short pilot foretells them; None if `images` decide.
        tokenizer_images: seen by a tokenizer.
        seeds: of every row, from 0.
        device: "cpu" or "cuda".
        workers: processes that decode.
    """

    data: Path
    out: Path
    images: int | None
    minutes: float | None
    tokenizer_images: int
    seeds: int
    device: str
    workers: int

    @property
    def command(self) -> str:
        """What makes the whole table."""
        budget = f"--minutes {self.minutes:g}" if self.minutes else f"--images {self.images}"
        common = f"--tokenizer-images {self.tokenizer_images} --seeds {self.seeds}"
        return f"python -m benchmarks.methods {self.data.name} {self.out} {budget} {common}"

    def train(self, row: Row, folder: Path, *, steps: int, seed: int) -> dict[str, float]:
        """Pre-train, or go on with it; the minutes of all attempts."""
        settings = self.tokenizer(row)
        with timed(folder.with_name(folder.name + "-minutes.json")) as minutes:
            run = pretrain(row.recipe, out=folder, steps=steps, seed=seed, overrides=settings, **self.machine)
        if run.interrupted is not None:
            raise SystemExit(run.interrupted)
        return minutes

    @property
    def machine(self) -> dict[str, Any]:
        """What is the same wherever something is trained."""
        place = {"data": self.data / "train", "device": self.device, "workers": self.workers}
        return {**place, "resume": True, "progress": False}

    def tokenizer(self, row: Row) -> dict[str, str]:
        """The setting that names the tokenizer which a row lacks; trained for the first row that does."""
        recipe = row.recipe
        option = lacking(recipe)
        if option is None:
            return {}
        plan = tokenizer_for(recipe, images=len(open_source(self.data / "train")))
        name = f"tokenizer-{slug(plan.name)}"
        folder, steps = self.out / "runs" / name, round(self.tokenizer_images / plan.optim.batch_size)
        with timed(folder.with_name(name + "-minutes.json")) as minutes:
            run = train_tokenizer(plan, out=folder, steps=max(1, steps), **self.machine)
        if run.interrupted is not None:
            raise SystemExit(run.interrupted)
        result = self.out / "results" / f"{name}-seed{plan.seed}.json"
        if not result.is_file():
            seen = {"images": run.total * plan.optim.batch_size, "minutes": minutes}
            keep(result, {"title": f"tokenizer {plan.name}", **seen})
        return {f"method.{option}": str(folder.resolve())}

    def steps(self, name: str, row: Row) -> int:
        """Optimiser steps of every run of a row."""
        images = self.images
        if images is None:
            assert self.minutes is not None
            folder = self.out / "runs" / f"{slug(name)}-pilot"
            self.train(row, folder, steps=PILOT, seed=0)
            pace = median(read_log(folder / "log.jsonl").numbers("images_per_s")[PILOT // 4 :])
            images = round(60 * self.minutes * pace)
        return max(1, round(images / row.recipe.optim.batch_size))

    def run(self, name: str, row: Row, seed: int) -> Result:
        """Pre-train with one seed, and ask the encoder."""
        folder, steps = self.out / "runs" / f"{slug(name)}-seed{seed}", self.steps(name, row)
        minutes = self.train(row, folder, steps=steps, seed=seed)
        subject = find_subject(folder, image_size=None, seed=seed)
        asked = self.ask(subject.extractor([Place(None, "mean")], self.device), row.recipe, seed)
        seen = {"images": steps * row.recipe.optim.batch_size, "steps": steps, "minutes": minutes}
        return {"title": name, **described(row.recipe), **seen, **asked}

    def random(self, row: Row, seed: int) -> Result:
        """Ask the encoder that runs of this seed start from."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = build_encoder(row.recipe)
        return {
            "title": RANDOM,
            **described(row.recipe),
            **self.ask(features_of(encoder.to(self.device)), row.recipe, seed),
        }

    def pixels(self) -> Result:
        """Ask about the pixels themselves, averaged down to 32 x 32."""
        return {"title": "raw pixels", **self.ask(pixels, SMALL["mae"](), 0)}

    def teacher(self) -> Result:
        """Ask the default teacher, by its features on the grid of the shared encoder."""
        recipe = SMALL["mae"]()
        teacher = create_teacher(LITE0, grid=build_encoder(recipe).grid).to(self.device)

        def features(images: Tensor) -> Tensor:
            return teacher(as_fractions(images)).patches.mean(1)

        frozen = (module.network for module in teacher.modules() if isinstance(module, Frozen))
        facts = {
            "encoder": f"{LITE0} at {teacher.image_size[0]} px",
            "parameters": sum(one.numel() for network in frozen for one in network.parameters()),
        }
        size = recipe.data.model_copy(update={"image_size": teacher.image_size})
        asked = self.ask(features, recipe.model_copy(update={"data": size}), 0)
        return {"title": "supervised teacher", **facts, **asked}

    def ask(self, extractor: Extractor, recipe: Recipe, seed: int) -> dict[str, list[bool]]:
        """The answers of every kind of classifier about all held-out images."""
        found = answers(
            {"it": extractor},
            self.data,
            kinds=KINDS,
            image_size=recipe.data.image_size,
            channels=recipe.data.channels,
            seed=seed,
            device=self.device,
            workers=self.workers,
        )
        return {kind: found[kind]["it"] for kind in KINDS}


@contextmanager
def timed(path: Path) -> Iterator[dict[str, float]]:
    """Minutes of the processor and of the clock since the first attempt at something, kept in a file; those
    of an attempt that was killed are lost.
    """
    before = json.loads(path.read_text()) if path.is_file() else {"processor": 0.0, "clock": 0.0}
    minutes = dict(before)
    processor, clock = time.process_time(), time.perf_counter()
    try:
        yield minutes
    finally:
        minutes["processor"] = before["processor"] + (time.process_time() - processor) / 60
        minutes["clock"] = before["clock"] + (time.perf_counter() - clock) / 60
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(minutes))


def described(recipe: Recipe) -> Result:
    """What the encoder is, and a key that only equal ones share."""
    with torch.random.fork_rng(devices=[]):
        encoder = build_encoder(recipe)
    choice = json.dumps([recipe.encoder.model_dump(), recipe.data.image_size], sort_keys=True)
    return {
        "encoder": type(encoder.model).__name__,
        "parameters": sum(parameter.numel() for parameter in encoder.model.parameters()),
        "key": hashlib.sha256(choice.encode()).hexdigest()[:8],
    }


def slug(name: str) -> str:
    """The name of a row's files."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split()).lower()


def results(out: Path) -> dict[str, list[Result]]:
    """All that is there, by the stem of the files; of a row in the order of the seeds."""
    found: dict[str, list[Result]] = {}
    for path in sorted((out / "results").glob("*-seed*.json")):
        stem, _, seed = path.stem.rpartition("-seed")
        found.setdefault(stem, []).append({"seed": int(seed), **json.loads(path.read_text())})
    return found


def summarised(found: Mapping[str, list[Result]]) -> list[Result]:
    """The lines of the table as plain data: random weights and pixels first, then the rows in their order."""
    random = {runs[0]["key"]: runs for stem, runs in found.items() if stem.startswith("random-")}
    first = [stem for stem in found if stem.startswith(BESIDE)]
    order = [*first, *(stem for name in rows() if (stem := slug(name)) in found)]
    return [_line(found[stem], random) for stem in order]


def _line(runs: list[Result], random: Mapping[str, list[Result]]) -> Result:
    first = runs[0]
    line = {name: first.get(name) for name in ("title", "encoder", "parameters", "images")}
    line["seeds"] = [run["seed"] for run in runs]
    if "minutes" in first:
        line["minutes"] = {name: mean(run["minutes"][name] for run in runs) for name in first["minutes"]}
    for kind in (kind for kind in KINDS if kind in first):
        line[kind] = [mean(run[kind]) for run in runs]
        line[f"{kind} text"] = percent([run[kind] for run in runs])
    started = {run["seed"]: run for run in random.get(first.get("key", ""), [])}
    if "minutes" in first and "key" in first and all(run["seed"] in started for run in runs):
        for kind in KINDS:
            pairs = [(run[kind], started[run["seed"]][kind]) for run in runs]
            line[f"{kind} gain"] = gain([own for own, _ in pairs], [other for _, other in pairs])
    return line


def markdown(lines: list[Result], bench: Bench, held_out: int) -> str:
    """The table, with what is needed to understand and to repeat it."""
    clock = "processor" if bench.device == "cpu" else "clock"
    heads = ["", "encoder", "seeds", "images seen", "minutes", "k-NN", "linear", "linear - random", "/ error"]
    table = ["| " + " | ".join(heads) + " |", "|---|---|" + "--:|" * (len(heads) - 2)]
    for line in lines:
        difference, error = line.get("linear gain", (None, None))
        cells = [
            line["title"],
            f"{line['encoder']}, {line['parameters'] / 1e6:.1f} M" if line["encoder"] else "",
            str(len(line["seeds"])),
            f"{line['images']:,}" if line["images"] else "",
            f"{line['minutes'][clock]:.1f}" if "minutes" in line else "",
            line.get("knn text", ""),
            line.get("linear text", ""),
            "" if difference is None else f"{100 * difference:+.1f} ± {100 * error:.1f}",
            f"{difference / error:.1f}" if difference is not None and error else "",
        ]
        table.append("| " + " | ".join(cells) + " |")
    notes = (
        f"Top-1 accuracy in % on {held_out:,} held-out images: mean over the seeds ± their standard "
        "deviation; of a single seed ± the binomial error of so many images. *linear - random*: what the "
        "linear probe gains over the random weights that the run started from, paired by image and seed, ± "
        "its standard error (images and seeds both count as drawn). *minutes*: of a run, of the "
        f"{clock}, reading of images included.",
        f"`{bench.command}`, on {hardware_of(bench.device)}.",
    )
    return "\n".join(table) + "\n\n" + "\n\n".join(notes) + "\n"


def once(path: Path, make: Callable[[], Result], console: Console) -> bool:
    """Make a result that is not there; False if what it needs is not installed or does not fit together."""
    if path.is_file():
        return True
    console.print(path.stem, style="bold", highlight=False)
    try:
        result = make()
    except UserError as error:
        console.print(f"  left out: {error}", markup=False, highlight=False)
        return False
    keep(path, result)
    return True


def keep(path: Path, result: Result) -> None:
    """Write a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result))


def require_same(bench: Bench) -> None:
    """Results of one folder must be comparable: other data or another budget need another folder."""
    held_out_parts(bench.data)
    path = bench.out / "protocol.json"
    facts = {"data": str(bench.data.resolve()), "images": bench.images, "minutes": bench.minutes}
    facts |= {"device": bench.device, "tokenizer_images": bench.tokenizer_images}
    if path.is_file() and (before := json.loads(path.read_text())) != facts:
        raise SystemExit(f"{bench.out} holds results of {before}, not of {facts}; name another folder")
    bench.out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(facts))


def write_table(bench: Bench) -> str:
    """The table of all that is there, as Markdown and as JSON."""
    found = results(bench.out)
    lines = summarised(found)
    held_out = len(next(runs[0][KINDS[0]] for runs in found.values() if KINDS[0] in runs[0]))
    page = markdown(lines, bench, held_out)
    write_text(bench.out / "methods.md", page)
    facts = {"command": bench.command, "hardware": hardware_of(bench.device), "held_out": held_out}
    write_text(bench.out / "methods.json", json.dumps({**facts, "lines": lines}, indent=2) + "\n")
    return page


def hardware_of(device: str) -> str:
    """The machine, in words."""
    if device == "cuda":
        return f"one {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"{threads} CPU {'thread' if threads == 1 else 'threads'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", nargs="+", choices=rows(), default=list(rows()), metavar="ROW")
    parser.add_argument("--seeds", type=int, default=3)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--images", type=int, help="seen by every run (default 100,000)")
    budget.add_argument("--minutes", type=float, help="of training for every run")
    parser.add_argument("--tokenizer-images", type=int, default=100_000, help="seen by a tokenizer")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    bench = Bench(
        data=options.data,
        out=options.out,
        images=None if options.minutes else options.images or 100_000,
        minutes=options.minutes,
        tokenizer_images=options.tokenizer_images,
        seeds=options.seeds,
        device=choose_device(options.device),
        workers=options.workers,
    )
    require_same(bench)
    console, folder = Console(width=160), bench.out / "results"
    complete = once(folder / "pixels-seed0.json", bench.pixels, console)
    complete &= once(folder / "teacher-seed0.json", bench.teacher, console)
    for seed in range(bench.seeds):
        for name in options.methods:
            row = rows()[name]
            start = folder / f"random-{described(row.recipe)['key']}-seed{seed}.json"
            complete &= once(start, partial(bench.random, row, seed), console)
            result = folder / f"{slug(name)}-seed{seed}.json"
            complete &= once(result, partial(bench.run, name, row, seed), console)
            write_table(bench)
    console.print(write_table(bench), markup=False, highlight=False, soft_wrap=True)
    sys.exit(not complete)


if __name__ == "__main__":
    main()
