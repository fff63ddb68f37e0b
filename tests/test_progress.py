"""Progress: lines for a log, a bar for a terminal, and never another item than the work's."""

import io
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carot_lib import progress
from carot_lib.progress import track


class Clock:
    """A clock that stands still but for what the work adds."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_of_a_log_by_hand(clock: Clock, capsys: pytest.CaptureFixture[str]):
    # 7 items of 2 s: the first reading past 5 s is at 6 s, after 3 items; the rest takes
    # 6 / 3 * 4 = 8 s. The next is at 12 s, after 6 items; the end, at 14 s, is always told.
    for _ in track(range(7), 7, "drawing v2", "chunks"):
        clock.now += 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "drawing v2: 3/7 chunks, 6 s, about 8 s left",
        "drawing v2: 6/7 chunks, 12 s, about 2 s left",
        "drawing v2: 7/7 chunks, 14 s",
    ]


def test_quick_work_is_one_line(clock: Clock, capsys: pytest.CaptureFixture[str]):
    for _ in track("abc", 3, "reading", "letters"):
        clock.now += 0.1
    assert capsys.readouterr().err == "reading: 3/3 letters, 0 s\n"


def test_time_spent_by_the_source_counts_too(clock: Clock, capsys: pytest.CaptureFixture[str]):
    def slow() -> Iterator[int]:
        for i in range(2):
            clock.now += 30
            yield i

    list(track(slow(), 2, "loading", "files"))
    # 30 s for 1 of 2: 30 s left
    assert capsys.readouterr().err.splitlines()[0] == "loading: 1/2 files, 30 s, about 30 s left"


def test_no_work_is_no_line(capsys: pytest.CaptureFixture[str]):
    assert list(track([], 0, "nothing", "items")) == []
    assert capsys.readouterr().err == ""


def test_one_item_is_taken_at_a_time():
    taken = []
    items = track((taken.append(i) or i for i in range(5)), 5, "taking", "items")
    assert taken == []
    next(items)
    assert taken == [0]
    next(items)
    assert taken == [0, 1]


def test_an_error_of_the_work_passes_through():
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("no such picture")

    with pytest.raises(OSError, match="no such picture"):
        list(track(failing(), 2, "reading", "files"))


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(track("abc", 3, "reading", "letters")) == ["a", "b", "c"]
    bar = terminal.getvalue()
    assert "\r" in bar
    assert "reading" in bar
    assert "3/3" in bar
    assert "letters" in bar


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers()), st.booleans())
def test_the_items_are_those_of_the_work(items: list[int], is_terminal: bool):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", Terminal() if is_terminal else io.StringIO())
        assert list(track(iter(items), len(items), "passing", "numbers")) == items
