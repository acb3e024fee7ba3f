"""The verdict on logs whose story is known, and on the logs of healthy runs."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.health import Finding, Verdict, verdict
from unmask.runs import read_log

TOTAL = 400
START = {"event": "start", "step": 0, "images": 900, "steps": TOTAL, "time": 0.0}
GUESSES = {"predicting one grey": 3.0, "predicting the mean colour": 1.2}
COPYING = {"copying the nearest visible pixel": 0.9}


def healthy_losses(steps: int = TOTAL) -> list[float]:
    noise = np.random.default_rng(0).normal(1, 0.05, steps)
    return list((0.6 + 2.4 * np.exp(-np.arange(steps) / 40)) * noise)


def probe(step: int, **figures: Any) -> dict[str, Any]:
    usual = {
        "probe_loss": 0.7,
        "trivial": GUESSES | COPYING,
        "chance": None,
        "images": 256,
        "effective_rank": 25.0,
    }
    usual |= {"spread": 0.4, "constant": 0.0, "copies": 0.0, "seconds": 1.0}
    return {"event": "probe", "step": step, **usual, **figures}


def judge(
    folder: Path,
    losses: list[float] | None = None,
    *events: dict[str, Any],
    norms: list[float] | None = None,
    total: int = TOTAL,
) -> Verdict:
    """The verdict on a log with these losses and events."""
    losses = healthy_losses() if losses is None else losses
    norms = [1.0 + 0.1 * (step % 3) for step in range(len(losses))] if norms is None else norms
    lines = [
        {
            "step": step + 1,
            "loss": loss if math.isfinite(loss) else None,
            "grad_norm": norm,
            "time": step + 1.0,
        }
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True))
    ]
    log = folder / "log.jsonl"
    log.write_text("\n".join(json.dumps(line) for line in [START | {"steps": total}, *lines, *events]))
    return verdict(read_log(log))


def about(found: Verdict, topic: str) -> Finding:
    return next(finding for finding in found.findings if finding.about == topic)


def test_nothing_is_found_before_the_first_step(tmp_path: Path) -> None:
    assert verdict(read_log(tmp_path / "log.jsonl")).findings == ()
    assert str(verdict(read_log(tmp_path / "log.jsonl"))) == "Healthy."


def test_healthy_run_is_called_so_with_its_numbers(tmp_path: Path) -> None:
    scores = [
        probe(0, probe_loss=3.1, linear=0.31, standard_error=0.03),
        probe(TOTAL, linear=0.52, standard_error=0.03),
    ]
    found = judge(tmp_path, None, *scores)
    assert (found.level, found.title) == ("good", "Healthy")
    text = str(found)
    assert "0.7, is 42% below that of predicting the mean colour (1.2) and 22% below that of copying" in text
    assert "The features tell images apart: they differ by 40.0% of their length, in 25.0 directions" in text
    assert (
        "a linear probe on the features classifies 52%; with random weights 31% (standard error 3%)" in text
    )
    assert "The gradient is steady" in text and "The loss is flat" in text


def test_loss_that_falls_to_the_end_asks_for_a_longer_run(tmp_path: Path) -> None:
    losses = [3 * 0.998**step for step in range(TOTAL)]
    found = judge(tmp_path, losses)
    assert "still falling" in about(found, "trend").what and "a longer run" in about(found, "trend").what
    assert "a longer run" not in about(judge(tmp_path, losses, total=2 * TOTAL), "trend").what


def test_divergence_is_named_while_it_lasts_and_afterwards(tmp_path: Path) -> None:
    losses = healthy_losses()
    rising = [loss * (1 if step < 300 else 1.03 ** (step - 300)) for step, loss in enumerate(losses)]
    found = judge(tmp_path, rising)
    assert found.level == "bad" and found.findings[0].about == "divergence"
    assert "diverges: it had been down to 0.587 and is 8.56 now" in found.findings[0].what
    assert "--lr" in found.findings[0].remedy
    settled = [losses[0], 2.0, 35.0, 200.0, 90.0, *([2.9] * (TOTAL - 5))]
    found = judge(tmp_path, settled)
    assert (
        "diverged: from" in about(found, "divergence").what
        and "200 at step 4" in about(found, "divergence").what
    )


def test_noise_and_a_single_spike_are_no_divergence(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    noisy = list(0.5 * np.exp(generator.normal(0, 0.4, TOTAL)))
    assert judge(tmp_path, noisy).level == "good"
    spiked = healthy_losses()
    spiked[390] *= 3
    assert judge(tmp_path, spiked).level == "good"


@pytest.mark.parametrize(("factor", "word"), [(1e4, "explodes"), (1e-5, "has vanished")])
def test_gradient_scale(tmp_path: Path, factor: float, word: str) -> None:
    norms = [1.0 if step < 350 else factor for step in range(TOTAL)]
    found = judge(tmp_path, None, norms=norms)
    assert found.level == "bad" and word in about(found, "gradient").what


def test_gradient_that_falls_with_the_loss_is_healthy(tmp_path: Path) -> None:
    assert judge(tmp_path, None, norms=[5 * 0.99**step + 0.02 for step in range(TOTAL)]).level == "good"


@pytest.mark.parametrize(
    "figures",
    [{"spread": 0.004}, {"spread": 0.03, "effective_rank": 9.0}, {"spread": 0.0, "effective_rank": 0.0}],
)
def test_collapse(tmp_path: Path, figures: dict[str, float]) -> None:
    found = judge(tmp_path, None, probe(0), probe(TOTAL, **figures))
    assert found.level == "bad" and "The encoder has collapsed" in about(found, "features").what


def test_features_on_one_line_deserve_a_look(tmp_path: Path) -> None:
    found = judge(tmp_path, None, probe(0), probe(TOTAL, effective_rank=1.1))
    assert found.level == "watch" and "almost on one line" in about(found, "features").what


def test_features_that_are_no_numbers(tmp_path: Path) -> None:
    broken = probe(TOTAL)
    del broken["spread"], broken["effective_rank"]
    found = judge(tmp_path, None, probe(0), broken)
    assert found.level == "bad" and "not finite" in about(found, "features").what


def test_images_of_one_colour_and_copies(tmp_path: Path) -> None:
    found = judge(tmp_path, None, probe(TOTAL, constant=1.0, copies=0.9))
    assert found.level == "bad"
    assert about(found, "images").what.startswith("100% of 256 images that were looked at are of one colour")
    assert judge(tmp_path, None, probe(TOTAL, constant=0.05)).level == "watch"
    found = judge(tmp_path, None, probe(TOTAL, copies=0.6))
    assert found.level == "watch" and "60% of 256" in about(found, "images").what


def test_loss_of_a_flat_guess_means_nothing_was_learned(tmp_path: Path) -> None:
    found = judge(tmp_path, None, probe(0), probe(TOTAL, probe_loss=1.19))
    assert found.level == "bad" and "no better than that of predicting the mean colour, 1.2" in str(found)
    early = judge(tmp_path, healthy_losses(100), probe(0), probe(100, probe_loss=1.19))
    assert early.level == "watch" and "yet" in about(early, "loss").what
    assert judge(tmp_path, None, probe(TOTAL, probe_loss=1.0)).level == "good"  # below flat, above copying


def test_chance_level_of_classes(tmp_path: Path) -> None:
    found = judge(tmp_path, None, probe(TOTAL, trivial={}, chance=math.log(8192), probe_loss=9.01))
    assert found.level == "bad" and "guessing among all classes, 9.01" in str(found)


def test_rejected_steps(tmp_path: Path) -> None:
    def rejected(*steps: int) -> list[dict[str, Any]]:
        return [{"event": "rejected", "step": step, "loss": "nan", "batch": None} for step in steps]

    assert about(judge(tmp_path, None, *rejected(7, 90)), "not finite").level == "watch"
    found = judge(tmp_path, None, *rejected(3, *range(20, 35)))
    assert about(found, "not finite").level == "bad"
    assert "In 16 of 400 steps" in found.findings[0].what and "up to 15 in a row" in found.findings[0].what
    failed = {"event": "failed", "step": 30, "reason": "the loss"}
    found = judge(tmp_path, healthy_losses(30), *rejected(*range(11, 31)), failed)
    assert {finding.about for finding in found.findings if finding.level == "bad"} == {"end", "not finite"}


def test_features_worse_than_random_ones_deserve_a_look(tmp_path: Path) -> None:
    def scored(score: float) -> Verdict:
        first = probe(0, linear=0.5, standard_error=0.03)
        return judge(tmp_path, None, first, probe(TOTAL, linear=score, standard_error=0.03))

    assert scored(0.39).level == "watch"
    assert scored(0.45).level == "good"


def test_losses_below_zero_are_compared_by_what_was_gained(tmp_path: Path) -> None:
    """Likelihoods of dVAEs start near 0 and fall below: no factor of them means anything."""
    falling = [loss - 3.1 for loss in healthy_losses()]  # from about 0 to -2.5
    found = judge(tmp_path, falling)
    assert found.level == "good" and not any(finding.about == "divergence" for finding in found.findings)
    assert about(judge(tmp_path, [*falling[:300], *[3.0] * 100]), "divergence").level == "bad"
    sinking = [-1 - 0.01 * step for step in range(TOTAL)]
    assert "still falling" in about(judge(tmp_path, sinking), "trend").what
