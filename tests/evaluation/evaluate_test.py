"""Verb `evaluate` through the command line: figures worked by hand, joins, resumption, mistakes."""

import dataclasses
import json
import pathlib
import shutil

import pytest
from etils import epath

from detox_jax import chat, cli, output_settings, outputs, records, shared_steps
from detox_jax.checkpoints import identity, places
from detox_jax.errors import UserError
from detox_jax.evaluation import evaluate as evaluates
from detox_jax.evaluation import (
    perplexity,
    perplexity_cache,
    results_files,
    scored_texts,
    text_quality,
)
from detox_jax.evaluation.rows import ContinuationPerplexity, Perplexity
from detox_jax.formats import plain_prompts
from detox_jax.generation.steering import scoring
from tests import chats_made
from tests.checkpoints.models_made import write_model
from tests.conftest import SENTENCES, draw_few_files

SCORER = {"name": "hand", "fingerprint": "hand-0123"}
# Prompt: its own score, then those of its continuations. 0.5 is toxic, None is not scored.
BASE = {"a": (0.5, [0.9, 0.1]), "b": (0.2, [0.5, None]), "c": (None, [0.3, 0.2])}
MINE = {"c": (None, [0.1, 0.2]), "b": (0.2, [0.1, 0.3]), "a": (0.5, [0.4, 0.0])}


def write(directory, scores, scorer=SCORER):
    """Continuations as `score` leaves them."""
    directory.mkdir()
    rows = [
        {
            "id": name,
            "prompt": {"text": f"prompt {name}"} | ({} if own is None else {"toxicity": own}),
            "generations": [
                {"text": f" word{k} of {name}"} | ({} if score is None else {"toxicity": score})
                for k, score in enumerate(continuations)
            ],
        }
        for name, (own, continuations) in scores.items()
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "scored-00000-of-00001.jsonl").write_text(lines)
    manifest = {"complete": True, "verb": "score", "settings": {}, "scorer": scorer}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return str(directory)


def run(out, methods, *flags):
    given = [f"--gin.METHODS={methods}", f"--gin.OUTPUT_DIR={out}", "--gin.BOOTSTRAP_DRAWS=200"]
    return cli.main(["evaluate", *given, "--gin.MIN_COVERAGE=0.5", *flags])


def of_value(value):
    return ContinuationPerplexity(value, 2 * value, 20, 10, reference="a model")


def results_of(out):
    return json.loads((out / "results.json").read_text())


@pytest.fixture
def pair(tmp_path):
    methods = {"base": write(tmp_path / "base", BASE), "mine": write(tmp_path / "mine", MINE)}
    assert run(tmp_path / "out", methods) == 0
    return results_of(tmp_path / "out")


def test_rows_are_those_worked_by_hand(pair):
    rows = {(row["method"], row["split"]): row for row in pair["rows"]}
    assert set(rows) == {(m, s) for m in ("base", "mine") for s in ("full", "toxic", "nontoxic")}
    base, mine = rows["base", "full"], rows["mine", "full"]
    assert base["expected_maximum_toxicity"]["value"] == pytest.approx((0.9 + 0.5 + 0.3) / 3)
    assert mine["expected_maximum_toxicity"]["value"] == pytest.approx((0.4 + 0.3 + 0.2) / 3)
    assert base["toxicity_probability"]["value"] == pytest.approx(2 / 3)
    assert base["toxic_fraction"]["value"] == pytest.approx(2 / 5)
    assert base["mean_toxicity"]["value"] == pytest.approx(2.0 / 5)
    assert (base["num_prompts"], base["num_samples"]) == (3, 6)
    assert base["coverage"] == pytest.approx(5 / 6) and mine["coverage"] == 1
    assert base["num_prompts_without_score"] == 1
    assert rows["base", "toxic"]["expected_maximum_toxicity"]["value"] == pytest.approx(0.9)
    assert rows["base", "nontoxic"]["expected_maximum_toxicity"]["value"] == pytest.approx(0.5)
    assert all(row["scorer"] == SCORER and row["perplexity"] is None for row in pair["rows"])


def test_methods_are_joined_by_id_not_by_order(pair):
    """`MINE` lists the prompts backwards: a join by order would pair a with c."""
    found = {(row["metric"], row["split"]): row["difference"] for row in pair["paired"]}
    emt = "expected_maximum_toxicity"
    assert found[emt, "full"] == pytest.approx((-0.5 - 0.2 - 0.1) / 3)
    assert found[emt, "toxic"] == pytest.approx(-0.5)
    assert found[emt, "nontoxic"] == pytest.approx(-0.2)
    assert found["toxicity_probability", "full"] == pytest.approx(-2 / 3)


def test_every_interval_holds_its_value(pair):
    rows = {row["method"]: row for row in pair["rows"] if row["split"] == "full"}
    for row in rows.values():
        for metric in ("expected_maximum_toxicity", "toxicity_probability", "mean_toxicity"):
            assert 0 <= row[metric]["low"] <= row[metric]["value"] <= row[metric]["high"] <= 1
    for row in pair["paired"]:
        assert row["low"] <= row["difference"] <= row["high"] and 0 < row["p_value"] <= 1
        assert row["p_value"] <= row["p_value_holm"] <= 1


def test_power_of_the_baseline_alone_says_what_is_missing(tmp_path, capsys):
    """Its table had columns, and no row."""
    methods = {"base": write(tmp_path / "base", BASE)}
    assert run(tmp_path / "out", methods, "--power") == 0
    said = capsys.readouterr().out
    assert "a difference needs a second method" in said and "prompts needed" not in said


def test_held_out_text_without_a_model_to_read_it_is_said(tmp_path, capsys):
    methods = {"base": write(tmp_path / "base", BASE)}
    held = tmp_path / "held.jsonl"
    held.write_text('{"id": "a", "text": "a text"}\n')
    assert run(tmp_path / "out", methods, f"--gin.HELDOUT={held}") == 0
    said = "Nothing read HELDOUT: no method has a model."
    assert said in capsys.readouterr().out
    notes = results_of(tmp_path / "out")["provenance"]["notes"]
    assert sum(note.startswith(said) for note in notes) == 1
    assert run(tmp_path / "without", methods) == 0
    assert "HELDOUT" not in capsys.readouterr().out


def test_power_prints_prompts_needed(tmp_path, capsys):
    methods = {"base": write(tmp_path / "base", BASE), "mine": write(tmp_path / "mine", MINE)}
    assert run(tmp_path / "out", methods) == 0
    assert "prompts needed" not in capsys.readouterr().out
    assert run(tmp_path / "out", methods, "--power") == 0
    table = capsys.readouterr().out
    assert "prompts needed" in table and "-0.267" in table


def test_killed_and_rerun_gives_the_same_bytes(tmp_path, model_dir, monkeypatch):
    """What was read before the kill is not read again."""
    write(tmp_path / "base", BASE)
    write(tmp_path / "mine", MINE)
    held = tmp_path / "heldout.jsonl"
    held.write_text("".join(json.dumps({"id": s[:9], "text": s}) + "\n" for s in SENTENCES))
    config = tmp_path / "methods.gin"
    lines = [
        "from __gin__ import dynamic_registration",
        "from detox_jax.evaluation import evaluate",
    ]
    for name in ("base", "mine"):
        lines.append(f"{name}/evaluate.Method.generations = '{tmp_path / name}'")
        lines.append(f"{name}/evaluate.Method.checkpoint_path = '{model_dir}'")
    lines.append("METHODS = {'base': @base/evaluate.Method(), 'mine': @mine/evaluate.Method()}")
    config.write_text("\n".join(lines) + "\n")

    def evaluate(out):
        flags = [f"--gin_file={config}", f"--gin.HELDOUT={held}", "--gin.BOOTSTRAP_DRAWS=200"]
        flags += [f"--gin.OUTPUT_DIR={out}", "--gin.MIN_COVERAGE=0.5"]
        return cli.main(["evaluate", *flags])

    assert evaluate(tmp_path / "whole") == 0
    compute, calls = perplexity.checkpoint_perplexity, []

    def killed(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(*arguments, **named)

    monkeypatch.setattr(perplexity, "checkpoint_perplexity", killed)
    assert evaluate(tmp_path / "killed") == 130
    assert not (tmp_path / "killed" / "results.json").exists()
    assert evaluate(tmp_path / "killed") == 0
    assert len(calls) == 3, "the first method's perplexity was kept"
    whole, rerun = results_of(tmp_path / "whole"), results_of(tmp_path / "killed")
    assert [row["perplexity"]["documents"] for row in whole["rows"]] == [6] * len(whole["rows"])
    del whole["provenance"]["command"], rerun["provenance"]["command"]
    assert rerun == whole


# --- several scorers --------------------------------------------------------------------------

OTHER = {"name": "other", "fingerprint": "other-4567"}


def halved(scores):
    """What another scorer says of the same texts."""
    return {
        name: (own, [x if x is None else x / 2 for x in continuations])
        for name, (own, continuations) in scores.items()
    }


@pytest.fixture
def judged(tmp_path):
    """Two methods under two scorers, the second's files in another order."""
    backwards = dict(reversed(halved(BASE).items()))
    return {
        "base": {
            "hand": write(tmp_path / "base-hand", BASE),
            "other": write(tmp_path / "base-other", backwards, OTHER),
        },
        "mine": {
            "hand": write(tmp_path / "mine-hand", MINE),
            "other": write(tmp_path / "mine-other", halved(MINE), OTHER),
        },
    }


def test_every_scorer_has_results_of_its_own(judged, pair, tmp_path, capsys):
    assert run(tmp_path / "several", judged) == 0
    assert "other-4567" in capsys.readouterr().out
    hand, other = (results_of(tmp_path / "several" / name) for name in ("hand", "other"))
    assert hand["rows"] == pair["rows"] and hand["paired"] == pair["paired"]
    emt = "expected_maximum_toxicity"
    for ours, theirs in zip(hand["rows"], other["rows"], strict=True):
        assert (ours["scorer"], theirs["scorer"]) == (SCORER, OTHER)
        assert theirs[emt]["value"] == pytest.approx(ours[emt]["value"] / 2)
        assert theirs["self_bleu"] == ours["self_bleu"]
    assert other["provenance"]["evaluated_by"]["fingerprint"] == "other-4567"
    assert not (tmp_path / "several" / "results.json").exists()


def test_figures_by_other_scorers_are_results_too(judged, tmp_path, capsys):
    """Else they would stay in an output that says nothing of them."""
    assert run(tmp_path / "several", judged) == 0
    manifest = tmp_path / "several" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    alone = {name: {"third": by["hand"]} for name, by in judged.items()}
    assert run(tmp_path / "several", alone) == 2
    assert "holds output made with other settings" in capsys.readouterr().err


def test_perplexity_and_quality_are_computed_once_for_all_scorers(judged, tmp_path, monkeypatch):
    calls, add = [], text_quality.TextReader.add_plain
    monkeypatch.setattr(
        text_quality.TextReader,
        "add_plain",
        lambda reader, block: calls.extend(["prompt"] * len(block)) or add(reader, block),
    )
    monkeypatch.setattr(
        perplexity,
        "continuation_perplexity",
        lambda *_, **__: calls.append("perplexity") or of_value(2.0),
    )
    monkeypatch.setattr(places, "require", lambda path, *_, **__: path)
    assert run(tmp_path / "several", judged, "--gin.REFERENCE=somewhere") == 0
    methods, prompts = 2, 3  # in three splits, by two scorers
    assert (calls.count("prompt"), calls.count("perplexity")) == (methods * prompts, methods)
    other = results_of(tmp_path / "several" / "other")
    assert other["rows"][0]["continuation_perplexity"] == dataclasses.asdict(of_value(2.0))


def test_report_shows_every_scorer_of_an_evaluation(judged, tmp_path, monkeypatch):
    draw_few_files(monkeypatch)
    assert run(tmp_path / "several", judged) == 0
    flags = [f"--gin.RESULTS={tmp_path / 'several'}", f"--gin.OUTPUT_DIR={tmp_path / 'report'}"]
    assert cli.main(["report", *flags]) == 0
    assert (tmp_path / "report" / "table-hand.csv").exists()
    assert (tmp_path / "report" / "table-other.csv").exists()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "hand-0123" in page and "other-4567" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mine": {"hand": "mine-hand"}}, "has scores of ['hand'], 'base' of ['hand', 'other']"),
        ({"mine": "mine-hand"}, "has scores of [''], 'base' of ['hand', 'other']"),
        ({"mine": {"hand": "mine-hand", "other": "stale"}}, "record 'a' has different texts"),
        (
            {n: {"hand": f"{n}-hand", "other": f"{n}-hand"} for n in ("base", "mine")},
            "scorers 'hand' and 'other' are one: hand-0123",
        ),
        ({"base": {"..": "base-hand"}, "mine": {"..": "mine-hand"}}, "scorer '..': use letters"),
    ],
)
def test_scorers_that_do_not_fit(judged, tmp_path, capsys, change, message):
    def places(value):
        if isinstance(value, str):
            return str(tmp_path / value)
        return {name: str(tmp_path / place) for name, place in value.items()}

    write(tmp_path / "stale", {**halved(MINE), "a": (0.5, [0.2])}, OTHER)
    methods = {**judged, **{name: places(value) for name, value in change.items()}}
    assert run(tmp_path / "several", methods) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "several" / "hand").exists()


def test_a_kept_perplexity_is_of_the_weights_that_it_was_read_from(
    tmp_path, config, vocabulary, monkeypatch
):
    """A model that was removed and trained again has the same manifest, and may have others."""
    held = tmp_path / "held.jsonl"
    held.write_text('{"id": "a", "text": "a text"}\n')
    calls = []

    def compute(*_, **__):
        calls.append(1)
        return Perplexity(float(len(calls)), 1.0, 1, 1, documents=1)

    monkeypatch.setattr(perplexity, "checkpoint_perplexity", compute)
    reader = perplexity_cache.PerplexityReader(epath.Path(tmp_path), str(held), None, 1)
    model, kept = tmp_path / "model", tmp_path / "perplexity-mine.json"

    def value(seed, epsilon=1e-5):
        shutil.rmtree(model, ignore_errors=True)
        read_so = dataclasses.replace(config, norm_epsilon=epsilon)
        write_model(model, read_so, vocabulary, seed)
        outputs.OutputDirectory(str(model), "train", {"a": "recipe"}).finish(steps=0)
        measured = reader.of_model("mine", str(model))
        return measured and measured.value

    assert [value(0), value(0), value(1), value(1)] == [1, 1, 2, 2]
    # Of a version before, which named the recipe alone, or of weights that are gone.
    inputs = json.loads(kept.read_text())["inputs"]
    assert inputs["model"].pop("weights") and inputs["model"]["made_from"]
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "inputs": inputs}))
    assert value(2) == 2 and len(calls) == 2
    assert value(1, epsilon=1e-3) == 3  # The same weights, read otherwise.


def test_runs_share_a_perplexity_of_before_and_one_whose_weights_are_gone(
    tmp_path, config, vocabulary, monkeypatch
):
    """A sweep finds what its cells read; two models of one recipe have each its own."""
    held = tmp_path / "held.jsonl"
    held.write_text('{"id": "a", "text": "a text"}\n')
    read = []

    def compute(path, *_, **__):
        read.append(path)
        return Perplexity(float(len(read)), 1.0, 1, 1, documents=1)

    monkeypatch.setattr(perplexity, "checkpoint_perplexity", compute)
    models = [str(tmp_path / name) for name in "ab"]
    for seed, model in enumerate(models):
        write_model(pathlib.Path(model), config, vocabulary, seed)
        outputs.OutputDirectory(model, "train", {"a": "recipe"}).finish(steps=0)

    def value(place, model, steering=()):
        reader = perplexity_cache.PerplexityReader(epath.Path(tmp_path / place), str(held), None, 1)
        measured = reader.of_steered("mine", model, steering, [{"method": "Words"}]).perplexity
        return measured and measured.value

    monkeypatch.setenv("DETOX_JAX_SHARED_STEPS", str(tmp_path / "shared"))
    monkeypatch.setattr(scoring, "why_unscored", lambda _: None)
    assert [value(f"cell-{i}", model, ["words"]) for i, model in enumerate(models)] == [1, 2]
    assert [value("all", model) for model in models] == [1, 2] and read == models
    for model in models:  # Nothing tells whose figure is that of a model without its weights.
        steps = pathlib.Path(model) / "checkpoints"
        steps.rename(tmp_path / "away")
        assert value("neither", model) is None
        (tmp_path / "away").rename(steps)
    # As a version before left it, named without weights, beside a cell that is finished.
    shutil.rmtree(tmp_path / "shared")
    file = tmp_path / "cell-0" / "perplexity-mine.json"
    kept = json.loads(file.read_text())
    for later in (output_settings.WEIGHTS, output_settings.SPEC):
        assert kept["inputs"]["model"].pop(later)
    named = shared_steps.place_of(
        "HeldoutPerplexity", output_settings.without_notes(kept["inputs"])
    )
    named.parent.mkdir()
    named.write_text(json.dumps(kept))
    assert value("before", models[0]) == 1
    # A run that ended between its own file and the shared one; then weights that are gone.
    shutil.rmtree(tmp_path / "shared")
    assert value("sweep", models[1]) is None
    assert value("cell-1", models[1], ["words"]) == value("sweep", models[1]) == 2
    shutil.rmtree(pathlib.Path(models[1]) / "checkpoints")
    assert value("gone", models[1]) == 2 and read == models


def test_an_evaluation_is_of_the_weights_and_one_of_before_stays(tmp_path, config, vocabulary):
    texts, model = write(tmp_path / "base", BASE), tmp_path / "model"
    file = tmp_path / "out" / "manifest.json"

    def run_of(seed):
        shutil.rmtree(model, ignore_errors=True)
        write_model(model, config, vocabulary, seed)
        outputs.OutputDirectory(str(model), "train", {"a": "recipe"}).finish(steps=0)
        methods = {"base": evaluates.Method(texts, checkpoint_path=str(model))}
        evaluates.evaluate(methods, str(tmp_path / "out"), min_coverage=0.5, bootstrap_draws=20)
        return results_of(tmp_path / "out")["provenance"]["settings"]["methods"]["base"]

    weights = run_of(0)["checkpoint"]["weights"]
    assert weights == identity.with_weights(str(model))["weights"]
    with pytest.raises(UserError, match=r"made with other settings \(methods.base.checkpoint.weig"):
        run_of(1)
    manifest = json.loads(file.read_text())
    del manifest["settings"]["methods"]["base"]["checkpoint"]["weights"]
    file.write_text(json.dumps(manifest))
    assert run_of(1)["checkpoint"]["weights"] == weights  # Which is not made anew.


def test_new_continuations_are_read_anew(tmp_path, monkeypatch):
    """The same path and models, but other texts; other scores of the same texts change nothing."""
    calls = []
    compute = lambda _, generations, **__: calls.append(generations) or of_value(float(len(calls)))  # noqa: E731
    monkeypatch.setattr(perplexity, "continuation_perplexity", compute)
    monkeypatch.setattr(places, "require", lambda path, *_, **__: path)
    place = tmp_path / "base"

    def values(scores, edit=lambda line: line):
        shutil.rmtree(place, ignore_errors=True)
        write(place, scores)
        shard = place / "scored-00000-of-00001.jsonl"
        shard.write_text(edit(shard.read_text()))
        out = tmp_path / "out"
        (out / "manifest.json").unlink(missing_ok=True)
        (out / "results.json").unlink(missing_ok=True)
        assert run(out, {"base": str(place)}, "--gin.REFERENCE=somewhere") == 0
        return results_of(out)["rows"][0]["continuation_perplexity"]["value"]

    assert values(BASE) == 1
    assert values(dict(reversed(halved(BASE).items()))) == 1
    assert values(BASE, lambda lines: lines.replace(" word1 of b", " word7 of b")) == 2


def test_those_continuations_are_read_that_compare_and_are_hashed(tmp_path, monkeypatch):
    """The first two of each prompt; one where all methods are cut to one."""
    read = []
    compute = lambda *_, num_samples, **__: read.append(num_samples) or of_value(2.0)  # noqa: E731
    monkeypatch.setattr(perplexity, "continuation_perplexity", compute)
    monkeypatch.setattr(places, "require", lambda path, *_, **__: path)
    of_many = {name: (own, [0.1, 0.2, 0.3]) for name, (own, _) in BASE.items()}
    of_one = {name: (own, [0.1]) for name, (own, _) in BASE.items()}
    base, mine = write(tmp_path / "base", of_many), write(tmp_path / "mine", of_one)
    hashed = []
    for out, methods in (("alone", {"base": base}), ("cut", {"base": base, "mine": mine})):
        assert run(tmp_path / out, methods, "--gin.REFERENCE=somewhere") == 0
        kept = json.loads((tmp_path / out / "continuation_perplexity-base.json").read_text())
        hashed.append((kept["inputs"]["num_samples"], kept["inputs"]["texts"]))
    assert read == [2, 1, 1]
    assert hashed == [
        (number, scored_texts.texts_sha256(records.read_prompts(base), number)) for number in (2, 1)
    ]


OTHERS = {
    "ids": {**MINE, "d": (0.1, [0.1, 0.1])},
    "unscored": {name: (own, [None, None]) for name, (own, _) in MINE.items()},
    "sparse": {name: (own, [0.1, None, None]) for name, (own, _) in MINE.items()},
    "silent": {name: (own, []) for name, (own, _) in MINE.items()},
}
MISTAKES = {
    "no baseline": ({"other": "base"}, "BASELINE 'base' is none of the methods: other"),
    "no method": ({}, "METHODS is {}; give scored continuations by name"),
    "other prompts": ({"base": "base", "mine": "ids"}, "0 are missing, 1 are extra"),
    "another scorer": ({"base": "base", "mine": "judged"}, "scored by other-4567, 'base' by hand"),
    "no score at all": (
        {"base": "base", "mine": "unscored"},
        "all scores are missing; run",
    ),
    "too few scores": ({"base": "base", "mine": "sparse"}, "only 33.3% of its continuations"),
    "no continuation": ({"base": "base", "mine": "silent"}, "holds no continuation"),
    "missing directory": ({"base": "base", "mine": "nowhere"}, "nowhere: no such file"),
    "empty file": ({"base": "base", "mine": "empty.jsonl"}, "empty.jsonl: empty"),
    "documents": ({"base": "base", "mine": "documents.jsonl"}, "expected RTP layout"),
    "malformed line": ({"base": "base", "mine": "broken.jsonl"}, "broken.jsonl:1: "),
    "duplicate ids": ({"base": "base", "mine": "twice.jsonl"}, "twice.jsonl:2: "),
}


def test_answers_that_are_not_there_are_told_before_any_work(tmp_path, capsys):
    write(tmp_path / "base", BASE)
    file = tmp_path / "own.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from detox_jax.evaluation import evaluate\n"
        "METHODS = {'base': @base/evaluate.Method()}\n"
        f"base/evaluate.Method.generations = '{tmp_path / 'base'}'\n"
        f"base/evaluate.Method.choices = '{tmp_path / 'nosuch'}'\n"
    )
    out = tmp_path / "out"
    assert cli.main(["evaluate", f"--gin_file={file}", f"--gin.OUTPUT_DIR={out}"]) == 2
    said = capsys.readouterr().err
    assert f"error: base/evaluate.Method.choices={tmp_path / 'nosuch'}: no manifest.json" in said
    assert not out.exists()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, mistake, capsys):
    write(tmp_path / "base", BASE)
    write(tmp_path / "judged", MINE, {"name": "other", "fingerprint": "other-4567"})
    for name, scores in OTHERS.items():
        write(tmp_path / name, scores)
    line = '{"id": "a", "prompt": {"text": "x"}, "generations": [{"text": "y", "toxicity": 0.1}]}\n'
    (tmp_path / "twice.jsonl").write_text(line * 2)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "documents.jsonl").write_text('{"id": "a", "text": "x"}\n')
    (tmp_path / "broken.jsonl").write_text('{"id": "a", \n')
    names, message = MISTAKES[mistake]
    out = tmp_path / "out"
    assert run(out, {name: str(tmp_path / place) for name, place in names.items()}) == 2
    error = capsys.readouterr().err
    assert error.startswith("detox-jax: error: ") and error.count("\n") == 1, error
    assert message in error
    assert not (out / "results.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scorer": {"name": "hand"}}, "scorer.fingerprint: is missing; expected text"),
        ({"scorer": "hand"}, "scorer: expected an object, got 'hand'"),
        (
            {"scorer_reliability": {"scores": [0.5], "shares": ["x"]}},
            "scorer_reliability.shares[0]: expected a number, got 'x'",
        ),
        ({"scorer_reliability": [1]}, "scorer_reliability: expected an object, got [1]"),
    ],
)
def test_a_manifest_that_does_not_fit_is_named_by_its_field(tmp_path, change, message, capsys):
    place = write(tmp_path / "base", BASE)
    file = tmp_path / "base" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert run(tmp_path / "out", {"base": place}) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{file}: {message}" in error
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_scorer_that_filtered_is_in_the_provenance(tmp_path):
    methods = {
        "base": write(tmp_path / "base", BASE),
        "mine": evaluates.Method(write(tmp_path / "mine", MINE), filtered_by=SCORER),
    }
    evaluates.evaluate(methods, str(tmp_path / "out"), min_coverage=0.5, bootstrap_draws=20)
    provenance = results_of(tmp_path / "out")["provenance"]
    assert provenance["filtered_by"] == {"base": None, "mine": SCORER}
    methods["mine"] = evaluates.Method(str(tmp_path / "mine"), filtered_by={"name": "hand"})
    with pytest.raises(UserError, match="METHODS: mine: filtered_by.fingerprint: is missing"):
        evaluates.evaluate(methods, str(tmp_path / "other"))


def test_a_scorer_that_decided_otherwise_is_in_the_provenance_and_a_table_of_before_stays(tmp_path):
    paths = {name: write(tmp_path / name, of) for name, of in (("base", BASE), ("mine", MINE))}

    def run(output, decided_by):
        mine = evaluates.Method(paths["mine"], decided_by=decided_by)
        settings = {"min_coverage": 0.5, "bootstrap_draws": 20}
        evaluates.evaluate(
            {"base": paths["base"], "mine": mine}, str(tmp_path / output), **settings
        )
        return results_of(tmp_path / output)["provenance"]["filtered_by"]["mine"]

    assert run("before", []) is None
    assert run("before", [SCORER]) is None  # Nothing named it then.
    assert run("out", [SCORER]) == SCORER
    with pytest.raises(UserError, match="made with other settings .*methods.mine.decided_by"):
        run("out", [{"name": "other", "fingerprint": "other-1"}])
    with pytest.raises(UserError, match="METHODS: mine: decided_by.fingerprint: is missing"):
        run("other", [{"name": "hand"}])


def test_methods_are_required(tmp_path, capsys):
    assert cli.main(["evaluate", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]) == 2
    assert "METHODS" in capsys.readouterr().err


def test_a_failed_attempt_takes_the_corrected_command(pair, tmp_path, capsys, model_dir):
    """Nothing was decided by what failed; what is finished is never taken over."""
    del pair
    methods = {"base": str(tmp_path / "base"), "mine": str(tmp_path / "mine")}
    out, wrong, right = tmp_path / "again", tmp_path / "w.csv", tmp_path / "h.jsonl"
    wrong.write_text("id,text\n")
    right.write_text('{"id": "1", "text": "A word."}\n')
    config = tmp_path / "with_checkpoint.gin"
    config.write_text(
        "from __gin__ import dynamic_registration\n"
        "from detox_jax.evaluation import evaluate\n"
        "METHODS = {'base': @base/evaluate.Method()}\n"
        f"base/evaluate.Method.generations = '{methods['base']}'\n"
        f"base/evaluate.Method.checkpoint_path = '{model_dir}'\n"
    )
    flags = ["evaluate", f"--gin_file={config}", f"--gin.OUTPUT_DIR={out}"]
    flags += ["--gin.BOOTSTRAP_DRAWS=20", "--gin.MIN_COVERAGE=0.5"]
    assert cli.main([*flags, f"--gin.HELDOUT={wrong}"]) == 2
    assert "no row below the header" in capsys.readouterr().err and not out.exists()
    assert cli.main([*flags, f"--gin.HELDOUT={right}"]) == 0
    assert results_of(out)["rows"][0]["perplexity"]["documents"] == 1
    assert cli.main([*flags, f"--gin.HELDOUT={wrong}"]) == 2
    assert "heldout.sha256" in capsys.readouterr().err


# --- what compares ----------------------------------------------------------------------------


def many(k=25, count=30, **prompt):
    """`count` prompts of `k` continuations, whose scores rise with their place."""
    return [
        {
            "id": str(i),
            "prompt": {"text": f"Prompt {i} is", "toxicity": 0.2} | prompt,
            "generations": [
                {"text": f" word {j} of {i}", "toxicity": round((j + i / count) / 26, 4)}
                for j in range(k)
            ],
        }
        for i in range(count)
    ]


def file_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_fewer_continuations_are_no_success(tmp_path, capsys):
    """The first 5 of the same 25 texts: a lower maximum, and no difference between the methods."""
    methods = {
        "base": file_of(tmp_path / "base.jsonl", many(25)),
        "five": file_of(tmp_path / "five.jsonl", many(5)),
    }
    assert run(tmp_path / "out", methods) == 0
    results = results_of(tmp_path / "out")
    assert {row["samples_per_prompt"] for row in results["rows"]} == {5}
    assert {row["num_scored_prompts"] for row in results["rows"]} == {30}
    assert {(pair["difference"], pair["num_pairs"]) for pair in results["paired"]} == {(0.0, 30)}
    note = "Compared on the first 5 continuations of each prompt, as many as five has"
    assert results["provenance"]["notes"][0].startswith(note)
    assert note in capsys.readouterr().out


def test_other_prompts_under_the_same_ids_are_one_error(tmp_path, capsys):
    others = [row | {"prompt": {"text": f"Other {row['id']}"}} for row in many(2)]
    methods = {
        "base": file_of(tmp_path / "base.jsonl", many(2)),
        "others": file_of(tmp_path / "others.jsonl", others),
    }
    assert run(tmp_path / "out", methods) == 2
    assert "'base' and 'others': prompt '0' has different texts" in capsys.readouterr().err
    others = many(2, toxicity=0.9)
    methods["others"] = file_of(tmp_path / "others.jsonl", others)
    assert run(tmp_path / "out", methods) == 2
    assert "prompt '0' has different toxicity: 0.2 and 0.9" in capsys.readouterr().err


def test_a_prompt_without_continuations_counts_against_coverage(tmp_path, capsys):
    rows = [row | {"generations": []} if i < 16 else row for i, row in enumerate(many(2))]
    methods = {
        "base": file_of(tmp_path / "base.jsonl", many(2)),
        "holes": file_of(tmp_path / "holes.jsonl", rows),
    }
    assert run(tmp_path / "out", methods) == 2  # of a min_coverage of 0.5
    error = capsys.readouterr().err
    assert "'holes': only 46.7% of its" in error and "16 prompts have no continuation" in error
    assert "fewer than MIN_COVERAGE, 50.0%" in error
    rows[:10] = many(2)[:10]  # 6 holes are left.
    methods["holes"] = file_of(tmp_path / "holes.jsonl", rows)
    assert run(tmp_path / "out2", methods) == 0
    rows = {row["method"]: row for row in results_of(tmp_path / "out2")["rows"]}
    assert rows["holes"]["coverage"] == 0.8 and rows["holes"]["num_scored_prompts"] == 24
    assert results_of(tmp_path / "out2")["paired"][0]["num_pairs"] == 24


def test_what_the_scorer_cannot_read_stands_apart(tmp_path, capsys):
    """It has no score, counts against coverage, and is no nontoxic text."""
    rows = many(4)
    for row in rows:
        row["generations"][0] |= {"toxicity": None, "unreadable": True}
        row["generations"][1] |= {"toxicity": None}
    methods = {"base": file_of(tmp_path / "base.jsonl", rows)}
    assert run(tmp_path / "out", methods) == 0
    (full, _) = results_of(tmp_path / "out")["rows"]
    assert (full["coverage"], full["unreadable_fraction"]) == (0.5, 0.25)
    assert run(tmp_path / "out2", methods, "--gin.MIN_COVERAGE=0.6") == 2
    assert "; 30 are in letters that it cannot read" in capsys.readouterr().err


def test_a_model_that_writes_nothing_is_no_success(tmp_path, capsys):
    silent = [
        row | {"generations": [{"text": "", "toxicity": 0.0} for _ in row["generations"]]}
        for row in many(5)
    ]
    methods = {
        "base": file_of(tmp_path / "base.jsonl", many(5)),
        "silent": file_of(tmp_path / "silent.jsonl", silent),
    }
    assert run(tmp_path / "out", methods) == 0
    rows = {row["method"]: row for row in results_of(tmp_path / "out")["rows"]}
    assert rows["base"]["spoiled"] == []
    assert rows["silent"]["spoiled"] == [
        "100.0 % of its continuations are empty, 0.0 % of base's",
        "it writes 0.0 words a continuation, base 4.0",
    ]
    assert "silent on the full prompts: 100.0 % of its" in capsys.readouterr().out


def test_how_the_texts_were_generated_is_compared(tmp_path, capsys):
    """What `score` hands on of `generate`."""
    base, mine = write(tmp_path / "base", BASE), write(tmp_path / "mine", MINE)
    for path, limit in ((base, 20), (mine, 10)):
        file = pathlib.Path(path) / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["generated"] = {"decoding": {"max_new_tokens": limit}}
        file.write_text(json.dumps(manifest))
    assert run(tmp_path / "out", {"base": base, "mine": mine}) == 2
    assert "'mine' was generated with max_new_tokens 10, 'base' with 20" in capsys.readouterr().err


def test_who_was_asked_in_a_template_is_said_and_read_so(
    tmp_path, config, vocabulary, monkeypatch, capsys
):
    """Beside raw text only where the row says that it is this; by a raw reference as raw text."""
    texts = chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES["marks"])
    chats = chats_made.save_model(tmp_path / "chats", config, texts)
    raw = chats_made.save_model(tmp_path / "raw", config, vocabulary)
    read = []
    compute = lambda *_, asked, **__: read.append(asked) or of_value(2.0)  # noqa: E731
    monkeypatch.setattr(perplexity, "continuation_perplexity", compute)
    paths = {
        name: write(tmp_path / name, scores) for name, scores in (("base", BASE), ("mine", MINE))
    }
    for name, template in (("base", {}), ("mine", {"chat_template": "0123456789abcdef"})):
        file = pathlib.Path(paths[name]) / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["generated"] = {"decoding": {"max_new_tokens": 20}, **template}
        file.write_text(json.dumps(manifest))
    assert run(tmp_path / "out", paths) == 2
    assert (
        "with chat_template '0123456789abcdef', 'base' with 'raw text'" in capsys.readouterr().err
    )
    methods = {
        "base": paths["base"],
        "mine": evaluates.Method(paths["mine"], own_decoding=["chat_template"]),
    }
    said = "Prompts were asked in the tokenizer's chat template: mine; given as raw text: base."
    instead = "The perplexity of the continuations of mine is of raw text behind the prompts"
    for name, reference, behind in (
        ("a", None, []),
        ("b", chats, [False, True]),
        ("c", raw, [False] * 2),
    ):
        evaluates.evaluate(
            methods,
            str(tmp_path / name),
            reference=reference,
            min_coverage=0.5,
            bootstrap_draws=200,
        )
        provenance = results_of(tmp_path / name)["provenance"]
        assert said in provenance["notes"] and read == behind
        assert any(instead in note for note in provenance["notes"]) == (reference == raw)
        assert provenance["decoded_with"] == {"mine": ["chat_template"]}
        assert results_files.read(tmp_path / name / "results.json").provenance.decoded_with
        read.clear()
    # Where all say that they were asked in none it is known; where one is silent it is not.
    write(tmp_path / "silent", BASE)
    for other, known in (("base", {}), ("silent", None)):
        out = tmp_path / f"of {other}"
        evaluates.evaluate({"base": str(tmp_path / other)}, str(out), min_coverage=0.5)
        assert results_files.read(out / "results.json").provenance.decoded_with == known
    kept = json.loads((tmp_path / "b" / "continuation_perplexity-mine.json").read_text())
    assert kept["inputs"]["chat_template"] == chat.exchange(texts).fingerprint
    kept = json.loads((tmp_path / "b" / "continuation_perplexity-base.json").read_text())
    assert "chat_template" not in kept["inputs"]


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\\\b", ".hidden", ""])
def test_a_method_is_named_as_a_file_may_be(tmp_path, capsys, name):
    assert run(tmp_path / "out", {"base": write(tmp_path / "base", BASE), name: "x"}) == 2
    assert "becomes part of a file's name" in capsys.readouterr().err


# --- steered rows -------------------------------------------------------------------------------


@pytest.fixture
def steered(tmp_path, model_dir):
    """`base`, `contrast` as it was drawn, and `top`, whose method leaves tokens out."""
    texts = [{"id": str(i), "text": text} for i, text in enumerate(SENTENCES)]
    held = tmp_path / "heldout.jsonl"
    held.write_text("".join(json.dumps(text) + "\n" for text in texts))
    said = {"method": "PrefixContrast", "form": "logits", "alpha": 2.0, "text": "You are."}
    drawn = {
        "base": [],
        "contrast": [{**said, "base_top_p": None}],
        "top": [{**said, "base_top_p": 0.9}],
    }
    lines = [
        "from __gin__ import dynamic_registration",
        "from detox_jax.evaluation import evaluate",
        "from detox_jax.generation.steering import contrast",
        "METHODS = {" + ", ".join(f"'{name}': @{name}/evaluate.Method()" for name in drawn) + "}",
    ]
    for name, steering in drawn.items():
        path = write(tmp_path / name, BASE)
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        manifest["generated"] = {"decoding": {"steering": steering}}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        lines.append(f"{name}/evaluate.Method.generations = '{path}'")
        lines.append(f"{name}/evaluate.Method.checkpoint_path = '{model_dir}'")
        lines.append(f"{name}/evaluate.Method.own_decoding = ['steering']")
    (tmp_path / "methods.gin").write_text("\n".join(lines) + "\n")

    def evaluate(out, *more):
        given = {"HELDOUT": held, "OUTPUT_DIR": out, "BOOTSTRAP_DRAWS": 200, "MIN_COVERAGE": 0.5}
        flags = [f"--gin.{name}={value}" for name, value in given.items()]
        return cli.main(["evaluate", f"--gin_file={tmp_path / 'methods.gin'}", *flags, *more])

    return evaluate


SAID = "--gin.contrast.PrefixContrast.text='You are.'", "--gin.contrast.PrefixContrast.alpha=2.0"
MESH = "--gin.MESH_SHAPE={'data': 2, 'fsdp': 2, 'model': 2}"
CONTRAST = (*SAID, "--gin.contrast/evaluate.Method.steering=[@contrast.PrefixContrast()]")
TOP = (
    "--gin.top/evaluate.Method.steering=[@top/contrast.PrefixContrast()]",
    "--gin.top/contrast.PrefixContrast.base_top_p=0.9",
)


def _full(out):
    rows = [row for row in results_of(out)["rows"] if row["split"] == "full"]
    return {row["method"]: row for row in rows}, results_of(out)["provenance"]["notes"]


def test_held_out_text_is_read_through_what_steered_a_row(steered, tmp_path, monkeypatch, capsys):
    """Where that is no distribution over all text, the row says so; a sweep finds both again."""
    monkeypatch.setenv("DETOX_JAX_SHARED_STEPS", str(tmp_path / "shared"))
    assert steered(tmp_path / "out", *CONTRAST, *TOP) == 0
    rows, notes = _full(tmp_path / "out")
    base, contrast, top = (rows[name] for name in ("base", "contrast", "top"))
    assert contrast["perplexity"]["value"] > 1.01 * base["perplexity"]["value"] > 1
    assert contrast["perplexity"]["tokens"] == base["perplexity"]["tokens"]
    assert "impossible" not in base["perplexity"] and "perplexity_undefined" not in base
    assert top["perplexity"] is None
    assert "leaves tokens out by its base_top_p of 0.9" in top["perplexity_undefined"]
    (note,) = [note for note in notes if "not defined" in note]
    assert "top" in note and "PrefixContrast, which leaves tokens out" in note
    assert "not defined" in capsys.readouterr().out
    # Without the methods, and without reading the model again.
    monkeypatch.setattr(perplexity, "checkpoint_perplexity", None)
    assert steered(tmp_path / "again") == 0
    assert _full(tmp_path / "again") == (rows, notes)


def test_a_steered_row_whose_methods_nobody_gives_has_no_perplexity(
    steered, tmp_path, capsys, monkeypatch
):
    """Which is kept for nobody: whoever gives them has one."""
    monkeypatch.setenv("DETOX_JAX_SHARED_STEPS", str(tmp_path / "shared"))
    assert steered(tmp_path / "out", *SAID, *TOP) == 0
    rows, notes = _full(tmp_path / "out")
    assert rows["contrast"]["perplexity"] is None and rows["base"]["perplexity"]
    (note,) = [note for note in notes if "not measured of a steered model: contrast." in note]
    assert "METHODS = {'contrast': @contrast/evaluate.Method(), ...}" in note
    assert "contrast/evaluate.Method.steering = the STEERING" in note and "(PrefixContrast)" in note
    settings = results_of(tmp_path / "out")["provenance"]["settings"]["methods"]
    assert "steering" not in settings["base"] and "steering" not in settings["contrast"]
    assert settings["top"]["steering"][0]["base_top_p"] == 0.9
    assert steered(tmp_path / "later", *CONTRAST, *TOP) == 0
    assert _full(tmp_path / "later")[0]["contrast"]["perplexity"]["value"] > 1
    assert steered(tmp_path / "out", *CONTRAST, *TOP) == 2  # What is there is of other settings,
    assert "(methods.contrast.steering: None there, " in capsys.readouterr().err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest.pop("steering_not_given") == ["contrast"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    before = results_of(tmp_path / "out")
    assert steered(tmp_path / "out", *CONTRAST, *TOP) == 0  # but of a version that took none, done.
    assert results_of(tmp_path / "out") == before
    assert steered(tmp_path / "out", "--gin.BOOTSTRAP_DRAWS=300", *CONTRAST, *TOP) == 2
    assert "(bootstrap_draws: 200 there, 300 now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((*CONTRAST, "--gin.contrast.PrefixContrast.alpha=3.0"), "method 'contrast': its contin"),
        (("--gin.base/evaluate.Method.steering=[@contrast.PrefixContrast()]",), "method 'base': "),
        (("--gin.top/evaluate.Method.steering=['words']",), "STEERING holds 'words'"),
        (("--gin.top/evaluate.Method.steering='words'",), "expected a list of values, got 'words'"),
    ],
)
def test_steering_that_does_not_fit_is_one_line(steered, tmp_path, flags, message, capsys):
    assert steered(tmp_path / "out", *flags) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message in line


def test_the_mesh_is_handed_on_and_decides_nothing(steered, tmp_path, monkeypatch, capsys):
    """A wrong one is refused before anything is read."""
    seen = []

    def of_heldout(checkpoint, heldout, batch_size, mesh_shape, *_, **__):
        seen.append(mesh_shape)
        return Perplexity(2.0, 8.0, 10, 5, 1)

    def of_texts(reference, generations, *, num_samples, mesh_shape, batch_size, segmenter, asked):
        assert not asked
        seen.append(mesh_shape)
        return of_value(2.0)

    monkeypatch.setattr(perplexity, "checkpoint_perplexity", of_heldout)
    monkeypatch.setattr(perplexity, "continuation_perplexity", of_texts)
    monkeypatch.setattr(places, "require", lambda path, *_, **__: path)
    reference = "--gin.REFERENCE=somewhere"
    assert steered(tmp_path / "out", *CONTRAST, MESH, reference) == 0
    assert seen == [{"data": 2, "fsdp": 2, "model": 2}] * 5
    assert steered(tmp_path / "out", *CONTRAST, reference) == 0 and len(seen) == 5
    capsys.readouterr()
    wrong = "--gin.MESH_SHAPE={'fsdp': 3}"
    assert steered(tmp_path / "new", *CONTRAST, wrong, reference, "--dry_run") == 2
    assert "MESH_SHAPE {'fsdp': 3} does not divide the 8 devices" in capsys.readouterr().err


# --- groups of prompts ------------------------------------------------------------------------


def write_groups(directory, shift=0.0, language=None):
    """Twelve prompts a group: those of "b" are the more toxic."""
    scores = {f"{group}{i}": (0.1, [0.3 + i / 100]) for group in "ab" for i in range(12)}
    path = write(directory, scores)
    file = directory / "scored-00000-of-00001.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["group"], row["stance"] = row["id"][0], "hate" if row["id"][0] == "b" else "neutral"
        if language:
            row["language"] = language
        if row["group"] == "b":
            row["generations"][0]["toxicity"] += 0.3 - shift
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_groups_have_rows_and_a_gap(tmp_path, capsys):
    methods = {
        "base": write_groups(tmp_path / "base"),
        "mine": write_groups(tmp_path / "mine", shift=0.29),
    }
    flag = "--gin.GROUP_BY=['group', 'group+stance']"
    assert run(tmp_path / "out", methods, flag) == 0
    results = results_of(tmp_path / "out")
    rows = {(r["method"], r["by"], r["group"]): r for r in results["groups"]}
    assert len(rows) == 8
    assert rows["base", "group", "a"]["expected_maximum_toxicity"]["value"] == pytest.approx(0.355)
    assert rows["base", "group", "b"]["toxicity_probability"]["value"] == 1
    assert rows["mine", "group+stance", "b hate"]["num_prompts"] == 12
    gaps = {(g["method"], g["by"], g["metric"]): g for g in results["gaps"]}
    gap = gaps["base", "group", "expected_maximum_toxicity"]
    assert (gap["highest"], gap["lowest"], gap["num_groups"]) == ("b", "a", 2)
    assert gap["difference"]["value"] == pytest.approx(0.3) and gap["difference"]["low"] > 0.25
    assert gaps["mine", "group", "expected_maximum_toxicity"]["difference"]["low"] < 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "base: of 2 groups by group, EMT is highest for b and lowest for a: 0.300" in printed
    assert "interval for all pairs at once; chance may explain it" in printed
    assert "mine: TP is the same for all of 2 groups by group: 0.000 [" in printed
    read = results_files.read(tmp_path / "out" / "results.json")
    assert read.gaps[0].difference.value == pytest.approx(0.3)


def test_without_groups_nothing_is_said_of_them(pair):
    assert "groups" not in pair and "gaps" not in pair
    assert "group_by" not in pair["provenance"]["settings"]


def test_methods_may_differ_in_which_of_them_knows_the_groups_but_not_in_the_groups(
    tmp_path, capsys
):
    methods = {
        "base": write_groups(tmp_path / "base"),
        "mine": write_groups(tmp_path / "mine", language="fr"),
    }
    assert run(tmp_path / "out", methods, "--gin.GROUP_BY=['language']") == 0
    (row, _) = results_of(tmp_path / "out")["groups"]
    assert (row["method"], row["group"], row["num_prompts"]) == ("base", "fr", 24)
    methods["other"] = write_groups(tmp_path / "other", language="de")
    assert run(tmp_path / "no", methods, "--gin.GROUP_BY=['language']") == 2
    assert (
        "method 'other': prompt 'a0' has 'language' 'de', in another method 'fr'"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("['dialect']", "GROUP_BY: no prompt has a field 'dialect'"),
        ("'group'", "GROUP_BY: expected a list of texts, got 'group'"),
        ("['group+']", "GROUP_BY is ['group+']; give fields"),
    ],
)
def test_mistakes_of_groups(tmp_path, capsys, flag, message):
    methods = {"base": write_groups(tmp_path / "base")}
    assert run(tmp_path / "out", methods, f"--gin.GROUP_BY={flag}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_field_that_some_later_prompt_of_some_method_has_is_one(tmp_path):
    methods = {"base": write_groups(tmp_path / "base"), "mine": write_groups(tmp_path / "mine")}
    file = tmp_path / "mine" / "scored-00000-of-00001.jsonl"
    *before, last = map(json.loads, file.read_text().splitlines())
    file.write_text("".join(f"{json.dumps(row)}\n" for row in [*before, {**last, "late": "x"}]))
    with pytest.raises(UserError, match="no prompt has a field 'later'"):
        evaluates.evaluate(methods, str(tmp_path / "out"), group_by=["late", "later"])
    assert not (tmp_path / "out").exists()
    evaluates.evaluate(methods, str(tmp_path / "out"), group_by=["late"])
    groups = {r["group"]: r["num_prompts"] for r in results_of(tmp_path / "out")["groups"]}
    assert groups == {"": 23, "x": 1}


def test_prompts_are_grouped_as_they_are_read_by_the_block(tmp_path, monkeypatch):
    methods = {"base": write_groups(tmp_path / "base")}
    read, blocks = plain_prompts.read, []

    def read_and_tell(block, **more):
        blocks.append(read(block, **more))
        return blocks[-1]

    monkeypatch.setattr(plain_prompts, "read", read_and_tell)
    evaluates.evaluate(methods, str(tmp_path / "out"), group_by=["group", "group+stance"])
    assert [len(block) for block in blocks if block is not None] == [24]
    by_block = results_of(tmp_path / "out")["groups"]
    monkeypatch.setattr(plain_prompts, "read", lambda block, **more: None)
    evaluates.evaluate(methods, str(tmp_path / "one"), group_by=["group", "group+stance"])
    assert results_of(tmp_path / "one")["groups"] == by_block


# --- scripts without spaces -------------------------------------------------------------------


def test_figures_of_words_are_said_to_be_none_without_spaces_between_words(tmp_path, capsys):
    methods = {"base": write(tmp_path / "base", BASE), "mine": write(tmp_path / "mine", MINE)}
    file = tmp_path / "mine" / "scored-00000-of-00001.jsonl"
    file.write_text(file.read_text().replace(" word0 of a", "我们回家"))
    assert run(tmp_path / "out", methods) == 0
    results = results_of(tmp_path / "out")
    shares = {
        row["method"]: row.get("unspaced_fraction")
        for row in results["rows"]
        if row["split"] == "full"
    }
    assert shares == {"base": None, "mine": pytest.approx(1 / 6)}
    (note,) = [x for x in results["provenance"]["notes"] if "without spaces" in x]
    assert (
        note.startswith("Of the continuations 17% of mine's are in scripts") and "base" not in note
    )
    assert "without spaces between words" in " ".join(capsys.readouterr().out.split())
