import importlib

import pytest

from benchmarks.speed import comments, run, scorer_library, table
from detox_jax.toxicity.ngram import NgramScorer


@pytest.mark.parametrize("name", run.row_names())
def test_a_file_that_is_no_row_is_named_as_such_and_a_row_puts_ours_first(name):
    row = importlib.import_module(f"benchmarks.speed.{name}").ROW
    ours, *others = row.sides
    assert ours.startswith("ours") and others


def test_rows_that_need_a_gpu_or_t5x_are_measured_where_they_are_named():
    apart = set(run.row_names()) - set(run.usual_rows())
    assert {"gpu_documents", "t5x_continuations", "t5x_documents"} <= apart
    assert all(name.startswith(("gpu_", "t5x_")) for name in apart)


def measured(rates, **others):
    """A row as `run` writes it, of one second for each side."""
    sides = {side: [{"work": rate, "seconds": 1, "processor_seconds": 1}] for side, rate in rates}
    return {"what": "work", "unit": "units", "sides": sides, **others}


def test_a_side_is_compared_with_ours_of_its_kind_and_the_table_says_with_which():
    row = measured(
        [
            ("ours", 60.0),
            ("transformers", 20.0),
            ("ours, float32", 40.0),
            ("transformers, float32", 10.0),
            ("transformers, as it comes", 30.0),
        ]
    )
    cells = [[cell.strip() for cell in line.split("|")[3:7]] for line in table.lines({"row": row})]
    assert cells[2:] == [
        ["60 units/s", "transformers", "20", "**3.00** (3.00 to 3.00)"],
        ["60 units/s", "ours, float32", "40", "**1.50** (1.50 to 1.50)"],
        ["40 units/s (float32)", "transformers, float32", "10", "**4.00** (4.00 to 4.00)"],
        ["60 units/s", "transformers, as it comes", "30", "**2.00** (2.00 to 2.00)"],
    ]
    row = measured([("ours, one batch", 4.0), ("ours, two", 2.0), ("T5X, two", 1.0)])
    (_, _, one, two) = table.lines({"row": row})
    assert "4 units/s (one batch) | ours, two | 2 | **2.00**" in one
    assert "2 units/s (two) | T5X, two | 1 | **2.00**" in two


def test_scorers_have_read_none_of_the_texts_when_the_clock_starts(monkeypatch):
    """The embedded one knows the letters of what it has read."""
    read = []

    def score(scorer, texts):
        read.append((scorer, list(texts)))
        return [0.0] * len(texts)

    monkeypatch.setattr(NgramScorer, "score", score)
    monkeypatch.setattr(comments, "texts", lambda number: ["some"] * 3)
    assert not any(side.warm_up for side in scorer_library.ROW.sides.values())
    work = scorer_library.ROW.sides["ours"].make()
    before = [scorer for scorer, _ in read]
    assert not any("some" in texts for _, texts in read)
    assert work() == 3.0
    (scorer, texts) = read[-1]
    assert texts == ["some"] * 3 and not any(scorer is other for other in before)
