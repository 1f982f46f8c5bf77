"""Tables fit a terminal, and a silent wait shows how long it takes."""

import io
import time

from tqdm import tqdm

from salience.system import terminal


def test_columns_that_do_not_fit_follow_below_with_the_first_again():
    lines = [["", *(f"model {i}" for i in range(9))], *[["CC", *["0.743 [0.731, 0.755]"] * 9]]]
    text = terminal.aligned(lines)
    assert max(map(len, text.splitlines())) <= terminal.WIDTH
    blocks = text.split("\n\n")
    assert len(blocks) == 3
    assert all(block.splitlines()[1].startswith("CC  ") for block in blocks)
    assert " ".join(blocks).split().count("[0.731,") == 9
    assert terminal.aligned([["a"], ["bc"]]) == "a\nbc"
    # a column wider than the line is not cut
    assert terminal.aligned([["a", "b" * 200]]) == f"a  {'b' * 200}"


def test_a_wait_shows_the_time_that_has_passed(monkeypatch):
    bar = tqdm(total=1, file=io.StringIO())
    monkeypatch.setattr(terminal, "progress", lambda *about: bar)
    with terminal.waiting("export", 1):
        time.sleep(1.6)
    assert bar.n == 1  # and no more than expected
