"""The whole method on a model that fits a test: every step, its controls, resumption, mistakes."""

import dataclasses
import json
import os
import shutil

import gin
import pytest

from detox_jax import cli, configuration, sgeat
from detox_jax.errors import UserError
from detox_jax.evaluation.decoding import check_own
from detox_jax.generation import decoding
from detox_jax.generation.steering.words import BannedWords
from detox_jax.method import makers, method
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig
from tasks import demo_corpus
from tests import sgeat_made
from tests.conftest import draw_few_files
from tests.marks import slow_but
from tests.toxicity.conftest import KEY, FakeService, running_service

CONFIG = f"""{sgeat_made.IMPORTS}
from detox_jax import tags
from detox_jax.generation import prompts
from detox_jax.generation import sampling
from detox_jax.generation import steer
from detox_jax.generation.steering import activations
from detox_jax.generation.steering import words
from detox_jax.toxicity import distinct
from detox_jax.toxicity import filter
from detox_jax.toxicity import pairing
from detox_jax.toxicity import remote
from detox_jax.training import dpo
from detox_jax.training import optimizer
from tasks import tagged
{sgeat_made.CONFIG}
"""
CONFIG += """
# An epoch of what is kept is longer than a training: each epoch is a pipeline of TensorFlow's.
NUM_DOCUMENTS = 40
TASK_FEATURE_LENGTHS = {'targets': 16}
JUDGES = {'ngram': @ngram/score.score, 'perspective': @perspective/score.score}
CONSENT_TO_SEND_TEXT = True
QUERIES_PER_SECOND = 1000000.0
CORPORA = {
    'standard': @standard/sgeat.Corpus(),
    'augmented': @augmented/sgeat.Corpus(),
    'random': @random/sgeat.Corpus(),
    'calm': @calm/sgeat.Corpus(),
    'second': @second/sgeat.Corpus(),
    'dapt': @dapt/sgeat.Corpus(),
    'scored': @scored/sgeat.Corpus(),
    'pairs': @pairs/sgeat.Corpus(),
    'tagged': @tagged/sgeat.Corpus(),
}
tagged/sgeat.Corpus:
  source = 'standard'
  select = @tagged/filter.filter
  task = @tagged.tagged_task
tagged/filter.filter.selection = @tagged/filter.RandomShare()
tagged/filter.RandomShare.fraction = 1.0
GOOD_TAG = '<+>'
BAD_TAG = '<->'
pairs/sgeat.Corpus:
  source = 'random'
  pairs = @pairing.KeptAgainstDiscarded
pairing.KeptAgainstDiscarded.margin = 0.01
dpo/train.train:
  objective = @dpo.Preference()
  task_feature_lengths = {'targets': 32}
  optimizer = @adapter/optimizer.AdamW()
dapt/sgeat.Corpus:
  documents = 'train'
  select = @dapt/filter.filter
  lengths_of = 'standard'
  size_share = 0.5
  apart_from_prompts = True
dapt/filter.filter.selection = @dapt/filter.InTurn()
dapt/filter.InTurn.steps = [@distinct.Distinct(), @filter.LeastToxic()]
scored/sgeat.Corpus:
  documents = '{scored}'
  is_scored = True
second/sgeat.Corpus:
  prompts = @prompts.Standard
  writer = 'sgeat-whole'
augmented/sgeat.Corpus:
  prompts = @prompts.Augmented
  source = 'standard'
prompts.Augmented.num_documents = %NUM_DOCUMENTS
random/sgeat.Corpus:
  source = 'standard'
  select = @random/filter.filter
  size_of = 'standard'
random/filter.filter.selection = @filter.RandomShare()
calm/sgeat.Corpus.documents = 'heldout_nontoxic'
METHODS = {
    'sgeat-whole': {'corpus': 'standard'},
    'sgeat-adapter': {'corpus': 'standard', 'adaptation': %ADAPTATION},
    'control-random': @control/sgeat.Method(),
    'augmented-seed1': {'corpus': 'augmented', 'random_seed': 1},
    'base-top': {'decoding': {'sampling': @sampling.TopKSampling()}},
    'base-words': {'decoding': {'steering': [@words.BannedWords()]}},
    'round-2': {'corpus': 'second', 'start': 'sgeat-whole'},
    'dpo': {'corpus': 'pairs', 'train': @dpo/train.train, 'adaptation': %ADAPTATION},
    'conditional': {
        'corpus': 'tagged',
        'adaptation': %ADAPTATION,
        'decoding': {'behind': @tags.Tags()},
    },
    'negated': {'terms': {'control-random': -0.5}},
    'adapter-best': {'start': 'sgeat-adapter', 'best_of': 2},
    'adapter-vector': {
        'start': 'sgeat-adapter',
        'decoding': {'steering': [@activations.ActivationOffset()]},
    },
    'adapter-words': {'start': 'sgeat-adapter', 'decoding': {'steering': [@words.BannedWords()]}},
}
sampling.TopKSampling.k = 50
VECTORS = {'mean': {'corpus': 'random'}, 'people': {'corpus': 'dapt'}}
steer.steer.margin = 0.01
activations.ActivationOffset:
  vectors = 'mean'
  strength = 0.1
control/sgeat.Method.corpus = 'random'
"""


PAIRS = sgeat.Corpus(documents="pairs.jsonl", pairs=str)


class Flags(list):
    """The command line of a run, and the service that one of its judges asks."""

    service: FakeService


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    root = tmp_path_factory.mktemp("sgeat")
    with pytest.MonkeyPatch.context() as patch, running_service(patch) as service:
        lines = [
            f"remote.PerspectiveScorer.url = '{service.address}/perspective'",
            f"SCORE_CACHE = '{root / 'scores.sqlite'}'",
        ]
        config = CONFIG.replace("{scored}", str(root / "scored.jsonl"))
        (root / "scored.jsonl").write_text(
            "".join(
                f'{{"id": "s{i}", "text": "a text of {i} words", "toxicity": {i / 10}}}\n'
                for i in range(10)
            )
        )
        (root / "small.gin").write_text("\n".join([config, *lines]) + "\n")
        flags = Flags(["sgeat", f"--gin_file={root / 'small.gin'}", f"--gin.DOWNSTREAM_DIR={root}"])
        flags.service = service
        draw_few_files(patch)
        # All prompts in one bucket: whatever decodes is compiled for each.
        patch.setattr(decoding, "_SMALLEST_BUCKET", 32)
        for name, value in sgeat_made.DEMO_CORPUS.items():
            patch.setattr(demo_corpus, name, value)
        sgeat_made.write_questions(root)
        yield flags


@pytest.fixture(scope="module")
def run_dir(flags, tmp_path_factory):
    """A finished run."""
    path = tmp_path_factory.mktemp("run") / "out"
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={path}"]) == 0
    return path


def files_of(root):
    """Every file but clocks and TensorBoard's, whose names and events hold times."""
    volatile = ("times.json", "report.html")
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
        and "tensorboard" not in path.parts
        and "checkpoints" not in path.parts
        and path.name not in volatile
    }


def manifest(directory):
    return json.loads((directory / "manifest.json").read_text())


def test_results_hold_every_method_and_split(run_dir):
    results = json.loads((run_dir / "results.json").read_text())
    methods = {row["method"] for row in results["rows"]}
    trained = {"sgeat-whole", "sgeat-adapter", "control-random", "augmented-seed1", "round-2"}
    made = {"dpo", "negated", "conditional", *trained}
    decoded = {"base-top", "base-words", "adapter-words", "adapter-best", "adapter-vector"}
    assert methods == {"base", *decoded, *made}
    assert {row["split"] for row in results["rows"]} == {"full", "toxic", "nontoxic"}
    assert {row["scorer"]["name"] for row in results["rows"]} == {"ngram"}
    for row in results["rows"]:
        for metric in ("expected_maximum_toxicity", "toxicity_probability", "mean_toxicity"):
            assert row[metric]["low"] <= row[metric]["value"] <= row[metric]["high"]
        assert row["coverage"] == 1.0
        if not row["method"].endswith("-words"):
            assert row["perplexity"]["value"] > 1
        assert row["continuation_perplexity"]["value"] > 1 and len(row["distinct"]) == 3
    full = [row for row in results["rows"] if row["split"] == "full"]
    assert all((row["num_prompts"], row["num_samples"]) == (8, 16) for row in full)
    assert {row["baseline"] for row in results["paired"]} == {"base"}


def test_judges_do_not_share_a_table(run_dir):
    first = json.loads((run_dir / "results.json").read_text())
    second = json.loads((run_dir / "evaluation" / "perspective" / "results.json").read_text())
    assert {row["scorer"]["name"] for row in second["rows"]} == {"perspective"}
    for ngram, perspective in zip(first["rows"], second["rows"], strict=True):
        assert ngram["perplexity"] == perspective["perplexity"]
        assert ngram["mean_toxicity"] != perspective["mean_toxicity"]
    page = (run_dir / "report.html").read_text()
    assert "perspective-v1alpha1-TOXICITY" in page and "ngram-2-" in page


def test_a_service_is_sent_the_continuations_alone_each_once(flags, run_dir):
    sent = flags.service.texts()
    places = [
        place / ("chosen" if (place / "chosen").exists() else "generated")
        for place in (run_dir / "continuations").iterdir()
    ]
    shards = [shard for place in places for shard in place.glob("*.jsonl")]
    lines = [json.loads(line) for shard in shards for line in shard.read_text().splitlines()]
    written = {g["text"] for line in lines for g in line["generations"] if g["text"].strip()}
    assert sorted(sent) == sorted(written)
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_without_consent_nothing_is_begun(flags, tmp_path, capsys):
    out = tmp_path / "out"
    before = len(flags.service.requests)
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={out}", "--gin.CONSENT_TO_SEND_TEXT=False"]) == 2
    assert "--gin.CONSENT_TO_SEND_TEXT=True" in capsys.readouterr().err
    assert not out.exists() and len(flags.service.requests) == before


def test_who_filtered_is_told(run_dir):
    results = json.loads((run_dir / "results.json").read_text())
    filtered_by = results["provenance"]["filtered_by"]
    assert filtered_by["sgeat-whole"]["name"] == "ngram"
    assert filtered_by["base"] is None and filtered_by["control-random"] is None
    # Nothing filtered these, and the same scores decided: by tags, by pairs of a random share.
    assert filtered_by["conditional"]["name"] == filtered_by["dpo"]["name"] == "ngram"
    assert filtered_by["negated"] is None  # A random share, subtracted.


def test_controls_have_no_more_words(run_dir):
    def words(corpus):
        shards = (run_dir / "corpora" / corpus / "kept").glob("*.jsonl")
        lines = [line for shard in shards for line in shard.read_text().splitlines()]
        return sum(len(json.loads(line)["text"].split()) for line in lines)

    assert 0 < words("random") <= words("standard")
    assert words("calm") > 0


def test_a_control_of_peoples_text_is_of_equal_lengths_and_apart_from_the_prompts(run_dir):
    kept = manifest(run_dir / "corpora" / "dapt" / "kept")
    standard = manifest(run_dir / "corpora" / "standard" / "kept")
    assert kept["counts"]["kept"] == kept["lengths"]["documents"]
    assert kept["lengths"]["documents"] == (standard["counts"]["kept"] + 1) // 2
    assert kept["apart"]["records"] == 8
    prompts = manifest(run_dir / "continuations" / "base" / "generated")["settings"]["prompts"]
    assert kept["settings"]["apart_from"]["sha256"] == prompts["sha256"]
    assert [step["selection"] for step in kept["steps"]] == ["Distinct", "LeastToxic"]
    assert kept["filtered_by"]["name"] == "ngram"


def test_vectors_of_peoples_text_are_apart_from_the_prompts_too(run_dir):
    apart, kept = (manifest(run_dir / "corpora" / "dapt" / name) for name in ("apart", "kept"))
    for name in ("input", "apart_from"):
        assert apart["settings"][name]["sha256"] == kept["settings"][name]["sha256"]
    assert apart["apart"] == kept["apart"]
    left_out = apart["apart"]["id"] + apart["apart"]["text"]
    counts = apart["counts"]
    assert counts["kept"] == counts["documents"] - counts["empty"] - left_out
    read = manifest(run_dir / "vectors" / "people")["settings"]["input"]
    assert read["path"] == str(run_dir / "corpora" / "dapt" / "apart")
    assert not (run_dir / "corpora" / "standard" / "apart").exists()


def test_documents_that_have_scores_are_filtered_by_them(run_dir):
    kept = manifest(run_dir / "corpora" / "scored" / "kept")
    assert kept["highest_kept"] == 0.4 and kept["counts"]["kept"] == 5
    assert not (run_dir / "corpora" / "scored" / "scored").exists()


def test_a_row_is_trained_on_pairs_of_what_was_kept_and_what_was_thrown_away(run_dir):
    pairs = manifest(run_dir / "corpora" / "pairs" / "pairs")
    kept = manifest(run_dir / "corpora" / "random" / "kept")
    assert pairs["counts"]["kept"] == kept["counts"]["kept"]
    assert pairs["counts"]["kept"] + pairs["counts"]["discarded"] == 40
    base = manifest(run_dir / "models" / "sgeat-whole")["settings"]["initial_checkpoint"]
    assert pairs["settings"]["reference"]["fingerprint"] == base
    trained = manifest(run_dir / "models" / "dpo")["settings"]
    assert trained["objective"]["method"] == "Preference" and trained["data"]["task"] == "pairs"
    assert trained["initial_checkpoint"] == base
    rows = json.loads((run_dir / "results.json").read_text())["rows"]
    labels = {(row["corpus"], row["adaptation"]) for row in rows if row["method"] == "dpo"}
    assert labels == {("pairs", "adapter")}


def test_a_row_is_the_base_minus_what_another_learnt(run_dir):
    combined = manifest(run_dir / "models" / "negated")
    base = manifest(run_dir / "models" / "sgeat-whole")["settings"]["initial_checkpoint"]
    (term,) = combined["settings"]["terms"]
    assert combined["settings"]["base"]["fingerprint"] == base
    assert term["weight"] == -0.5 and term["path"].endswith("models/control-random")
    written = manifest(run_dir / "continuations" / "negated" / "generated")["settings"]
    assert written["checkpoint"]["fingerprint"] == combined["fingerprint"] != base


def test_a_dry_run_says_what_is_done_and_what_comes_again(flags, run_dir, tmp_path, capsys):
    shutil.copytree(run_dir, tmp_path / "out", copy_function=os.link)
    command = [*flags, f"--gin.OUTPUT_DIR={tmp_path / 'out'}", "--dry_run"]
    assert cli.main(command) == 0
    head, *steps = capsys.readouterr().out.split("# plan: ")[1].splitlines()
    assert head == f"{len(steps)} steps, {len(steps)} of them done"
    answered = {step.split()[3].rsplit("/")[-1] for step in steps if step.split()[2] == "choices"}
    assert answered == {path.name for path in (run_dir / "choices").iterdir()}
    shutil.rmtree(tmp_path / "out" / "choices" / "dpo")
    assert cli.main(command) == 0
    head, *steps = capsys.readouterr().out.split("# plan: ")[1].splitlines()
    to_do = [step.split()[3] for step in steps if step.split()[1] == "to"]
    assert to_do == ["choices", "evaluate", "report"]


# A setting of a late step, the first step that was made with another, and what is said of it.
CHANGED = [
    ("KEEP_FRACTION=0.25", "corpora/standard/kept", "selection.fraction: 0.5 there, 0.25 now"),
    ("NUM_DOCUMENTS=41", "corpora/standard/generated", "prompts.num_documents: 40 there, 41 now"),
    ("DOCUMENT_MAX_NEW_TOKENS=9", "corpora/standard/generated", "max_new_tokens: 8 there, 9 now"),
    ("LEARNING_RATE=0.5", "models/sgeat-whole", "optimizer.learning_rate: "),
    ("ADAPTER_LEARNING_RATE=0.5", "models/sgeat-adapter", "optimizer.learning_rate: "),
    ("BATCH_SIZE=16", "models/sgeat-whole", "data.batch_size: 8 there, 16 now"),
    ("random/filter.filter.seed=1", "corpora/random/kept", "seed: 0 there, 1 now"),
    ("pairing.KeptAgainstDiscarded.margin=0.02", "corpora/pairs/pairs", "pairing.margin: "),
    ("steer.steer.margin=0.02", "vectors/mean", "margin: 0.01 there, 0.02 now"),
    ("NUM_SAMPLES=3", "continuations/base/generated", "num_samples: 2 there, 3 now"),
    ("sampling.TopKSampling.k=40", "continuations/base-top/generated", "sampling.k: 50 there"),
    (
        "activations.ActivationOffset.strength=0.2",
        "continuations/adapter-vector/generated",
        "steering[0].strength: 0.1 there, 0.2 now",
    ),
    ("evaluate.evaluate.bootstrap_draws=300", "evaluation", "bootstrap_draws: 10000 there, 300"),
    ("FRONTIERS={'all':['sgeat-whole']}", "report", "frontiers: None there"),
]


@pytest.mark.parametrize(("changed", "place", "said"), CHANGED)
def test_a_step_of_other_settings_is_refused_before_an_earlier_one_is_done(
    changed, place, said, flags, run_dir, tmp_path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(run_dir, out, copy_function=os.link)
    for unfinished in ("corpora/standard/scored", "models/control-random"):
        shutil.rmtree(out / unfinished)
    before = files_of(out)
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={out}", f"--gin.{changed}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"detox-jax: error: {out / place}: holds output made with other settin")
    assert f"({said}" in error and error.count("\n") == 1
    assert f"remove this directory alone (rm -r {out / place})" in error
    assert files_of(out) == before


def _steps(root):
    """Every directory of a step, from the outside."""
    return sorted(str(path.parent.relative_to(root)) for path in root.rglob("manifest.json"))


# What is not known before a step that is to be done again is no difference.
MISSING = ["base", "corpora/standard/generated", "models/sgeat-whole", "models/sgeat-adapter"]


@pytest.mark.parametrize("missing", slow_but(MISSING, [*MISSING, None]))
def test_what_is_to_be_made_again_is_taken_for_what_it_was(
    missing, flags, run_dir, tmp_path, capsys
):
    for step in [missing] if missing else _steps(run_dir):
        out = tmp_path / step.replace("/", "-")
        shutil.copytree(run_dir, out, copy_function=os.link)
        shutil.rmtree(out / step)
        assert cli.main([*flags, f"--gin.OUTPUT_DIR={out}", "--dry_run"]) == 0, step
        assert "to do" in capsys.readouterr().out
        shutil.rmtree(out)


def test_a_row_of_conditional_training_is_asked_behind_its_tag(run_dir):
    source = manifest(run_dir / "models" / "conditional")["settings"]["data"]["source"]
    assert (source["tags"]["good"], source["tags"]["bad"]) == ("<+>", "<->")
    counts = manifest(run_dir / "corpora" / "tagged" / "kept")["counts"]
    assert sum(source["tags"]["documents"].values()) == counts["kept"] > 30
    assert counts["kept"] + counts["unscored"] + counts["empty"] == counts["documents"] == 40
    written = manifest(run_dir / "continuations" / "conditional" / "generated")["settings"]
    assert written["behind"] == {"good": "<+>", "bad": "<->"}
    results = json.loads((run_dir / "results.json").read_text())
    (row, *_) = [row for row in results["rows"] if row["method"] == "conditional"]
    assert row["perplexity"]["value"] > 1 and row.get("accuracy_lambada") is None
    methods = results["provenance"]["settings"]["methods"]
    assert methods["conditional"]["behind"] == {"good": "<+>", "bad": "<->"}
    assert methods["conditional"]["own_decoding"] == ["behind"]
    assert "behind" not in methods["dpo"]
    assert not (run_dir / "choices" / "conditional").exists()
    kept = json.loads((run_dir / "evaluation" / "perplexity-conditional.json").read_text())
    assert kept["inputs"]["behind"] == "<+>"


def test_other_tags_than_those_of_the_training_are_refused(flags, run_dir, tmp_path, capsys):
    command = ["generate", f"--gin.CHECKPOINT_PATH={run_dir / 'models' / 'conditional'}"]
    command += [f"--gin.INPUT={run_dir / 'text' / 'prompts'}", f"--gin.OUTPUT_DIR={tmp_path / 'o'}"]
    assert cli.main([*command, "--gin.BEHIND=@tags.Tags()"]) == 2
    error = capsys.readouterr().err
    assert "was trained behind '<+>' and '<->', but BEHIND has '<|good|>'" in error


def test_every_model_answers_the_zero_shot_tasks(run_dir):
    results = json.loads((run_dir / "results.json").read_text())
    for row in results["rows"]:
        if row["method"].endswith(("-words", "-vector")) or row["method"] == "conditional":
            continue
        same = {"base-top": "base", "adapter-best": "sgeat-adapter"}
        model = same.get(row["method"], row["method"])
        answers = json.loads((run_dir / "choices" / model / "accuracies.json").read_text())
        accuracy = answers["tasks"]["lambada"]["accuracy"]["value"]
        assert row["accuracy_lambada"]["value"] == row["average_accuracy"]["value"] == accuracy
    paired = {(row["method"], row["metric"]) for row in results["paired"]}
    assert ("sgeat-adapter", "accuracy_lambada") in paired
    assert "Zero-shot accuracy" in (run_dir / "report.html").read_text()


def test_a_steered_row_has_no_figure_of_the_model_that_nothing_steers(run_dir):
    results = json.loads((run_dir / "results.json").read_text())
    rows = [row for row in results["rows"] if row["method"].endswith("-words")]
    assert len(rows) == 6
    of_base = results["rows"][0]["perplexity"]
    for row in rows:
        # A ban takes probability from insults, of which nontoxic held-out text has few.
        of = row["perplexity"]
        assert of["documents"] + of.get("impossible", 0) == of_base["documents"]
        assert of["value"] > 1 and of != of_base
        assert row["continuation_perplexity"]["value"] > 1
        assert row.get("accuracy_lambada") is None
    assert not any("not measured of a steered model" in note for note in _notes(results))
    settings = manifest(run_dir / "continuations" / "base-words" / "generated")["settings"]
    assert settings["steering"][0]["method"] == "BannedWords"
    assert not (run_dir / "choices" / "base-words").exists()
    assert "base-words" in (run_dir / "report.html").read_text()


def test_a_row_is_the_least_toxic_of_more_samples(run_dir):
    place = run_dir / "continuations" / "adapter-best"
    settings = manifest(place / "generated")["settings"]
    plain = manifest(run_dir / "continuations" / "sgeat-adapter" / "generated")["settings"]
    assert (settings["num_samples"], plain["num_samples"]) == (4, 2)
    assert settings["checkpoint"] == plain["checkpoint"]
    chosen = manifest(place / "chosen")
    assert chosen["settings"]["selection"] == {"method": "BestOf", "keep": 2}
    assert chosen["counts"]["samples"] == 32 and chosen["counts"]["kept"] == 16

    def scores(part, key):
        (shard,) = (place / part).glob("*.jsonl")
        records = [json.loads(line) for line in shard.read_text().splitlines()]
        return [[generation[key] for generation in record["generations"]] for record in records]

    texts = scores("scored", "toxicity"), scores("chosen", "chosen_with_toxicity")
    for samples, kept in zip(*texts, strict=True):
        assert kept == [min(samples[:2]), min(samples[2:])]
    assert not (run_dir / "models" / "adapter-best").exists()


def test_who_chose_and_of_how_much_is_told_by_each_judge(run_dir):
    results = json.loads((run_dir / "results.json").read_text())
    other = json.loads((run_dir / "evaluation" / "perspective" / "results.json").read_text())
    of_judge, of_other = (
        next(note for note in _notes(of) if "adapter-best" in note) for of in (results, other)
    )
    for note in (of_judge, of_other):
        assert "each the least toxic of 2 samples by ngram-" in note
        assert "(50.0% of the samples)" in note and "are its model's" in note
    assert "flatters" in of_judge and "flatters" not in of_other
    assert results["provenance"]["filtered_by"]["adapter-best"]["name"] == "ngram"
    methods = results["provenance"]["settings"]["methods"]
    assert methods["adapter-best"]["own_decoding"] == ["best_of"]
    rows = {row["method"]: row for row in results["rows"]}
    assert rows["adapter-best"]["perplexity"] == rows["sgeat-adapter"]["perplexity"]
    assert rows["adapter-best"]["corpus"] == "standard"


def test_a_row_is_steered_by_vectors_that_the_run_fitted(run_dir):
    fitted = manifest(run_dir / "vectors" / "mean")
    scored = run_dir / "corpora" / "standard" / "scored"
    base = manifest(run_dir / "models" / "sgeat-whole")["settings"]["initial_checkpoint"]
    assert fitted["rule"] == "mean_difference" and fitted["pairs"] > 0
    assert fitted["settings"]["checkpoint"]["fingerprint"] == base
    assert fitted["settings"]["input"]["path"] == str(scored)
    settings = manifest(run_dir / "continuations" / "adapter-vector" / "generated")["settings"]
    (method,) = settings["steering"]
    assert method["vectors"]["path"] == str(run_dir / "vectors" / "mean")
    rows = json.loads((run_dir / "results.json").read_text())["rows"]
    rows = {row["method"]: row for row in rows}
    assert rows["adapter-vector"]["perplexity"] != rows["sgeat-adapter"]["perplexity"]
    assert not (run_dir / "choices" / "adapter-vector").exists()


def _notes(results):
    return results["provenance"]["notes"]


def test_the_adapter_alone_is_trained_and_saved(run_dir):
    parameters = manifest(run_dir / "models" / "sgeat-adapter")["parameters"]
    assert parameters["trained"] == 1 * 2 * (16 * 4 + 4 + 4 * 16 + 16)
    assert parameters["frozen"] == manifest(run_dir / "base")["parameters"]["trained"]


def test_every_training_has_its_own_budget(run_dir):
    trained = {"base": 3, "models/sgeat-whole": 2, "models/sgeat-adapter": 2}
    for directory, steps in trained.items():
        written = manifest(run_dir / directory)
        assert written["steps"] == written["settings"]["train_steps"] == steps
        assert written["settings"]["epochs"] is None


def test_seeds_of_training_and_continuations(run_dir):
    def seeds(model, row):
        generated = manifest(run_dir / "continuations" / row / "generated")
        return manifest(model)["settings"]["random_seed"], generated["settings"]["random_seed"]

    assert seeds(run_dir / "models" / "augmented-seed1", "augmented-seed1") == (1, 1)
    assert seeds(run_dir / "base", "base") == seeds(run_dir / "base", "sgeat-whole") == (0, 0)


def test_a_second_round_is_written_by_and_trained_on_from_the_first(run_dir):
    first = manifest(run_dir / "models" / "sgeat-whole")["settings"]
    second = manifest(run_dir / "models" / "round-2")["settings"]
    documents = manifest(run_dir / "corpora" / "second" / "generated")["settings"]
    base = manifest(run_dir / "corpora" / "standard" / "generated")["settings"]
    assert first["initial_checkpoint"] == base["checkpoint"]["fingerprint"]
    assert second["initial_checkpoint"] == documents["checkpoint"]["fingerprint"]
    assert second["initial_checkpoint"] != first["initial_checkpoint"]


def test_a_trained_row_may_be_decoded_otherwise(run_dir):
    steered = manifest(run_dir / "continuations" / "adapter-words" / "generated")["settings"]
    plain = manifest(run_dir / "continuations" / "sgeat-adapter" / "generated")["settings"]
    assert steered["checkpoint"] == plain["checkpoint"]
    assert steered["steering"][0]["method"] == "BannedWords"
    rows = json.loads((run_dir / "results.json").read_text())["rows"]
    labels = {row["method"]: (row["corpus"], row["adaptation"]) for row in rows}
    assert labels["adapter-words"] == labels["sgeat-adapter"] == ("standard", "adapter")


def test_a_row_without_training_is_the_base_decoded_otherwise(run_dir):
    settings = manifest(run_dir / "continuations" / "base-top" / "generated")["settings"]
    base = manifest(run_dir / "continuations" / "base" / "generated")["settings"]
    assert settings["sampling"] == {"method": "TopKSampling", "k": 50, "temperature": 1.0}
    assert settings["checkpoint"] == base["checkpoint"]
    assert not (run_dir / "models" / "base-top").exists()
    assert not (run_dir / "choices" / "base-top").exists()
    results = json.loads((run_dir / "results.json").read_text())
    (row, *_) = [row for row in results["rows"] if row["method"] == "base-top"]
    assert (row["corpus"], row["adaptation"]) == (None, None)
    assert row["perplexity"] == results["rows"][0]["perplexity"]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("adapter", ["sgeat-whole", "sgeat-adapter"]),
        ("lora", ["sgeat-whole", "sgeat-lora"]),
        ("prefix", ["sgeat-whole", "sgeat-prefix"]),
        ("whole", ["sgeat-whole"]),
    ],
)
def test_the_shipped_adaptations_enter_the_method_by_their_files(name, rows, monkeypatch):
    seen = []
    monkeypatch.setattr(method, "check_names", lambda corpora, rows, judges: seen.append(rows))
    monkeypatch.setattr(sgeat, "_given", _stop)
    flags = ["--gin.OUTPUT_DIR=out", f"--gin_file=gin_configs/adaptation/{name}.gin"]
    assert cli.main(["sgeat", *flags]) == 2
    assert [*seen[0]] == rows
    for name, row in seen[0].items():
        assert (row.corpus, row.label) == ("standard", name.removeprefix("sgeat-"))


def _stop(*args):
    raise UserError("far enough")


@pytest.mark.parametrize(
    ("frontiers", "line"),
    [
        (
            "{'steps': ['sgeat-hole']}",
            "FRONTIERS: 'steps' names 'sgeat-hole'; there are sgeat-whole",
        ),
        ("{'steps': ['sgeat-whole']}", "required and not set"),
    ],
)
def test_frontiers_name_rows_or_nothing_begins(frontiers, line, capsys):
    flags = ["--gin.OUTPUT_DIR=out", "--gin_file=gin_configs/adaptation/whole.gin"]
    assert cli.main(["sgeat", *flags, f"--gin.FRONTIERS={frontiers}"]) == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"corpora": "standard"}, "method 'm': has no 'corpora'; a row has corpus, adaptation"),
        ("standard", "method 'm': 'standard' is no row"),
        ({"corpus": "standard", "adaptation": "lora"}, "adaptation is 'lora'; give None .*LoRA"),
        ({"adaptation": LoRAConfig()}, "method 'm': trains, but names no corpus"),
        ({"decoding": {"top_p": 0.5}}, "method 'm': decoding has no 'top_p'; it has"),
        ({"decoding": {"behind": "<|good|>"}}, r"behind: .* got '<\|good\|>'; give @tags.Tags()"),
        ({"decoding": {"sampling": "greedy"}}, "sampling: .* got 'greedy'; give @sampling.Greedy"),
        ({"decoding": {"steering": BannedWords()}}, r"steering: expected a list .*; give \[@words"),
        ({"decoding": {"dtype": "float17"}}, "dtype: must be one of float32, bfloat16, got 'f"),
        ({"decoding": {"random_seed": "x"}}, "random_seed: expected a whole number, got 'x'"),
        ({"decoding": {"batch_size": 0}}, "batch_size: must be at least 1, got 0"),
        ({"decoding": "greedy"}, "decoding: expected a dict of values by name.*, got 'greedy'"),
        ({"decoding": {"random_seed": 1}, "random_seed": 2}, "has a random_seed, and its decoding"),
        ({"random_seed": "x"}, "method 'm': random_seed: expected a whole number.* got 'x'"),
        ({"random_seed": -1}, "method 'm': random_seed: must be from 0 to 4,294,967,295, got -1"),
        ({"corpus": ["standard"]}, r"method 'm': corpus: expected text or None, got \['standard'"),
        ({"start": ["a"]}, "method 'm': start: expected text or None"),
        ({"terms": ["a"]}, "method 'm': terms: expected a dict of numbers by name or None"),
        ({"terms": {"a": "0.5"}}, "method 'm': terms: 'a': expected a number, got '0.5'"),
        ({"corpus": "standard", "train": 3}, "method 'm': train: expected a reference, @NAME"),
        ({}, "method 'm': is the base once more; give {'corpus': 'standard'}"),
        ({"terms": {}}, "method 'm': terms are rows by weight"),
        ({"terms": {"a": 1.0}, "corpus": "standard"}, "in place of a corpus"),
        ({"decoding": {"max_new_tokens": 9}}, "changes 'max_new_tokens', .*--gin.MAX_NEW_TOKENS="),
        ({"decoding": {"num_samples": 9}}, "changes 'num_samples', which all rows must share"),
        ({"best_of": 1}, "method 'm': best_of is 1; give the number of samples"),
        ({"best_of": 2.0}, "method 'm': best_of is 2.0; "),
        ({"best_of": True}, "method 'm': best_of is True; "),
        ({"chooser": print}, "method 'm': has a chooser, and no best_of says among how many"),
        ({"best_of": 2, "chooser": "ngram"}, "chooser is 'ngram'; give the verb `score`"),
    ],
)
def test_rows_that_say_nothing_that_can_be_done(row, message):
    with pytest.raises(UserError, match=message):
        rows = method.rows({"m": row}, None, {"standard": sgeat.Corpus()})
        rows["m"].decode_with(decoding.Decoding())


def test_a_rerun_changes_nothing(flags, run_dir):
    before = files_of(run_dir)
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={run_dir}"]) == 0
    assert files_of(run_dir) == before


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(flags, run_dir):
    before = files_of(run_dir)
    # As if it had died while it wrote the second corpus: what stands after that is gone.
    shutil.rmtree(run_dir / "corpora" / "augmented" / "scored")
    kept = run_dir / "corpora" / "augmented" / "generated"
    next(kept.glob("*.jsonl")).unlink()
    (kept / "manifest.json").write_text(json.dumps({**manifest(kept), "complete": False}))
    asked = len(flags.service.requests)
    for directory in ("models/augmented-seed1", "continuations/augmented-seed1", "evaluation"):
        shutil.rmtree(run_dir / directory)
    shutil.rmtree(run_dir / "report")
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={run_dir}"]) == 0
    after = files_of(run_dir)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == []
    assert len(flags.service.requests) == asked, "the cache has the scores"


@pytest.mark.slow
def test_a_tree_that_was_moved_goes_on_under_its_new_name(flags, run_dir, tmp_path, monkeypatch):
    """Content decides, not where it lies or how its place is spelt."""
    shutil.copytree(run_dir, tmp_path / "elsewhere")
    before = files_of(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere" / "report")  # what is missing is made again
    monkeypatch.chdir(tmp_path)
    assert cli.main([*flags, "--gin.OUTPUT_DIR=./elsewhere"]) == 0
    after = files_of(tmp_path / "elsewhere")
    changed = {name for name in before if before[name] != after[name]}
    assert after.keys() == before.keys()
    # What says where the run now is.
    assert changed == {"config.gin", "report/config.gin", "report/manifest.json"}


def test_the_configuration_beside_the_results_repeats_the_run(run_dir, capsys):
    results = json.loads((run_dir / "results.json").read_text())
    command = results["provenance"]["command"].split()
    assert command[:2] == ["detox-jax", "sgeat"]
    assert cli.main([*command[1:], "--dry_run"]) == 0
    assert "fit.Budget.train_steps" in capsys.readouterr().out


def test_the_first_judge_is_the_first_however_its_name_begins(flags, run_dir, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(run_dir, out)
    judges = "{'perspective': @perspective/score.score, 'ngram': @ngram/score.score}"
    command = [*flags, f"--gin.OUTPUT_DIR={out}", f"--gin.JUDGES={judges}"]
    assert cli.main([*command, "--dry_run"]) == 2
    error = capsys.readouterr().err
    said = "(order of results: 'ngram/results.json' there, 'perspective/results.json' now)"
    assert said in error and "it is that of JUDGES, which" in error
    shutil.rmtree(out / "report")
    assert cli.main(command) == 0
    first = (out / "evaluation" / "perspective" / "results.json").read_bytes()
    assert (out / "results.json").read_bytes() == first
    again = json.loads(first)["provenance"]["command"].replace(str(run_dir), str(out)).split()
    assert cli.main(again[1:]) == 0
    assert (out / "results.json").read_bytes() == first


def test_a_report_of_other_figures_is_made_again_and_the_plan_says_so(
    flags, run_dir, tmp_path, capsys
):
    """As of a row more; perplexities may stay where the figures are removed."""
    out = tmp_path / "out"
    shutil.copytree(run_dir, out)
    command = [*flags, f"--gin.OUTPUT_DIR={out}", "--gin.evaluate.evaluate.bootstrap_draws=300"]
    assert cli.main([*command, "--dry_run"]) == 2
    assert "perplexity-*.json and continuation_perplexity-*.json may" in capsys.readouterr().err
    for name in ("ngram", "perspective"):
        shutil.rmtree(out / "evaluation" / name)
    (out / "evaluation" / "manifest.json").unlink()
    kept = {file: file.read_bytes() for file in (out / "evaluation").glob("*perplexity-*.json")}
    assert len(kept) > 20
    assert cli.main([*command, "--dry_run"]) == 0
    steps = capsys.readouterr().out.split("# plan: ")[1].splitlines()
    assert [step.split()[3] for step in steps if " to do " in step] == ["evaluate", "report"]
    before = manifest(out / "report")["settings"]["results"]
    assert cli.main(command) == 0
    assert manifest(out / "report")["settings"]["results"] != before
    assert (out / "report.html").read_bytes() == (out / "report" / "report.html").read_bytes()
    assert {file: file.read_bytes() for file in kept} == kept
    capsys.readouterr()
    assert cli.main([*command, "--dry_run"]) == 0
    assert " to do " not in capsys.readouterr().out


def test_a_dtype_is_of_all_that_is_written(tmp_path):
    given = [f"--gin.OUTPUT_DIR={tmp_path}", "--checkpoint=base", "--input=p", "--gin.HELDOUT=h"]
    for name, dtype in ((None, None), ("bfloat16", "bfloat16")):
        flags = [] if name is None else [f"--gin.DTYPE={name}"]
        arguments = cli.parse_arguments(["sgeat", *given, *flags])
        verb, defaults = cli.load_config(arguments)
        configuration.check(verb, defaults, arguments.bindings)
        for scope in ("documents", "continuations"):
            with gin.config_scope(scope):
                made = gin.get_configurable(decoding.Decoding)()
            assert made.dtype == dtype, scope


def test_times_of_every_step(run_dir):
    steps = json.loads((run_dir / "times.json").read_text())["steps"]
    assert {"pretrain the base model", "report"} <= {step["step"] for step in steps}
    assert all(step["seconds"] >= 0 for step in steps)


@pytest.mark.parametrize(
    ("corpora", "methods", "judges", "message"),
    [
        ({"a": sgeat.Corpus(prompts=str, source="b")}, {}, {"j": print}, "no corpus 'b'"),
        ({"a": sgeat.Corpus(prompts=str, size_of="b")}, {}, {"j": print}, "no corpus 'b'"),
        ({"a": sgeat.Corpus(prompts=str, writer="m")}, {}, {"j": print}, "'m' is no method"),
        ({"a": sgeat.Corpus(prompts=str, pool=("b",))}, {}, {"j": print}, "no corpus 'b'"),
        ({"a": sgeat.Corpus(prompts=str, pool="ab")}, {}, {"j": print}, "give a list of corpora"),
        (
            {"b": sgeat.Corpus(prompts=str), "a": sgeat.Corpus(prompts=str, pool=("b",))},
            {},
            {"j": print},
            "'a': pool needs a task that takes it",
        ),
        ({"a": sgeat.Corpus(documents="d", generate=print)}, {}, {"j": print}, "a generate and no"),
        ({"a": sgeat.Corpus(source="b", writer="m")}, {}, {"j": print}, "no corpus 'b'"),
        ({}, {"m": sgeat.Method(start="n")}, {"j": print}, "start 'n' is no method"),
        ({"a": sgeat.Corpus()}, {}, {"j": print}, "needs prompts, a source or documents"),
        ({"a": sgeat.Corpus(prompts=str, documents="d")}, {}, {"j": print}, "takes no prompts"),
        ({"a": sgeat.Corpus(documents="d", lengths_of="b")}, {}, {"j": print}, "no corpus 'b'"),
        ({"a": sgeat.Corpus(prompts=str, is_scored=True)}, {}, {"j": print}, "is of documents"),
        ({}, {"m": sgeat.Method("a")}, {"j": print}, "no corpus 'a'"),
        ({}, {"m": sgeat.Method(terms={"n": 1.0})}, {"j": print}, "a term 'n' is no method"),
        ({"a": PAIRS}, {"m": sgeat.Method("a")}, {"j": print}, "is of pairs; give a train whose"),
        ({"a": PAIRS, "b": sgeat.Corpus(source="a")}, {}, {"j": print}, "'a' is of pairs and no"),
        (
            {"a": dataclasses.replace(PAIRS, writer="n")},
            {"m": sgeat.Method("a", train=print), "n": sgeat.Method()},
            {"j": print},
            "'m': starts from 'base', but the reference of the pairs 'a' is 'n'",
        ),
        (
            {"a": dataclasses.replace(PAIRS, documents=None, prompts=str)},
            {},
            {"j": print},
            "mined of a source, so it takes no prompts",
        ),
        ({}, {"base": sgeat.Method("a")}, {"j": print}, "may not be called"),
        ({"a": sgeat.Corpus(prompts=str)}, {}, {}, "JUDGES is empty"),
        ({"../a": sgeat.Corpus(prompts=str)}, {}, {"j": print}, "corpus '../a': its name becomes"),
    ],
)
def test_names_that_do_not_fit(corpora, methods, judges, message):
    with pytest.raises(UserError, match=message):
        method.check_names(corpora, methods, judges)


def test_what_a_row_may_change_of_the_decoding_is_known_to_the_evaluation():
    changed = {field.name for field in dataclasses.fields(decoding.Decoding)} - {*method.NOT_A_ROWS}
    for field in changed:
        row = method.Method(decoding={field: getattr(decoding.Decoding(), field)})
        check_own({"m": row.own_decoding})
    assert method.Method(decoding={"batch_size": 8}).own_decoding == []  # The same text.


def test_what_changes_no_weights_is_the_only_term():
    rows = {
        "whole": method.Method("a"),
        "lora": method.Method("a", LoRAConfig()),
        "adapter": method.Method("a", AdapterConfig(4)),
        "decoded": method.Method(start="adapter"),
    }
    for terms in ({"whole": 1.0, "lora": -0.5}, {"adapter": -0.5}, {"decoded": 2.0}):
        method.check_terms({**rows, "sum": method.Method(terms=terms)})
    for term in ("adapter", "decoded"):
        both = method.Method(terms={"whole": 1.0, term: -0.5})
        with pytest.raises(UserError, match=f"'sum': term '{term}' is an adaptation that is no"):
            method.check_terms({**rows, "sum": both})


def test_nothing_is_trained_on_an_adaptation_and_nothing_written_without_prompts():
    corpora = {"a": sgeat.Corpus(prompts=str), "b": sgeat.Corpus(source="a", writer="m")}
    rows = {"m": sgeat.Method("a", LoRAConfig()), "n": sgeat.Method(start="m")}
    with pytest.raises(UserError, match="'b': has a writer and no prompts"):
        method.check_names(corpora, rows, {"j": print})
    del corpora["b"]
    method.check_names(corpora, rows, {"j": print})
    rows["further"] = sgeat.Method("a", start="n")
    with pytest.raises(UserError, match="'further': start 'n' is an adaptation"):
        method.check_names(corpora, rows, {"j": print})


def test_corpora_and_rows_stand_behind_what_they_wait_for_else_as_given():
    rows = {
        "twice": sgeat.Method("second", start="once"),
        "once": sgeat.Method("first"),
        "steered": sgeat.Method(start="twice"),
        "other": sgeat.Method("first"),
    }
    corpora = {
        "augmented": sgeat.Corpus(prompts=str, source="first"),
        "second": sgeat.Corpus(prompts=str, writer="once"),
        "first": sgeat.Corpus(prompts=str),
    }
    names = [name for name, _ in method.in_order(corpora, rows)]
    assert names == ["first", "augmented", "once", "second", "twice", "steered", "other"]
    corpora["first"] = sgeat.Corpus(prompts=str, writer="twice")
    with pytest.raises(UserError, match="'first', 'second'.* wait for each other"):
        method.in_order(corpora, rows)


def test_sums_stand_behind_their_terms():
    rows = {
        "further": sgeat.Method("a", start="sum"),
        "sum": sgeat.Method(terms={"once": -1.0}),
        "once": sgeat.Method("a", LoRAConfig()),
    }
    corpora = {"a": sgeat.Corpus(prompts=str)}
    assert [name for name, _ in method.in_order(corpora, rows)] == ["a", "once", "sum", "further"]
    method.check_names(corpora, rows, {"j": print})


@pytest.mark.parametrize(
    ("corpora", "rows", "vectors", "message"),
    [
        ({"a": PAIRS}, {}, {}, "corpus 'a': is of pairs; set sgeat.sgeat.pair"),
        ({}, {"m": sgeat.Method(terms={"n": 1.0})}, {}, "method 'm': has terms; set sgeat"),
        ({}, {"m": sgeat.Method(best_of=2)}, {}, "method 'm': has best_of; set sgeat"),
        ({}, {}, {"v": sgeat.Vectors("a")}, "vectors 'v': nothing fits them; set sgeat.sgeat.st"),
    ],
)
def test_a_run_lacks_the_verb_that_it_needs(corpora, rows, vectors, message):
    with pytest.raises(UserError, match=message):
        makers.Makers(*[print] * 6, *[None] * 6).check(corpora, rows, vectors)


def test_without_a_base_the_remedy_is_named(tmp_path, capsys):
    arguments = ["sgeat", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    inputs = ["--gin.PROMPTS_INPUT=p.jsonl", "--gin.HELDOUT=h.jsonl"]
    assert cli.main(arguments) == 2
    assert "PROMPTS_INPUT" in capsys.readouterr().err
    assert cli.main([*arguments, *inputs]) == 2
    assert "INITIAL_CHECKPOINT_PATH" in capsys.readouterr().err


def test_services_judge_from_the_command_line(tmp_path):
    judges = "{'a': @moderation/score.score, 'b': @perspective/score.score}"
    flags = [f"--gin.OUTPUT_DIR={tmp_path}", f"--gin.JUDGES={judges}"]
    arguments = cli.parse_arguments(["sgeat", *flags, "--gin.CONSENT_TO_SEND_TEXT=True"])
    verb, defaults = cli.load_config(arguments)
    configuration.check(verb, defaults, arguments.bindings)
    assert "moderation/cache.CachedScorer.scorer = @remote.ModerationScorer()" in gin.config_str()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "not set: INITIAL_CHECKPOINT_PATH, PROMPTS_INPUT, HELDOUT; pass --gin.INITIAL_CHECK"),
        (["--checkpoint=base"], "set: PROMPTS_INPUT, HELDOUT; pass --gin.PROMPTS_INPUT=... --gin."),
        (["--input=p", "--gin.HELDOUT=h"], "no base model: set INITIAL_CHECKPOINT_PATH"),
    ],
)
def test_all_that_is_missing_is_named_at_once(given, message, tmp_path, capsys):
    assert cli.main(["sgeat", f"--output={tmp_path / 'run'}", *given]) == 2
    assert message in capsys.readouterr().err
