"""What raters said as tables."""

import dataclasses
import math

from detox_jax.evaluation.statistics import UNMEASURED, Difference, Interval
from detox_jax.human import tables
from detox_jax.human.results import Agreement, HumanResults, Outcome, Rater


def outcome(split="full", vote="rating", **how):
    share = Interval(0.21, 0.181, 0.244)
    given = {
        **dict(split=split, method="mine", against="base", question="less_toxic", vote=vote),
        **dict(prompts=120, votes=1440, wins=share, ties=share, losses=share),
        **dict(undecided=UNMEASURED, net=Difference(-0.1, -0.2, 0.05, 0.02, 120)),
        "p_value_holm": 0.04,
    }
    return Outcome(**{**given, **how})


RESULTS = HumanResults(
    schema_version=1,
    outcomes=(outcome(), outcome("toxic"), outcome(vote="majority", p_value_holm=math.nan)),
    agreement=(
        Agreement("less_toxic", "", "", 2, 6, Interval(1, 1, 1), UNMEASURED, UNMEASURED),
        Agreement("less_toxic", "mine", "base", 1, 3, Interval(1, 1, 1), UNMEASURED, UNMEASURED),
    ),
    raters=(Rater(2, 10, 1, 0.5, 0.3, 0.2),),
    notes=("Without the sheets of raters 1.",),
    statistics="",
    settings={},
    versions={},
)


def test_the_tables_show_every_figure_with_its_interval():
    text = tables.markdown(RESULTS)
    row = "| mine | base | less toxic | 21.0 % [18.1, 24.4] |"
    assert text.count(row) == 3 and "−10.0 % [−20.0, 5.0] (p 0.040) | 1,440 | 120 |" in text
    assert "| – | −10.0 % [−20.0, 5.0] | 1,440 |" in text  # undecided, and no p-value
    assert "| less toxic | all | 2 | 6 | 100.0 % [100.0, 100.0] | – | – |" in text
    assert "| 2 | 10 | 1 | 50%, 30%, 20% |" in text and "Without the sheets of raters 1." in text


def test_the_short_form_leaves_parts_out():
    text = tables.markdown(RESULTS, is_short=True)
    assert "toxic prompts" not in text and "mine against base" not in text
    assert "## Majority of the raters, all prompts" in text


def test_the_csv_holds_every_outcome_unrounded():
    lines = tables.csv_table(RESULTS).splitlines()
    assert len(lines) == 4 and "wins_low" in lines[0] and "0.181" in lines[1]
    assert "nan" not in "".join(lines)


def test_no_p_value_reads_as_nothing():
    """The least that 10,000 sign flips give is 1 / 10,001."""
    least = dataclasses.replace(RESULTS, outcomes=(outcome(p_value_holm=1 / 10_001),))
    text = tables.markdown(least)
    assert "(p &lt; 0.001)" in text and "0.000" not in text
