"""What a person sees of a run."""

import re

import pytest

from unmask.engine.progress import ProgressLine


def test_first_loss_is_shown_at_once_and_the_last_step_always(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine(step=0, total=1000, shown=True) as line:
        line.say("mae on [photos]")
        line.rates(images_per_s=1234.4, data_wait=0.256, memory_mb=2048)
        line.step(1, 0.5)
        first = capsys.readouterr().err
        for step in range(2, 1001):
            line.step(step, 0.25)
    shown = first.splitlines()
    assert shown[0] == "mae on [photos]"
    assert re.fullmatch(
        r"step 1/1,000  loss 0\.5000  1,234 images/s  data wait 26%  2 GB  left (\d+ min )?\d+ s", shown[1]
    )
    rest = capsys.readouterr().err.splitlines()
    assert len(rest) == 1  # quicker than one print in ten seconds
    assert rest[0].startswith("step 1,000/1,000  loss 0.2500")
    assert rest[0].endswith("left 0 s")


def test_nothing_is_shown_when_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine(step=0, total=2, shown=False) as line:
        line.say("mae")
        line.step(1, 0.5)
        line.step(2, 0.5)
    assert capsys.readouterr() == ("", "")
