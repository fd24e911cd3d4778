"""What a long job says."""

import io

import pytest

from experiments import progress
from experiments.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until it is moved."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_clock():
    assert [clock(s) for s in (0, 59.4, 59.6, 754)] == ["0:00", "0:59", "1:00", "12:34"]


def test_time_left_in_the_stage_and_in_all(now):
    out = io.StringIO()
    shown = Progress([("first", 10), ("second", 30)], out)
    shown.start()
    now[0] += 6
    shown.epoch(1, 2, "loss 0.5")
    now[0] += 6
    shown.epoch(2, 2, "loss 0.4")
    shown.start()
    now[0] += 12
    shown.epoch(1, 3, "loss 0.3")
    assert out.getvalue().splitlines() == [
        "[1/2] first  epoch 1/2  loss 0.5  0:06 left, 0:42 in all",
        "[1/2] first  epoch 2/2  loss 0.4  took 0:12, 0:36 in all",
        "[2/2] second  epoch 1/3  loss 0.3  0:24 left, 0:24 in all",
    ]


def test_plain_lines_come_at_most_every_few_seconds(now):
    out = io.StringIO()
    shown = Progress([("only", 1)], out)
    shown.start()
    for epoch in range(1, 101):
        now[0] += 0.1
        shown.epoch(epoch, 100, "")
    assert len(out.getvalue().splitlines()) == 2
    assert "\r" not in out.getvalue()


def test_a_terminal_gets_one_line_rewritten(now, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    shown = Progress([("finished", 1), ("only", 1)], out)
    shown.skip("finished earlier")
    shown.start()
    for epoch in range(1, 4):
        now[0] += 1
        shown.epoch(epoch, 3, "")
    assert out.getvalue().count("\r\033[K[2/2] only") == 3
    assert out.getvalue().count("\n") == 2


def test_no_color_means_plain_lines(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Progress([], Terminal()).live
