"""A tokenizer's verdict says what is wrong with its codes, and nothing where all is well."""

from typing import Any

import pytest
import torch

from unmask.codes.statistics import CodeCount
from unmask.health import verdict
from unmask.runs import Log

GOOD = {"tokenizer": 0.01, "mean colour": 0.08, "mean colour of every place": 0.02}


def log_of(codes: torch.Tensor, vocabulary: int, errors: dict[str, float], *, step: int = 1000) -> Log:
    use = CodeCount(vocabulary)
    use.add(codes)
    facts: dict[str, Any] = {"codes": use.facts(), "reconstruction": errors, "images": len(codes)}
    start, probe = {"event": "start", "step": 0, "steps": 1000}, {"event": "probe", "step": step, **facts}
    return Log(({"step": step, "loss": 1.0},), (start, probe), 1.0)


def found(*given: Any, **named: Any) -> dict[str, tuple[str, str]]:
    findings = verdict(log_of(*given, **named)).findings
    return {finding.about: (finding.level, finding.what) for finding in findings}


def even(vocabulary: int, images: int = 64) -> torch.Tensor:
    return torch.arange(images * 64).remainder(vocabulary).view(images, 64)


def test_codes_in_use_are_healthy() -> None:
    result = found(even(512), 512, GOOD)
    assert result["codes"][0] == result["reconstruction"][0] == "good"
    assert "512 of 512 codes at 4,096 places, perplexity 512" in result["codes"][1]
    assert "88% below" in result["reconstruction"][1] and "features" not in result


@pytest.mark.parametrize(
    ("codes", "vocabulary", "level", "what"),
    [
        (torch.zeros(64, 64, dtype=torch.long), 512, "bad", "collapsed"),
        (even(20), 512, "bad", "Most of the vocabulary is dead"),
        (even(128), 512, "watch", "384 were not met"),
    ],
)
def test_codes_out_of_use_are_told(codes: torch.Tensor, vocabulary: int, level: str, what: str) -> None:
    assert found(codes, vocabulary, GOOD)["codes"][0] == level
    assert what in found(codes, vocabulary, GOOD)["codes"][1]
    assert found(codes, vocabulary, GOOD, step=100)["codes"][0] == "watch"  # too early to be sure


def test_few_places_are_no_proof_of_dead_codes() -> None:
    codes = torch.randint(8192, (64, 64), generator=torch.Generator().manual_seed(0))
    level, what = found(codes, 8192, GOOD)["codes"]
    assert level == "good" and "evenly used, so few places would show 3,2" in what


def test_pictures_no_better_than_one_colour_are_told() -> None:
    assert found(even(64), 64, GOOD | {"tokenizer": 0.08})["reconstruction"][0] == "bad"
    assert (
        "more than that of a mean colour"
        in found(even(64), 64, GOOD | {"tokenizer": 0.03})["reconstruction"][1]
    )
    assert "reconstruction" not in found(even(64), 64, {})


def test_use_has_closed_forms() -> None:
    use = CodeCount(4)
    use.add(torch.tensor([[0, 0, 1], [0, 0, 1]]))
    share = torch.tensor([2 / 3, 1 / 3])
    assert use.perplexity == pytest.approx(float((-(share * share.log()).sum()).exp()))
    assert (use.used, use.places, use.largest) == (2, 6, pytest.approx(2 / 3))
    assert use.expected == pytest.approx(4 * (1 - 0.75**6))
    assert use.ranked().tolist() == [0, 1, 2, 3]
