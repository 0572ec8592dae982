"""Which scorers are named beside a row; `evaluate_test` has several from the command line."""

from detox_jax.evaluation import judges
from detox_jax.evaluation.rows import Scorer


def test_a_row_is_marked_by_a_judge_that_filtered_or_chose():
    """Results name one scorer a row; the mark is where it is the judge."""
    judge, other = Scorer("judge", "judge-0123"), Scorer("other", "other-4567")
    filtered_by = {"base": None, "corpus": judge, "both": judge, "best": None}
    chosen_by = {"both": other, "best": judge}
    of_judge = judges.named_beside_rows(filtered_by, chosen_by, judge)
    of_other = judges.named_beside_rows(filtered_by, chosen_by, other)
    assert of_judge == {"base": None, "corpus": judge, "both": judge, "best": judge}
    assert of_other == {"base": None, "corpus": judge, "both": other, "best": judge}


def test_a_row_is_marked_by_a_judge_that_decided_otherwise():
    judge, other = Scorer("judge", "judge-0123"), Scorer("other", "other-4567")
    filtered_by = {"base": None, "tagged": None, "probed": other, "best": None}
    decided_by = {"tagged": [judge], "probed": [judge], "best": [judge]}
    rows = [filtered_by, {"best": other}]
    assert judges.named_beside_rows(*rows, judge, decided_by) == {
        **{"base": None, "tagged": judge, "probed": judge},
        "best": judge,
    }
    assert judges.named_beside_rows(*rows, other, decided_by) == {
        **{"base": None, "tagged": judge, "probed": other},
        "best": other,
    }
