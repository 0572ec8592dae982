"""Results on disk: today's layout byte for byte, other layouts, and every field damaged."""

import dataclasses
import json
import math

import pytest
from etils import epath

from detox_jax import atomic_files
from detox_jax.errors import UserError
from detox_jax.evaluation import results_files
from detox_jax.evaluation.metric_names import NINE_TASK_AVERAGE, TaskAccuracy
from detox_jax.evaluation.results import SCHEMA_VERSION
from detox_jax.evaluation.typed_json import to_json
from detox_jax.report import latex_tables, table_formats
from detox_jax.report.charts import charts
from detox_jax.report.page import _section
from tests.evaluation import results_made
from tests.marks import slow_but

LAYOUT = {
    "": ["rows", "paired", "power", "provenance"],
    "rows": [
        *("method", "corpus", "adaptation", "split", "scorer", "spoiled", "num_prompts"),
        *("num_scored_prompts", "samples_per_prompt", "num_samples", "num_prompts_without_score"),
        *("coverage", "unreadable_fraction", "expected_maximum_toxicity"),
        *("toxicity_probability", "mean_toxicity", "toxic_fraction", "perplexity"),
        *("continuation_perplexity", "distinct", "distinct_per_ngram", "self_bleu"),
        *("empty_fraction", "degenerate_fraction", "mean_words", "mean_tokens"),
        *("early_stop_fraction", "accuracy_piqa", "nine_task_average"),
    ],
    "paired": [
        *("method", "baseline", "metric", "difference", "low", "high", "p_value"),
        *("p_value_holm", "split", "num_pairs"),
    ],
    "power": ["method", "metric", "effect", "observed", "num_prompts"],
    "provenance": [
        *("schema_version", "evaluated_by", "filtered_by", "statistics", "notes", "settings"),
        *("versions", "command"),
    ],
}


def with_accuracies():
    """Invented results; one row has accuracies."""
    results = results_made.made_results()
    estimate = results_made.estimate(0.5)
    accuracies = {TaskAccuracy.of("piqa"): estimate, NINE_TASK_AVERAGE: estimate}
    first = dataclasses.replace(results.rows[0], accuracies=accuracies)
    pair = dataclasses.replace(results.paired[0], metric=TaskAccuracy.of("piqa"))
    return dataclasses.replace(
        results, rows=(first, *results.rows[1:]), paired=(pair, *results.paired[1:])
    )


def test_the_layout_is_that_of_version_2():
    """Other programs read these names in this order; a change of them is another version."""
    assert SCHEMA_VERSION == 2
    written = to_json(with_accuracies())
    assert list(written) == LAYOUT[""]
    for part in ("rows", "paired", "power"):
        assert list(written[part][0]) == LAYOUT[part]
    assert list(written["rows"][1]) == LAYOUT["rows"][:-2]
    assert list(written["provenance"]) == LAYOUT["provenance"]
    row, provenance = written["rows"][0], written["provenance"]
    assert list(row["scorer"]) == ["name", "fingerprint"]
    assert list(row["accuracy_piqa"]) == ["value", "low", "high"]
    assert list(row["perplexity"]) == ["value", "words", "tokens", "num_words", "documents"]
    assert list(row["continuation_perplexity"])[-1] == "reference"
    assert list(provenance["evaluated_by"]) == ["name", "fingerprint", "reliability"]


def test_what_is_written_is_read(tmp_path):
    results = with_accuracies()
    file = epath.Path(tmp_path / "results.json")
    results_files.write(file, results)
    before = file.read_bytes()
    assert b"NaN" not in before and b'"p_value_holm": null' in before
    read = results_files.read(file)
    assert math.isnan(read.paired[0].p_value_holm)
    assert read.rows == results.rows and read.provenance == results.provenance
    results_files.write(file, read)
    assert file.read_bytes() == before


def test_what_lies_beside_is_read(tmp_path):
    results = results_made.made_results()
    evaluation = results_files.load(results_made.write(tmp_path / "e", results))
    assert evaluation.prompts == results_made.made_prompts(results)
    assert list(evaluation.samples) == results_made.made_samples()
    assert evaluation.training == results_made.made_training()
    assert evaluation.times.seconds == {"generate": 125.0, "score": 4.5}
    assert evaluation.reliability.bins[0] == (0.05, 0.04, 800)
    alone = results_files.load(results_made.write(tmp_path / "a", results, details=False))
    assert (alone.prompts.methods, alone.samples, alone.times.seconds) == ({}, (), {})


def test_times_of_a_resumed_step_are_added_up():
    steps = tuple(results_files.StepTime("a", seconds) for seconds in (1.0, math.nan, 2.5))
    assert results_files.Times(steps).seconds == {"a": 3.5}


# --- versions ---------------------------------------------------------------------------------


def test_a_file_that_does_not_say_its_version_is_of_the_first(tmp_path):
    """Which did not judge its rows; they are when it is read."""
    for absent in ({}, {"schema_version": None}):
        value = to_json(results_made.made_results())
        for row in value["rows"]:
            row["empty_fraction"] = 0.5 if row["method"] == "adapter" else 0.0
            del row["spoiled"]
        del value["provenance"]["schema_version"]
        value["provenance"] |= absent
        source = results_made.write(tmp_path / "e", value, details=False)
        read = results_files.load(source).results
        assert read.provenance.schema_version == SCHEMA_VERSION
        assert {row.method for row in read.rows if row.spoiled} == {"adapter"}


@pytest.mark.parametrize("version", [0, 3, "1", 1.5, [1], {"a": "b\n" * 100}])
def test_another_version_is_one_clear_error(tmp_path, version):
    """Before anything else is read: fields of another layout would be misfits."""
    value = {"rows": 3, "provenance": {"schema_version": version}}
    source = results_made.write(tmp_path / "e", value, details=False)
    with pytest.raises(UserError) as caught:
        results_files.load(source)
    message = str(caught.value)
    assert message.startswith(f"{source}: its layout is version ") and "\n" not in message
    assert f"reads up to version {SCHEMA_VERSION}; run `evaluate` again" in message


# --- damage -----------------------------------------------------------------------------------

HOSTILE = [
    "text",
    "a\nb",
    "",
    [],
    [None],
    [[1]],
    {},
    {"a": {}},
    True,
    None,
    math.nan,
    -1,
    0,
    10**400,
    1e300,
]


def places(value, path=()):
    """Every place in JSON; of a list the first item."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def put(value, path, item):
    """The same JSON with another value at a place."""
    if not path:
        return item
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = put(value[path[0]], path[1:], item)
    return changed


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["prompts", "training", "times"], ["results", "prompts", "samples", "training", "times"]
    ),
)
def test_no_damage_of_any_field_ends_in_a_traceback(tmp_path, name):
    """Everything is refused by one line that names file and field, or shown."""
    source = results_made.write(tmp_path / "e", with_accuracies())
    file = tmp_path / "e" / f"{name}.json"
    intact = json.loads(file.read_text())
    if name == "results":  # Fewer rows, the same fields.
        intact["rows"], intact["paired"] = intact["rows"][:2], intact["paired"][:2]
    elif name == "prompts":
        intact = {key: {"base": methods["base"]} for key, methods in intact.items()}
    elif name == "training":
        intact = {"methods": {"base": {"step": [1, 2], "loss": [3.5, 2.5]}}}
    refused = shown = 0
    for path in places(intact):
        for value in HOSTILE:
            file.write_text(json.dumps(put(intact, path, value)))
            try:
                evaluation = results_files.load(source)
            except UserError as error:
                refused += 1
                assert str(error).startswith(f"{file}: ") and "\n" not in str(error)
                field = next((key for key in path if isinstance(key, str)), "")
                of_whole = "different scorers" in str(error) or "layout is version" in str(error)
                assert field in str(error) or of_whole, (path, value)
                continue
            shown += 1
            assert charts(evaluation)
            if name == "results":
                formats = (table_formats.markdown, table_formats.csv_table, latex_tables.latex)
                for table in formats:
                    table(evaluation.results)
                json.loads(table_formats.json_table(evaluation.results))
    assert refused > 30 and shown > 3


def test_the_page_of_damaged_results_is_written(tmp_path):
    """A few that are read, drawn whole."""
    intact = to_json(with_accuracies())
    for field in ("expected_maximum_toxicity", "perplexity", "distinct", "num_prompts"):
        changed = put(intact, ("rows", 0, field), None)
        source = results_made.write(tmp_path / "e", changed, details=False)
        section = _section(results_files.load(source), "results", "scorer", ())
        assert section.charts and section.tables


def test_lists_that_do_not_fit_together_are_refused(tmp_path):
    results = to_json(results_made.made_results())
    results["provenance"]["evaluated_by"]["reliability"]["shares"] = [0.5]
    source = results_made.write(tmp_path / "e", results, details=False)
    place = "provenance.evaluated_by.reliability: lists of different lengths: 4 scores, 1 shares"
    with pytest.raises(UserError, match=place):
        results_files.load(source)
    results = to_json(results_made.made_results())
    results["provenance"]["evaluated_by"]["reliability"]["counts"] = [1e300] * 4
    source = results_made.write(tmp_path / "e", results, details=False)
    with pytest.raises(UserError, match="reliability: a bin has more texts than can be counted"):
        results_files.load(source)
    source = results_made.write(tmp_path / "e", results_made.made_results())
    training = {"methods": {"an adapter": {"step": [1], "loss": []}}}
    (tmp_path / "e" / "training.json").write_text(json.dumps(training))
    message = r"training.json: methods\['an adapter'\]: lists of different lengths: 1 step, 0 loss"
    with pytest.raises(UserError, match=message):
        results_files.load(source)


def test_what_a_scorer_says_beside_its_reliability_is_carried_along(tmp_path):
    """Scorers may be the user's own; `train_scorer`'s say their label first."""
    results = results_made.made_results()
    words = {"label": "toxicity", **results_made.RELIABILITY, "note": [1, {"a": None}]}
    evaluated_by = dataclasses.replace(results.provenance.evaluated_by, reliability=words)
    provenance = dataclasses.replace(results.provenance, evaluated_by=evaluated_by)
    results = dataclasses.replace(results, provenance=provenance)
    evaluation = results_files.load(results_made.write(tmp_path / "e", results))
    written = atomic_files.finite(to_json(evaluation.results.provenance.evaluated_by))
    assert list(written["reliability"].items()) == list(words.items())
    assert evaluation.reliability.against == "human labels"
