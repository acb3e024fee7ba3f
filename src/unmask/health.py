"""How a run is doing, in plain words: a verdict from its log, at any stage of it.

Every finding is one sentence with the numbers that it rests on, and says what to do where something is wrong.
The thresholds are meant to let every healthy run pass: what they catch is broken, not merely slow.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from statistics import median

from unmask.findings import LEVELS, Finding, Level, Verdict
from unmask.health_codes import code_findings
from unmask.runs import Line, Log, number
from unmask.trivial import COPYING

__all__ = ["Finding", "Level", "Verdict", "guesses_of", "probes_of", "score_of", "verdict"]

BLOCKS = 20  # the training lines are compared in so many stretches, by their medians
FEWEST_LINES = 20  # training lines, before which no trend is looked for
DIVERGED = 1.5  # times the lowest loss so far
JUMPED = 5.0  # times the first losses
EXPLODED = 100.0  # times the gradient norm of before
VANISHED = 1e-3  # of the gradient norm of before
FALLING = 0.01  # of the loss, over the last quarter
LEARNED = 0.98  # of the loss of a flat guess
LATE, FEWEST_STEPS = 0.5, 200  # of a run, steps: from then on the loss must be below that of a flat guess
SAME = 0.01  # spread of features below which all images look the same to the encoder
SHRUNK, FEWER = 0.1, 0.5  # of the spread, and of the effective rank, of random weights
FEW_DIRECTIONS = 1.5  # effective rank
MANY_CONSTANT, SOME_CONSTANT = 0.5, 0.02  # of the images
MANY_COPIES = 0.3  # of the images
A_FEW, OFTEN = 10, 0.01  # steps, and of the steps; in fp16 the first ones seek the scale of the loss

SMALLER_RATE = "Start anew with a smaller --lr (a tenth), or with optim.clip=1."


def verdict(log: Log) -> Verdict:
    """What a run's log says about its health.

    Before the first training line there is nothing to find.
    """
    found = [
        *_stopped(log),
        *_rejected(log),
        *_divergence(log),
        *_images(log),
        *_worth(log),
        *_features(log),
        *code_findings(log),
        *_scores(log),
        *_trend(log),
        *_gradient(log),
    ]
    return Verdict(tuple(sorted(found, key=lambda finding: -LEVELS.index(finding.level))))


def _stopped(log: Log) -> Iterable[Finding]:
    if log.status == "failed":
        failed = log.last("failed")
        reason = str(failed.get("reason") or "")
        yield Finding("end", "bad", f"The run ended early, at step {failed['step']:,}.", _sentence(reason))


def _rejected(log: Log) -> Iterable[Finding]:
    steps = sorted({event["step"] for event in log.all("rejected")})
    if not steps:
        return
    trained = max([*steps, *(line["step"] for line in log.steps)])
    runs = [len(list(run)) for _, run in groupby(enumerate(steps), key=lambda pair: pair[1] - pair[0])]
    what = (
        f"In {len(steps):,} of {trained:,} steps the loss or its gradient was not a finite number, first at "
        f"step {steps[0]:,} and up to {max(runs):,} in a row; the weights were left alone there."
    )
    kept = any(event.get("batch") for event in log.all("rejected"))
    batches = " The batches of the first are in failures/." if kept else ""
    if len(steps) > max(A_FEW, OFTEN * trained):
        yield Finding(
            "not finite", "bad", what, f"{SMALLER_RATE} --precision fp32 rules out rounding.{batches}"
        )
    else:
        yield Finding("not finite", "watch", what, f"A few such steps do no harm.{batches}")


def _divergence(log: Log) -> Iterable[Finding]:
    losses = _series(log, "loss")
    if len(losses) < FEWEST_LINES:
        return
    first = median(loss for _, loss in losses[:3])
    step, highest = max(losses[1:], key=lambda pair: pair[1])
    blocks = _medians([loss for _, loss in losses])
    lowest, now = min(blocks), blocks[-1]
    chance = 3 * _scatter([loss for _, loss in losses])
    # Likelihoods may be negative: there "times as high" means nothing, and what was gained is the measure.
    positive = lowest > 0 and first > 0
    bound = max(DIVERGED * lowest, lowest + chance) if positive else first + max(first - lowest, chance)
    if now > bound:
        what = f"The loss diverges: it had been down to {lowest:.3g} and is {now:.3g} now."
        yield Finding("divergence", "bad", what, SMALLER_RATE)
    elif positive and highest > JUMPED * first:
        yield Finding(
            "divergence",
            "bad",
            f"The loss diverged: from {first:.3g} at first it jumped to {highest:.3g} at step {step:,}, and "
            f"is {now:.3g} now. The learning rate is too high.",
            SMALLER_RATE,
        )


def _gradient(log: Log) -> Iterable[Finding]:
    norms = _series(log, "grad_norm")
    if len(norms) < FEWEST_LINES:
        return
    blocks = _medians([norm for _, norm in norms])
    usual, now = median(blocks), blocks[-1]
    if usual > 0 and now > EXPLODED * usual:
        what = f"The gradient explodes: its norm was {usual:.2g} and is {now:.2g} now."
        yield Finding("gradient", "bad", what, SMALLER_RATE)
    elif now < VANISHED * max(blocks):
        what = f"The gradient has vanished: its norm was up to {max(blocks):.2g} and is {now:.2g} now."
        yield Finding(
            "gradient",
            "bad",
            what,
            "Nothing is learned any more. Look at the findings about images and features; otherwise start "
            "anew with another --lr or less optim.weight_decay.",
        )
    else:
        yield Finding(
            "gradient", "good", f"The gradient is steady: its norm is {now:.2g}, usually {usual:.2g}."
        )


def _images(log: Log) -> Iterable[Finding]:
    probe = log.last("probe")
    count = probe.get("images") or 0
    constant, copies = number(probe, "constant") or 0.0, number(probe, "copies") or 0.0
    if constant > SOME_CONSTANT:
        many = constant >= MANY_CONSTANT
        what = f"{constant:.0%} of {count:,} images that were looked at are of one colour throughout"
        what += ": there is nothing in them to predict." if many else "."
        yield Finding(
            "images",
            "bad" if many else "watch",
            what,
            "Look at the data: are these the files that were meant?",
        )
    if copies - constant > MANY_COPIES:
        what = f"{copies:.0%} of {count:,} images that were looked at are exact copies of others."
        yield Finding("images", "watch", what, "Copies cost time and teach nothing new; remove them.")


def _features(log: Log) -> Iterable[Finding]:
    probes = probes_of(log)
    if not probes:
        return
    now, first = number(probes[-1], "spread"), number(probes[0], "spread")
    rank = number(probes[-1], "effective_rank")
    if now is None or rank is None:
        if probes[-1].get("images") and "codes" not in probes[-1]:
            what = "The features of whole images are not finite numbers."
            yield Finding("features", "bad", what, f"The weights are broken. {SMALLER_RATE}")
        return
    numbers = f"they differ by {now:.1%} of their length, in {rank:.1f} directions"
    before = f" ({first:.1%} before the training)" if first and len(probes) > 1 else ""
    first_rank = number(probes[0], "effective_rank") or 0.0
    shrunk = first is not None and now < SHRUNK * first and rank < FEWER * first_rank
    if now < SAME or shrunk:
        yield Finding(
            "features",
            "bad",
            f"The encoder has collapsed: features of different images are nearly equal; {numbers}{before}.",
            "Such features are useless. Start anew with a smaller --lr, or with the recipe's "
            "optim.weight_decay if you changed it; see also the findings about images and loss.",
        )
    elif rank < FEW_DIRECTIONS:
        yield Finding(
            "features",
            "watch",
            f"The features of different images lie almost on one line: {numbers}{before}.",
            "Unless the images differ in one thing only, try a smaller --lr.",
        )
    else:
        yield Finding("features", "good", f"The features tell images apart: {numbers}{before}.")


def _worth(log: Log) -> Iterable[Finding]:
    """The loss against those that need no learning."""
    probe = probes_of(log)[-1:] or [{}]
    loss, guesses = number(probe[0], "probe_loss"), guesses_of(probe[0])
    share = _share_done(log)
    if loss is None or not guesses or not probe[0]["step"] or share is None:
        return
    flat_name, flat = min(
        ((name, value) for name, value in guesses.items() if name != COPYING), key=lambda pair: pair[1]
    )
    best = guesses.get(COPYING, flat)
    if flat <= 0:
        return  # nothing in the images to predict: a finding of its own
    beaten = f"{1 - loss / flat:.0%} below that of {flat_name} ({flat:.3g})"
    if loss >= LEARNED * flat:
        what = f"The loss, {loss:.3g}, is no better than that of {flat_name}, {flat:.3g}: nothing about the "
        what += "images has been learned" + (" yet." if share < 1 else ".")
        remedy = "Train longer, or try another --lr (a third, and three times as much)."
        early = share < LATE or probe[0]["step"] < FEWEST_STEPS
        yield Finding("loss", "watch" if early else "bad", what, remedy)
    elif best < loss:
        what = f"The loss, {loss:.3g}, is {beaten}, but not yet below that of {COPYING} ({best:.3g})."
        yield Finding("loss", "good", what)
    elif best < flat:
        what = f"The loss, {loss:.3g}, is {beaten} and {1 - loss / best:.0%} below that of {COPYING}."
        yield Finding("loss", "good", what)
    else:
        yield Finding("loss", "good", f"The loss, {loss:.3g}, is {beaten}.")


def _trend(log: Log) -> Iterable[Finding]:
    losses = [loss for _, loss in _series(log, "loss")]
    if len(losses) < FEWEST_LINES:
        return
    quarter = losses[-max(len(losses) // 4, 4) :]
    before, now = median(quarter[: len(quarter) // 2]), median(quarter[len(quarter) // 2 :])
    fell = (before - now) / abs(before) if before else 0.0
    if fell > FALLING:
        more = ": a longer run would go on learning." if _share_done(log) == 1 else "."
        yield Finding(
            "trend",
            "good",
            f"The loss is still falling, by {fell:.1%} over the last eighth of the steps{more}",
        )
    else:
        yield Finding(
            "trend", "good", f"The loss is flat: {now:.3g}, {before:.3g} an eighth of the steps before."
        )


def _scores(log: Log) -> Iterable[Finding]:
    """Accuracies of probes, against those of random weights."""
    scored = [probe for probe in probes_of(log) if score_of(probe) is not None]
    if len(scored) < 2 or scored[0]["step"] != 0:
        return
    first, now = score_of(scored[0]), score_of(scored[-1])
    error = number(scored[-1], "standard_error") or 0.0
    assert first is not None and now is not None
    kind = "a linear probe" if "linear" in scored[-1] else "k-NN"
    what = f"Of held-out images, {kind} on the features classifies {now:.0%}; with random weights {first:.0%}"
    what += f" (standard error {error:.0%})."
    if now < first - 3 * error and _share_done(log) == 1:
        remedy = (
            "For these labels the run has not paid so far; longer runs and larger learning rates often do."
        )
        yield Finding("accuracy", "watch", what, remedy)
    else:
        yield Finding("accuracy", "good", what)


def probes_of(log: Log) -> list[Line]:
    """The probes of a run in the order of their steps; of a step that was trained again the last counts."""
    by_step = {event["step"]: event for event in log.all("probe")}
    return [by_step[step] for step in sorted(by_step)]


def score_of(probe: Line) -> float | None:
    """The accuracy by which probes are compared: the linear one, or of too few images k-NN's."""
    return number(probe, "linear" if "linear" in probe else "knn")


def guesses_of(probe: Line) -> dict[str, float]:
    """Losses that need no learning, by what does so well."""
    found = {name: number(probe.get("trivial") or {}, name) for name in probe.get("trivial") or {}}
    found["guessing among all classes"] = number(probe, "chance")
    return {name: loss for name, loss in found.items() if loss is not None}


def _series(log: Log, key: str) -> list[tuple[int, float]]:
    """(step, value) of the training lines that have it."""
    return [(line["step"], value) for line in log.steps if (value := number(line, key)) is not None]


def _medians(values: Sequence[float]) -> list[float]:
    """Medians of about `BLOCKS` stretches, none shorter than five values."""
    count = max(1, min(BLOCKS, len(values) // 5))
    return [
        median(values[len(values) * index // count : len(values) * (index + 1) // count])
        for index in range(count)
    ]


def _scatter(values: Sequence[float]) -> float:
    """How much a value differs from the next: what chance does."""
    return median(abs(after - before) for before, after in pairwise(values))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _share_done(log: Log) -> float | None:
    total = number(log.last("start", "resume"), "steps")
    return log.steps[-1]["step"] / total if total and log.steps else None
