"""The report: self-contained, true to the log, and there at every stage of a run."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unmask.charts import POINTS, line_chart, running_mean, thin
from unmask.errors import UserError
from unmask.recipes.base import Choice, Data, Optim, Recipe, Schedule
from unmask.report import write_report
from unmask.runs import read_log
from unmask.trivial import COPYING

START = {"event": "start", "step": 0, "data": "/data/cats/train", "images": 500, "steps": 100, "time": 1000.0}
END = {"event": "end", "step": 100, "time": 1205.0}
KNN = {
    "event": "evaluation",
    "kind": "knn",
    "step": 100,
    "data": "/data/labelled",
    "score": 0.612,
    "standard_error": 0.021,
    "baselines": {"random_init": 0.251, "raw pixels": 0.404, "majority": 0.168},
}


def step(number: int, loss: float | None = None, **more: Any) -> dict[str, Any]:
    rates = {"lr": 1e-4 * number, "images_per_s": 160.0, "data_wait": 0.02, "memory_mb": 2048.0}
    loss = 1.0 / number if loss is None else loss
    return {"step": number, "epoch": number / 10, "loss": loss, **rates, "time": 1000.0 + 2 * number, **more}


def write_log(run: Path, lines: list[dict[str, Any]]) -> None:
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of which nothing but the recipe exists."""
    folder = tmp_path / "my run"
    folder.mkdir()
    recipe = Recipe(
        name="mae",
        method=Choice(name="mae", mask_ratio=0.625),
        encoder=Choice(name="vit_tiny_patch16_224", patch_size=8),
        data=Data(image_size=(64, 96)),
        optim=Optim(batch_size=32),
    )
    (folder / "recipe.json").write_text(recipe.to_json())
    return folder


@pytest.fixture
def finished(run: Path) -> Path:
    write_log(run, [START, *(step(number) for number in range(1, 101)), END, KNN])
    environment = {"processor": "Abacus 3000", "threads": 7, "gpu": None, "processes": 1, "torch": "2.9.0"}
    (run / "environment.json").write_text(json.dumps(environment))
    (run / "encoder.json").write_text(json.dumps({"load": 'load_file("encoder.safetensors")  # <only timm>'}))
    (run / "images").mkdir()
    for number in range(10, 101, 10):
        strip = Image.new("RGBA", (400, 100), (number, 0, 0, 255))
        strip.save(run / "images" / f"step_{number:08d}.png")
    return run


class Page(HTMLParser):
    """What a browser would fetch, and the text that a person reads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.parts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.parts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.parts))


def report(run: Path) -> tuple[str, Page]:
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text(encoding="utf-8")
    assert not [left for left in run.iterdir() if left.name.startswith(".")]
    return html, Page(html)


def test_page_fetches_nothing(finished: Path) -> None:
    html, page = report(finished)
    assert page.sources
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", html)
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)


def test_finished_run_in_words_and_figures(finished: Path) -> None:
    _, page = report(finished)
    assert (
        "A vit_tiny_patch16_224 was trained from scratch with MAE on 500 pictures of cats/train" in page.text
    )
    assert "at 64 × 96 pixels" in page.text
    seen = 100 * 32
    assert f"It took 100 steps (10 epochs) and saw {seen:,} images in 3 min 20 s on 7 CPU cores" in page.text
    final = (1 / 99 + 1 / 100) / 2  # the last fiftieth
    assert f"The loss went from 1 to {final:.3g}." in page.text
    assert "kept up: 2.0% of the time" in page.text
    for figure in ("finished", "Final loss", "6.4 × the data set", "160", "2 GB", "none skipped", "61.2%"):
        assert figure in page.text


def test_scores_stand_beside_their_baselines(finished: Path) -> None:
    html, page = report(finished)
    for label, value in (
        ("this encoder", 61.2),
        ("random init", 25.1),
        ("raw pixels", 40.4),
        ("majority", 16.8),
    ):
        assert re.search(rf">{label}</span>.*?width: {value}%.*?>{value}%<", html), label
    assert "labelled · step 100 · standard error 2.1%" in page.text
    assert "All 1 evaluations" not in page.text


def test_newest_score_of_a_kind_is_shown_and_the_older_ones_are_listed(run: Path) -> None:
    write_log(run, [START, step(1), KNN | {"step": 50, "score": 0.333}, KNN])
    html, page = report(run)
    assert html.count('class="score"') == 1
    assert "All 2 evaluations" in page.text
    assert "33.3%" in page.text


def test_baselines_of_an_earlier_evaluation_serve_a_later_one(run: Path) -> None:
    later = KNN | {"step": 200, "score": 0.7, "baselines": {}}
    write_log(run, [START, step(1), KNN, later])
    html, _ = report(run)
    shown = html[html.index('class="score"') : html.index("<details>")]
    assert "70.0%" in shown
    assert "40.4%" in shown
    assert "61.2%" not in shown


def test_other_features_are_another_score(run: Path) -> None:
    write_log(run, [START, step(1), KNN | {"pool": "mean"}, KNN | {"pool": "cls", "score": 0.5}])
    html, page = report(run)
    assert html.count('class="score"') == 2
    assert "pool cls" in page.text


def test_recipe_environment_and_use(finished: Path) -> None:
    html, page = report(finished)
    assert re.search(r"<th>mask ratio</th><td>0.625</td>", html)
    assert re.search(r"<th>batch size</th><td>32</td>", html)
    assert re.search(r"<th>torch</th><td>2.9.0</td>", html)
    assert json.loads((finished / "recipe.json").read_text()) == json.loads(page_json(page))
    folder = finished.resolve()
    assert f'load_file("{folder}/encoder.safetensors") # <only timm>' in page.text
    assert f"unmask export '{folder}' --to timm" in page.text
    assert "--resume" not in page.text


def page_json(page: Page) -> str:
    return next(part for part in page.parts if part.lstrip().startswith("{"))


def test_strips_newest_first_and_five_at_most(finished: Path) -> None:
    html, _ = report(finished)
    assert re.findall(r"<figcaption>Step (\d+)<", html) == ["100", "10", "30", "50", "80"]
    assert html.count("data:image/webp;base64,") == 5
    assert 'width="400" height="100"' in html


def test_unreadable_strip_is_left_out(finished: Path) -> None:
    whole = finished / "images" / "step_00000100.png"
    whole.write_bytes(whole.read_bytes()[:40])
    html, _ = report(finished)
    assert html.count("data:image/webp;base64,") == 4


def test_nothing_but_a_recipe(run: Path) -> None:
    html, page = report(run)
    assert "unfinished" in page.text
    assert "No training step has been logged yet." in page.text
    assert "Not evaluated yet." in page.text
    assert "<svg" not in html
    assert "<img" not in html


def test_one_line_of_log(run: Path) -> None:
    write_log(run, [START, step(1, 0.75)])
    html, page = report(run)
    assert "is being trained" in page.text
    assert "It took 1 of 100 steps" in page.text
    assert "Loss now 0.75" in page.text
    assert html.count("<svg") == 3
    assert f"--data /data/cats/train --out '{run.resolve()}' --resume" in page.text


def test_killed_while_writing(run: Path) -> None:
    write_log(run, [START, step(1), step(2)])
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    _, page = report(run)
    assert "It took 2 of 100 steps" in page.text


def test_interrupted_and_resumed(run: Path) -> None:
    stopped = {"event": "stopped", "step": 2, "reason": "SIGTERM", "time": 1004.5}
    write_log(run, [START, step(1), step(2), stopped])
    html, page = report(run)
    assert 'class="status interrupted"' in html
    assert "The run was interrupted (SIGTERM); --resume continues it" in page.text
    resume = START | {"event": "resume", "step": 2, "time": 9000.0}
    write_log(run, [START, step(1), step(2), stopped, resume, step(3, time=9002.0)])
    html, page = report(run)
    assert 'class="status unfinished"' in html
    assert "was interrupted" not in page.text
    assert "in 6 s" in page.text  # not the hours between


def test_losses_that_are_not_finite(run: Path) -> None:
    lines = [step(number) for number in range(1, 11)]
    lines[4]["loss"] = None
    lines[5]["loss"] = math.nan  # json writes NaN
    rejected = {"event": "rejected", "step": 5, "loss": "nan", "time": 1010.0}
    write_log(run, [START, *lines, rejected, rejected | {"step": 6}])
    html, page = report(run)
    assert "In 2 of 10 steps the loss or its gradient was not a finite number" in page.text
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL)).lower()


def test_no_finite_loss_at_all(run: Path) -> None:
    write_log(run, [START, *({**step(number), "loss": None} for number in (1, 2))])
    html, page = report(run)
    assert "not finite" in page.text
    assert html.count("<svg") == 2  # learning rate and images a second


PROBE = {
    "event": "probe",
    "images": 200,
    "classes": 4,
    "probe_loss": 0.7,
    "trivial": {"predicting one grey": 2.5, "predicting the mean colour": 1.5, COPYING: 0.9},
    "chance": None,
    "effective_rank": 20.0,
    "spread": 0.4,
    "constant": 0.0,
    "copies": 0.0,
    "knn": 0.4,
    "linear": 0.5,
    "standard_error": 0.02,
    "seconds": 2.0,
}


def test_verdict_stands_on_top_in_the_colour_of_the_worst_finding(run: Path) -> None:
    lines = [START, *(step(number, 0.5 + 2 / number) for number in range(1, 101)), PROBE | {"step": 100}]
    write_log(run, lines)
    html, page = report(run)
    assert 'class="verdict good"' in html
    assert page.text.index("Healthy") < page.text.index("It took 100 steps")
    assert "53% below that of predicting the mean colour (1.5) and 22% below that of copying" in page.text
    write_log(run, [*lines, PROBE | {"step": 100, "spread": 0.001}])
    html, page = report(run)
    assert 'class="verdict bad"' in html and 'class="bad"' in html and 'class="good"' in html
    assert "Something is wrong The encoder has collapsed" in page.text


def test_probes_are_curves_and_guesses_are_lines(run: Path) -> None:
    probes = [PROBE | {"step": number, "linear": 0.3 + number / 1000} for number in (0, 50, 100)]
    write_log(run, [START, *(step(number) for number in range(1, 101)), *probes])
    html, page = report(run)
    charts = dict(re.findall(r'aria-label="([^"]*)".*?>(.*?)</svg>', html, re.DOTALL))
    assert {"Loss over steps", "Accuracy over steps", "Rank over steps"} <= set(charts)
    assert {"mean colour", "nearest pixel"} <= set(
        re.findall(r"<text[^>]*>([^<]*)</text>", charts["Loss over steps"])
    )
    assert "one grey" not in charts["Loss over steps"]
    assert {"linear probe", "k-NN", "40%"} <= set(
        re.findall(r"<text[^>]*>([^<]*)</text>", charts["Accuracy over steps"])
    )
    assert "Measured 3 times on 200 images in 4 classes; that took 6 s, 3.0% of the run." in page.text
    assert "Linear probe 40.0%" in page.text  # the key figure, as nothing was evaluated


def test_neighbours_of_the_newest_probe_are_shown(run: Path) -> None:
    (run / "images").mkdir()
    for number in (0, 50):
        Image.new("RGBA", (80, 40), (0, 0, 0, 255)).save(run / "images" / f"neighbours_{number:08d}.png")
    write_log(run, [START, step(1), PROBE | {"step": 50}])
    html, page = report(run)
    assert html.count("<img") == 1 and "the nearest first. Step 50." in page.text


def test_failed_run(run: Path) -> None:
    write_log(run, [START, step(1), {"event": "failed", "step": 1, "reason": "the loss", "time": 1003.0}])
    html, page = report(run)
    assert 'class="status failed"' in html and "The run ended early, at step 1. The loss" in page.text


@pytest.mark.parametrize(
    ("schedule", "shown", "hidden"),
    [
        (Schedule(epochs=200, warmup_epochs=10), "epochs 200 kind cosine warmup epochs 10", "steps"),
        (Schedule(epochs=200, steps=500, warmup_epochs=10), "steps 500 kind cosine", "epochs"),
    ],
)
def test_recipe_has_one_length(run: Path, schedule: Schedule, shown: str, hidden: str) -> None:
    recipe = Recipe.from_json(run / "recipe.json").model_copy(update={"schedule": schedule})
    (run / "recipe.json").write_text(recipe.to_json())
    _, page = report(run)
    table = page.text[page.text.index("schedule ") : page.text.index("checkpoint every")]
    assert shown in table and hidden not in table.replace("of the steps", "")
    assert ("warm-up 0.05 of the steps" in table) is (schedule.steps is not None)


def test_bad_images_are_named(run: Path) -> None:
    bad = [
        {"event": "bad_image", "step": 1, "name": f"cat <{index}>.jpg", "reason": "cut"} for index in range(5)
    ]
    write_log(run, [START, step(1), *bad])
    html, page = report(run)
    assert (
        "5 pictures could not be read and were skipped: cat <0>.jpg, cat <1>.jpg, cat <2>.jpg and 2 more."
        in (page.text)
    )
    assert "cat &lt;0&gt;.jpg" in html


def test_ten_thousand_lines_make_no_heavy_page(run: Path) -> None:
    lines = [step(number, 1.0 + (9.0 if number == 7777 else 0.0)) for number in range(1, 10_001)]
    write_log(run, [START, *lines])
    html, _ = report(run)
    assert len(html) < 120_000


def test_report_is_replaced(run: Path) -> None:
    (run / "report.html").write_text("old")
    html, _ = report(run)
    assert "old" not in html[:40]


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run folder: it has no recipe\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["recipe.json", "environment.json", "encoder.json"])
def test_damaged_file_is_named(run: Path, name: str) -> None:
    (run / name).write_text("{")
    with pytest.raises(UserError, match=re.escape(name)):
        write_report(run)


def test_repeated_step_counts_once(run: Path) -> None:
    write_log(run, [step(1), step(2, 5.0), step(2, 3.0)])
    log = read_log(run / "log.jsonl")
    assert [line["loss"] for line in log.steps] == [1.0, 3.0]


def test_running_mean_is_exact_on_what_it_should_keep() -> None:
    assert np.allclose(running_mean(np.full(200, 0.3)), 0.3)
    decay = np.exp(-np.arange(300) / 50)  # straight in the logarithm
    assert np.allclose(running_mean(decay)[10:-10], decay[10:-10])
    line = np.linspace(-1, 1, 300)
    assert np.allclose(running_mean(line)[10:-10], line[10:-10])


def test_running_mean_smooths_around_gaps() -> None:
    values = 1 + 0.1 * np.random.default_rng(0).standard_normal(600)
    values[100] = np.nan
    smooth = running_mean(values)
    assert np.isnan(smooth[100])
    assert np.isfinite(np.delete(smooth, 100)).all()
    assert np.nanstd(smooth) < 0.5 * np.nanstd(values)


def test_thinning_keeps_spikes_and_ends() -> None:
    x = np.arange(20_000.0)
    y = np.zeros(20_000)
    y[12_345], y[777] = 9.0, -9.0
    y[3000:4000] = np.nan
    thin_x, thin_y = thin(x, y)
    assert len(thin_x) <= POINTS + 2
    assert (thin_x[0], thin_x[-1]) == (0, 19_999)
    assert thin_y[thin_x == 12_345] == 9
    assert thin_y[thin_x == 777] == -9
    assert np.isnan(thin_y).any()
    assert (np.diff(thin_x) > 0).all()


def test_chart_takes_colours_and_font_from_the_page() -> None:
    svg = line_chart([1, 2, 3], [3.0, None, 1.0], name="Some curve", smooth=True)
    assert svg.startswith("<svg")
    assert "var(--accent)" in svg
    assert "font-family" not in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert all(identifier.startswith("Some-curve-") for identifier in re.findall(r'id="([^"]*)"', svg))


def test_wide_losses_get_a_logarithmic_axis() -> None:
    def labels(values: list[float | None]) -> list[str]:
        svg = line_chart(list(range(1, 101)), values, name="c", smooth=True)
        return re.findall(r"<text[^>]*>([^<]*)</text>", svg)

    assert {"0.01", "0.1", "1"} <= set(labels([10.0 ** (-number / 40) for number in range(100)]))
    assert "0.01" not in labels([1 - number / 200 for number in range(100)])
