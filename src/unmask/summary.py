"""A run in words and key figures, for the report."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from unmask.methods import METHODS
from unmask.runs import Line, Log, number

KINDS = {"knn": "k-nearest neighbours", "linear": "Linear probe"}


def header(recipe: Line, log: Log) -> dict[str, Any]:
    """Title, status and the paragraph that says in plain language what was trained."""
    facts = log.last("start", "resume")
    method, encoder = _method_title(recipe), recipe["encoder"]["name"]
    data = Path(str(facts["data"])).name if facts.get("data") else ""
    return {
        "title": method,
        "encoder": encoder,
        "data": data,
        "status": log.status,
        "summary": " ".join(_sentences(recipe, log, data)),
    }


def _method_title(recipe: Line) -> str:
    name = recipe["method"]["name"]
    return METHODS[name].__name__ if name in METHODS else name


def _sentences(recipe: Line, log: Log, data: str) -> Iterable[str]:
    facts = log.last("start", "resume")
    height, width = recipe["data"]["image_size"]
    images = number(facts, "images")
    pictures = f"{images:,.0f} pictures" if images else "pictures"
    start = "continued from trained weights" if recipe["encoder"].get("pretrained") else "from scratch"
    verb = {"finished": "was trained", "unfinished": "is being trained"}.get(log.status, "was being trained")
    yield (
        f"A {recipe['encoder']['name']} {verb} {start} with {_method_title(recipe)} on {pictures}"
        f"{f' of {data}' if data else ''}, without labels, at {height} × {width} pixels."
    )
    if not log.steps:
        yield "No training step has been logged yet."
        return
    last, total = log.steps[-1]["step"], number(facts, "steps")
    of_total = f" of {total:,.0f}" if total and last < total else ""
    epochs = f" ({epoch:.3g} epochs)" if (epoch := number(log.steps[-1], "epoch")) else ""
    seconds = f" in {_duration(log.seconds)}" if log.seconds else ""
    device = f" on {facts['device']}" if facts.get("device") else ""
    seen = images_seen(recipe, log)
    yield f"It took {last:,}{of_total} steps{epochs} and saw {seen:,} images{seconds}{device}."
    losses = log.numbers("loss")
    if len(losses) > 1:
        first, final = _first_and_final(losses)
        yield f"The loss went from {first:.3g} to {final:.3g}."
    wait = log.numbers("data_wait")
    if wait:
        share = mean(wait)
        yield f"{_loading(share)}: {share:.1%} of the time was spent waiting for data."


def _loading(share: float) -> str:
    if share < 0.05:
        return "The loading of pictures kept up"
    return "The loading of pictures held the model up" + (" badly" if share > 0.3 else "")


def warnings(log: Log) -> Iterable[str]:
    """What a person should know before trusting the run."""
    lost = sum("loss" in line and number(line, "loss") is None for line in log.steps)
    if lost:
        yield (
            f"In {lost:,} of {len(log.steps):,} logged steps the loss was not a finite number. A lower "
            "learning rate, gradient clipping (optim.clip=1) or --precision fp32 usually helps."
        )
    bad = log.all("bad_image")
    if bad:
        names = ", ".join(str(event.get("name", event.get("path", "?"))) for event in bad[:3])
        more = f" and {len(bad) - 3:,} more" if len(bad) > 3 else ""
        one, were = ("picture", "was") if len(bad) == 1 else ("pictures", "were")
        yield f"{len(bad):,} {one} could not be read and {were} skipped: {names}{more}."
    if log.status == "interrupted":
        stopped = log.last("stopped")
        reason = f" ({stopped['reason']})" if stopped.get("reason") else ""
        yield f"The run was interrupted{reason}; --resume continues it where it stopped."


def tiles(recipe: Line, log: Log) -> Iterable[dict[str, str]]:
    """The key figures, each with a label and a note; none before the first step."""
    if not log.steps:
        return
    losses, speeds, waits = log.numbers("loss"), log.numbers("images_per_s"), log.numbers("data_wait")
    memory = log.numbers("memory_mb")
    facts = log.last("start", "resume")
    final = f"{_first_and_final(losses)[1]:.4g}" if losses else "not finite"
    images = number(facts, "images")
    bad = len(log.all("bad_image"))
    seen = images_seen(recipe, log)
    yield _tile("Final loss", final, f"first {losses[0]:.4g}" if losses else "")
    yield _tile("Images seen", _short(seen), f"{seen / images:.3g} × the data set" if images else "")
    time = _duration(log.seconds) if log.seconds else "–"
    yield _tile("Training time", time, f"{log.steps[-1]['step']:,} steps")
    yield _tile("Images a second", _short(median(speeds)) if speeds else "–", "median")
    yield _tile("Waiting for data", f"{mean(waits):.1%}" if waits else "–", "of the time")
    yield _tile("Peak memory", f"{max(memory) / 1024:.3g} GB" if memory else "–", "")
    yield _tile("Bad pictures", f"{bad:,}", "skipped" if bad else "none skipped")
    best = max(log.all("evaluation"), key=score, default=None)
    if best is None:
        yield _tile("Accuracy", "–", "not evaluated yet")
    else:
        yield _tile(KINDS.get(best["kind"], best["kind"]), f"{score(best):.1%}", "accuracy, frozen features")


def score(event: Line) -> float:
    """Accuracy of an evaluation, 0 if it has none."""
    return number(event, "score") or 0.0


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def images_seen(recipe: Line, log: Log) -> int:
    """Images trained on so far, repetitions counted."""
    return int(log.steps[-1]["step"]) * int(recipe["optim"]["batch_size"])


def _first_and_final(losses: Sequence[float]) -> tuple[float, float]:
    """The first loss and the mean of the last fiftieth, since single batches scatter."""
    return losses[0], mean(losses[-max(1, len(losses) // 50) :])


def _short(value: float) -> str:
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 10 * unit or (value >= unit > 1e3):
            return f"{value / unit:.3g}{name}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
