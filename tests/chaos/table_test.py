"""The table of counts says what was tried, and where that was less than a full round."""

import pytest

from tests.chaos import table
from tests.chaos.counts import Counts


def test_a_line_says_what_was_tried_and_a_short_round_says_so(tmp_path):
    counts = Counts(tmp_path / "counts.json")
    counts.begin("full", 2, "kills")
    counts.add("full", 2, 2)
    counts.begin("short", 1000, "kills")
    counts.add("short", 3, 2)
    counts.begin("drawn", None, "files", full_seconds=600, readers=38)
    counts.add("drawn", 4000, 4000)
    counts.note("drawn", seconds={"CSV": 30, "text": 20})
    counts.begin("soak", 1, "runs")
    counts.add("soak", 1, 1)
    counts.note("soak", size="9 steps", share=100, growth={"threads": -1.0}, bound={"threads": 4.0})
    assert table.lines(counts.read())[2:] == [
        "| drawn | 4,000 files | 4,000 | 600 s for each of 38 readers: "
        "**this one 20 s for each of 2** |",
        "| full | 2 kills | 2 | 2 |",
        "| short | 3 kills | 2 | 1,000: **this round was shorter** |",
        "| soak, 9 steps: threads -1 (bound 4) | 1 runs | 1 | the whole size |",
    ]


def test_a_round_begins_its_classes_anew_and_leaves_the_others(tmp_path):
    for name in ("one", "other"):
        counts = Counts(tmp_path / "counts.json")
        counts.begin(name, 5, "kills")
        counts.add(name, 4, 4)
    again = Counts(tmp_path / "counts.json")
    again.begin("one", 5, "kills")
    again.add("one", 1, 1)
    again.begin("one", 5, "kills")
    tried = {name: entry["tried"] for name, entry in again.read().items()}
    assert tried == {"one": 1, "other": 4}


def test_a_round_that_goes_on_counts_the_cases_that_are_missing(tmp_path):
    file = tmp_path / "counts.json"
    counts = Counts(file)
    counts.begin("one", 4, "runs")
    counts.begin_case("one", "score", 2)
    counts.add("one", 2, 2, "score")
    counts.begin_case("one", "filter", 2)
    counts.add("one", 1, 0, "filter")  # Broken off.
    again = Counts(file, goes_on=True)
    again.begin("one", 4, "runs")
    with pytest.raises(pytest.skip.Exception):
        again.begin_case("one", "score", 2)
    again.begin_case("one", "filter", 2)
    assert again.read()["one"]["tried"] == 2
    again.add("one", 2, 1, "filter")
    (one,) = again.read().values()
    assert (one["tried"], one["whole"]) == (4, 3)
    with pytest.raises(pytest.skip.Exception):  # The others, though the class is full by now.
        again.begin_case("one", "score", 2)
    anew = Counts(file, goes_on=True)
    anew.begin("one", 4, "runs")
    assert anew.read()["one"]["tried"] == 0


def test_a_round_that_time_ends_goes_on_until_each_reader_had_its_time(tmp_path):
    file = tmp_path / "counts.json"
    for seconds in ({"CSV": 600}, {"CSV": 600, "text": 599}, {"CSV": 600, "text": 600}):
        counts = Counts(file, goes_on=True)
        counts.begin("drawn", None, "files", full_seconds=600, readers=2)
        counts.add("drawn", 5, 5)
        counts.note("drawn", seconds=seconds)
    assert counts.read()["drawn"]["tried"] == 15
    assert table.lines(counts.read())[2:] == [
        "| drawn | 15 files | 15 | 600 s for each of 2 readers |"
    ]
    anew = Counts(file, goes_on=True)
    anew.begin("drawn", None, "files", full_seconds=600, readers=2)
    assert anew.read()["drawn"]["tried"] == 0


def test_a_shorter_round_stands_beside_the_longest_before_it_until_one_tries_as_many(tmp_path):
    file = tmp_path / "counts.json"
    for tried, whole in ((4, 3), (2, 2), (1, 1)):
        counts = Counts(file)
        counts.begin("one", 5, "kills")
        counts.add("one", tried, whole)
    (line,) = table.lines(counts.read())[2:]
    assert line.endswith(
        "| 5: **this round was shorter, and one of older code had 3 of 4 whole** |"
    )
    counts.add("one", 3, 3)
    assert counts.read()["one"] == {"unit": "kills", "full": 5, "tried": 4, "whole": 4}
