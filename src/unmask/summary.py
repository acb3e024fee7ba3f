"""A run in words and key figures, for the report."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from unmask.health import probes_of, score_of
from unmask.methods import METHODS
from unmask.runs import Line, Log, number
from unmask.tokenizers import TOKENIZERS

SPLITS = (("train",), ("training",), ("validation",), ("val",), ("test",))
KINDS = {"knn": "k-nearest neighbours", "linear": "Linear probe", "sweep": "Best linear probe"}


def header(recipe: Line, log: Log, environment: Line) -> dict[str, Any]:
    """Title, status and the paragraph that says in plain language what was trained."""
    facts = log.last("start", "resume")
    data = data_name(facts)
    return {
        "title": learner_title(recipe),
        "tokenizer": is_tokenizer(recipe),
        "subtitle": "a tokenizer" if is_tokenizer(recipe) else recipe["encoder"]["name"],
        "data": data,
        "status": log.status,
        "summary": " ".join(_sentences(recipe, log, data, _machine(environment))),
    }


def is_tokenizer(recipe: Line) -> bool:
    """Whether a tokenizer was trained, and no encoder."""
    return "tokenizer" in recipe


def learner_title(recipe: Line) -> str:
    """The method or the tokenizer, by its name in the paper."""
    name = recipe["tokenizer" if is_tokenizer(recipe) else "method"]["name"]
    known: Mapping[str, type] = TOKENIZERS if is_tokenizer(recipe) else METHODS
    return known[name].__name__ if name in known else name


def _sentences(recipe: Line, log: Log, data: str, machine: str) -> Iterable[str]:
    facts = log.last("start", "resume")
    height, width = recipe["data"]["image_size"]
    images = number(facts, "images")
    pictures = f"{images:,.0f} pictures" if images else "pictures"
    verb = {"finished": "was trained", "unfinished": "is being trained"}.get(log.status, "was being trained")
    yield (
        f"{_who_learns(recipe, verb)} on {pictures}{f' of {data}' if data else ''}, without labels, at "
        f"{height} × {width} pixels."
    )
    if not log.steps:
        yield "No training step has been logged yet."
        return
    last, total = log.steps[-1]["step"], number(facts, "steps")
    of_total = f" of {total:,.0f}" if total and last < total else ""
    epochs = f" ({epoch:.3g} epochs)" if (epoch := number(log.steps[-1], "epoch")) else ""
    seconds = f" in {as_duration(log.seconds)}" if log.seconds else ""
    seen = images_seen(recipe, log)
    yield f"It took {last:,}{of_total} steps{epochs} and saw {seen:,} images{seconds}{machine}."
    losses = log.numbers("loss")
    if len(losses) > 1:
        first, final = first_and_final(losses)
        yield f"The loss went from {first:.3g} to {final:.3g}."
    share = waiting_share(log)
    if share is not None:
        yield f"{_loading(share)}: {share:.1%} of the time was spent waiting for data."


def _who_learns(recipe: Line, verb: str) -> str:
    if is_tokenizer(recipe):
        return f"The tokenizer {learner_title(recipe)} {verb}"
    encoder = recipe["encoder"]["name"]
    start = "continued from trained weights" if recipe["encoder"].get("pretrained") else "from scratch"
    return f"{'An' if encoder[0] in 'aeio' else 'A'} {encoder} {verb} {start} with {learner_title(recipe)}"


def data_name(event: Line) -> str:
    """What to call an event's data: the end of its path, two parts if the last only names a split."""
    parts = Path(str(event.get("data") or "")).parts
    return "/".join(parts[-2:] if parts[-1:] in SPLITS else parts[-1:])


def _machine(environment: Line) -> str:
    """ " on one NVIDIA H100", " on 2 CPU cores (AMD EPYC)", or nothing if it is not known."""
    processes = environment.get("processes") or 1
    if environment.get("gpu"):
        return f" on {processes} × {environment['gpu']}" if processes > 1 else f" on one {environment['gpu']}"
    threads = environment.get("threads")
    processor = f" ({environment['processor']})" if environment.get("processor") else ""
    return f" on {threads} CPU {'core' if threads == 1 else 'cores'}{processor}" if threads else ""


def _loading(share: float) -> str:
    if share < 0.05:
        return "The loading of pictures kept up"
    return "The loading of pictures held the model up" + (" badly" if share > 0.3 else "")


def warnings(log: Log) -> Iterable[str]:
    """What a person should know before trusting the run."""
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


def probes_in_words(log: Log) -> str:
    """What the probes looked at and what they cost; empty without any."""
    found = probes_of(log)
    if not found:
        return ""
    newest, seconds = found[-1], sum(number(probe, "seconds") or 0.0 for probe in found)
    share = f", {seconds / log.seconds:.1%} of the run" if log.seconds > seconds else ""
    classes = f" in {newest['classes']:,} classes" if newest.get("classes") else ""
    times = f"{len(found)} times" if len(found) > 1 else "once"
    return (
        f"Measured {times} on {newest['images']:,} images{classes}; that took {as_duration(seconds)}{share}."
    )


def tiles(recipe: Line, log: Log) -> Iterable[dict[str, str]]:
    """The key figures, each with a label and a note; none before the first step."""
    if not log.steps:
        return
    losses, speeds, share = log.numbers("loss"), log.numbers("images_per_s"), waiting_share(log)
    memory = log.numbers("memory_mb")
    facts = log.last("start", "resume")
    final = f"{first_and_final(losses)[1]:.4g}" if losses else "not finite"
    images = number(facts, "images")
    bad = len(log.all("bad_image"))
    seen = images_seen(recipe, log)
    now = "Final loss" if log.status == "finished" else "Loss now"
    yield _tile(now, final, f"first {losses[0]:.4g}" if losses else "")
    yield _tile("Images seen", _short(seen), f"{seen / images:.3g} × the data set" if images else "")
    time = as_duration(log.seconds) if log.seconds else "–"
    last = log.steps[-1]["step"]
    yield _tile("Training time", time, f"{last:,} {'step' if last == 1 else 'steps'}")
    yield _tile("Images a second", _short(median(speeds)) if speeds else "–", "median")
    yield _tile("Waiting for data", "–" if share is None else f"{share:.1%}", "of the time")
    yield _tile("Peak memory", as_memory(max(memory)) if memory else "–", "")
    yield _tile("Bad pictures", f"{bad:,}", "skipped" if bad else "none skipped")
    evaluations = log.all("evaluation")
    scored = [probe for probe in probes_of(log) if score_of(probe) is not None]
    if evaluations and not is_tokenizer(recipe):
        best = max(evaluations, key=score)
        yield _tile(kind_title(best), f"{score(best):.1%}", "accuracy, frozen features")
    elif scored and not is_tokenizer(recipe):
        kind = kind_title({"kind": "linear" if "linear" in scored[-1] else "knn"})
        yield _tile(kind, f"{score_of(scored[-1]):.1%}", f"accuracy at step {scored[-1]['step']:,}")
    elif is_tokenizer(recipe):
        use = log.last("probe").get("codes") or {}
        used = f"{use['used']:,}" if use else "–"
        yield _tile("Codes in use", used, f"of {use['vocabulary']:,}" if use else "not counted yet")
    else:
        yield _tile("Accuracy", "–", "not evaluated yet")


def kind_title(event: Line) -> str:
    """The name of an evaluation, for people."""
    return KINDS.get(str(event["kind"]), str(event["kind"]))


def score(event: Line) -> float:
    """Accuracy of an evaluation, 0 if it has none."""
    return number(event, "score") or 0.0


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def images_seen(recipe: Line, log: Log) -> int:
    """Images trained on so far, repetitions counted."""
    return int(log.steps[-1]["step"]) * int(recipe["optim"]["batch_size"])


def waiting_share(log: Log) -> float | None:
    """Share of the time spent waiting for data; every line counts for the steps since the one before."""
    total, steps, before = 0.0, 0, 0
    for line in log.steps:
        share = number(line, "data_wait")
        if share is not None:
            total += share * (line["step"] - before)
            steps += line["step"] - before
        before = line["step"]
    return total / steps if steps else None


def first_and_final(losses: Sequence[float]) -> tuple[float, float]:
    """The first loss and the mean of the last fiftieth, since single batches scatter."""
    return losses[0], mean(losses[-max(1, len(losses) // 50) :])


def _short(value: float) -> str:
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def as_memory(megabytes: float) -> str:
    """Megabytes for people."""
    return f"{megabytes / 1024:.3g} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"


def as_duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
