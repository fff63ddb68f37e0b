"""Progress: a bar in a terminal, rare updates elsewhere, and the items unchanged."""

import io
import sys

import pytest

from carot_lib.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_lines_that_name_the_work_and_the_number(capsys: pytest.CaptureFixture[str]):
    list(track("abc", 3, "drawing v2", "chunks"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    start, end = err.splitlines()  # quick work: between the two, an update every five seconds
    assert start.startswith("drawing v2: 0/3 chunks |          |")
    assert end.startswith("drawing v2: 3/3 chunks |##########|")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    list(track("abc", 3, "reading", "letters"))
    assert "\rreading: 3/3 letters |##########|" in terminal.getvalue()


def test_one_item_is_taken_at_a_time():
    taken = []
    items = track((taken.append(i) or i for i in range(5)), 5, "taking", "items")
    assert taken == []
    next(items)
    assert taken == [0]
    next(items)
    assert taken == [0, 1]
