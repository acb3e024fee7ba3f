"""The health of a tokenizer: are its codes used, and do they keep what is in the pictures?"""

from collections.abc import Iterable

from unmask.findings import Finding
from unmask.runs import Line, Log, number

COLLAPSED = 2.0  # perplexity below which all places have nearly the same code
FEW, SOME = 0.1, 0.5  # of the codes that could be in use: below, most of the vocabulary is dead
LEARNED = 0.98  # of the error of a flat guess
EARLY, FEWEST_STEPS = 0.25, 200  # of a run, steps: before that nothing is wrong yet

SMALLER = (
    "Take a smaller vocabulary (tokenizer.vocabulary, half or a quarter), more pictures or a longer run."
)


def code_findings(log: Log) -> Iterable[Finding]:
    """What the newest probe says of a tokenizer's codes; nothing for other runs."""
    probe = log.last("probe")
    if probe.get("codes"):
        total = number(log.last("start", "resume"), "steps") or 0
        early = probe["step"] < max(EARLY * total, FEWEST_STEPS)
        yield from _use(probe["codes"], early)
        yield from _reconstruction(probe.get("reconstruction") or {}, early)


def _use(codes: Line, early: bool) -> Iterable[Finding]:
    vocabulary, used, places = codes["vocabulary"], codes["used"], codes["places"]
    perplexity, share = codes["perplexity"], used / max(codes["expected"], 1)
    numbers = f"{used:,} of {vocabulary:,} codes at {places:,} places, perplexity {perplexity:,.3g}"
    if codes["expected"] < 0.9 * vocabulary:
        numbers += f" (evenly used, so few places would show {codes['expected']:,.0f})"
    dead = f"{vocabulary - used:,} were not met"
    if perplexity < COLLAPSED and vocabulary > COLLAPSED:
        what = f"The codes have collapsed: nearly all places have the same one; {numbers}."
        remedy = (
            "Such codes say nothing of a picture. Start anew with a smaller --lr, or with the recipe's "
            "settings if you changed them."
        )
        yield Finding("codes", "watch" if early else "bad", what, remedy)
    elif share < FEW:
        what = f"Most of the vocabulary is dead: {numbers}; {dead}."
        yield Finding("codes", "watch" if early else "bad", what, SMALLER)
    elif share < SOME:
        what = f"Much of the vocabulary is not in use: {numbers}; {dead}."
        yield Finding("codes", "watch", what, SMALLER)
    else:
        yield Finding("codes", "good", f"The vocabulary is in use: {numbers}.")


def _reconstruction(errors: Line, early: bool) -> Iterable[Finding]:
    """The pictures that the codes decode to, against pictures that need no tokenizer."""
    if not errors:
        return
    own, flat = number(errors, "tokenizer"), number(errors, "mean colour")
    mosaic = number(errors, "mean colour of every place")
    if own is None or flat is None or mosaic is None or flat <= 0:
        return
    numbers = f"the squared error of pictures from their codes is {own:.2g}"
    if own >= LEARNED * flat:
        what = f"The codes keep nothing of the pictures: {numbers}, that of one mean colour {flat:.2g}."
        remedy = "Train longer, or try another --lr (a third, and three times as much)."
        yield Finding("reconstruction", "watch" if early else "bad", what, remedy)
        return
    what = f"The codes keep the pictures: {numbers}, {1 - own / flat:.0%} below that of one mean colour"
    rest = "less" if own < mosaic else "more"
    yield Finding(
        "reconstruction",
        "good",
        f"{what}, and {rest} than that of a mean colour for every place, {mosaic:.2g}.",
    )
