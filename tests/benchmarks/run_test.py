import importlib

import pytest

from benchmarks.speed import run


@pytest.mark.parametrize("name", run.row_names())
def test_a_file_that_is_no_row_is_named_as_such_and_a_row_puts_ours_first(name):
    row = importlib.import_module(f"benchmarks.speed.{name}").ROW
    ours, *others = row.sides
    assert ours.startswith("ours") and others


def test_rows_that_need_a_gpu_or_t5x_are_measured_where_they_are_named():
    apart = set(run.row_names()) - set(run.usual_rows())
    assert {"gpu_documents", "t5x_continuations", "t5x_documents"} <= apart
    assert all(name.startswith(("gpu_", "t5x_")) for name in apart)
