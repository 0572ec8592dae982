"""Lines of metrics.jsonl: a damaged one says nothing, and is none of the others' business."""

import pytest

from detox_jax.checkpoints import metric_lines
from detox_jax.evaluation import picture_data

GOOD = '{"step": 10, "loss": 2.5}'
DAMAGED = [
    '{"step": 20, "lo',
    '{"step": 20, "loss": "2.5"}',
    '{"step": "20", "loss": 2.5}',
    '{"loss": 2.5}',
    "[20, 2.5]",
    "20",
    "",
    "\0" * 30,
    "[" * 100_000,
]


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_says_nothing(line):
    assert metric_lines.scalars(line) is None


def test_a_line_says_numbers_by_name():
    assert metric_lines.scalars(GOOD) == {"step": 10, "loss": 2.5}


def test_a_line_that_a_kill_cut_short_is_none(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(GOOD + "\n" + GOOD)
    assert metric_lines.read(tmp_path / "metrics.jsonl") == [GOOD]


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_the_reports_curve_lacks_that_line_alone(tmp_path, line):
    lines = [GOOD, line, '{"step": 30, "validation_loss": 2.0}', ""]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff")
    curve = picture_data._curve(str(tmp_path))
    assert curve is not None
    assert (curve.step, curve.loss) == ((10,), (2.5,))
    assert (curve.validation_step, curve.validation_loss) == ((30,), (2.0,))


def test_a_step_that_is_named_has_the_curve_up_to_it(tmp_path):
    lines = [GOOD, '{"step": 20, "loss": 2.4}', '{"step": 30, "loss": 2.3}', ""]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    curve = picture_data._curve(str(tmp_path / "checkpoints" / "20"))
    assert curve is not None and curve.step == (10, 20)
