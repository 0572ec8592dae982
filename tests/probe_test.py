"""A probe in a training: its figures are those of the saved step, and its mistakes come first."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from detox_jax import cli, output_settings, records
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.evaluation import metrics, perplexity
from detox_jax.generation.decoding import Decoding
from detox_jax.generation.prompts import PromptFile, Standard
from detox_jax.parallel import mesh as meshes
from detox_jax.probe import ToxicityProbe
from detox_jax.tags import Tags
from detox_jax.toxicity.lexicon import LexiconScorer
from detox_jax.training import train
from detox_jax.training.frontier import MEASURES, PERPLEXITY, Rule
from detox_jax.vocabulary import Vocabulary
from tests import chats_made
from tests.conftest import SENTENCES, write_tiny_run

FILE = "--gin_file=gin_configs/training/probe.gin"


class EveryLetter:
    """The share of vowels, which is never 0 for all texts."""

    name = fingerprint = "vowels"

    def score(self, texts):
        return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in texts]


@pytest.fixture(scope="module")
def root(tmp_path_factory, vocabulary):
    """What a tiny run reads, prompts and validation documents."""
    root = tmp_path_factory.mktemp("probe")
    write_tiny_run(root, vocabulary, num_documents=60)
    with (root / "prompts.jsonl").open("w") as file:
        for i, sentence in enumerate(SENTENCES):
            prompt = {"text": " ".join(sentence.split()[: 1 + i % 3])}
            file.write(json.dumps({"id": f"p{i}", "prompt": prompt}) + "\n")
    documents = [{"id": str(i), "text": text} for i, text in enumerate(SENTENCES)]
    (root / "validation.jsonl").write_text("".join(f"{json.dumps(d)}\n" for d in documents))
    (root / "vowels_scorer.py").write_text(
        "class EveryLetter:\n"
        '    name = fingerprint = "vowels"\n\n'
        "    def score(self, texts):\n"
        '        return [sum(c in "aeiou" for c in t) / max(1, len(t)) for t in texts]\n\n\n'
        "class Silent(EveryLetter):\n"
        "    def score(self, texts):\n"
        "        return [None for _ in texts]\n"
    )
    (root / "scorer.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "import vowels_scorer\n"
        "PROBE_SCORER = @vowels_scorer.EveryLetter()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        yield root


@pytest.fixture(scope="module")
def flags(root, model_dir):
    """Flags of a tiny probed training of a base, without MODEL_DIR."""
    return [
        *("train", FILE, f"--gin_file={root / 'scorer.gin'}"),
        f"--gin.INPUT={root / 'documents.jsonl'}",
        f"--gin.VOCABULARY_PATH={model_dir}/vocabulary",
        f"--gin.INITIAL_CHECKPOINT_PATH={model_dir}",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 32}",
        "--gin.BATCH_SIZE=8",
        "--gin.LEARNING_RATE=1e-2",
        "--gin.TRAIN_STEPS=4",
        "--gin.CHECKPOINT_PERIOD=2",
        f"--gin.PROBE_PROMPTS={root / 'prompts.jsonl'}",
        f"--gin.PROBE_VALIDATION={root / 'validation.jsonl'}",
        "--gin.PROBE_PERIOD=2",
        "--gin.PROBE_SAMPLES=3",
        "--gin.PROBE_MAX_NEW_TOKENS=6",
    ]


ADAPTED = ["--gin_file=gin_configs/adaptation/lora.gin", "--gin.MESH_SHAPE={'data': 2, 'model': 4}"]


@pytest.fixture(scope="module")
def adapted(flags, tmp_path_factory):
    """An adaptation on a mesh, measured and nothing more."""
    path = tmp_path_factory.mktemp("adapted") / "model"
    command = [*flags, *ADAPTED, "--gin.PERPLEXITY_BUDGET=None", f"--gin.MODEL_DIR={path}"]
    assert cli.main(command) == 0
    return path


def points(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {x["step"]: {n: x[n] for n in (*MEASURES, PERPLEXITY)} for x in lines if PERPLEXITY in x}


def test_the_figures_are_those_of_what_the_saved_step_generates(adapted, root, tmp_path):
    command = [
        *("generate", f"--gin.CHECKPOINT_PATH={adapted}", "--gin.NUM_SAMPLES=3"),
        *("--gin.MAX_NEW_TOKENS=6", f"--gin.INPUT={root / 'prompts.jsonl'}"),
        f"--gin.OUTPUT_DIR={tmp_path / 'out'}",
        "--gin.MESH_SHAPE={'data': 2, 'model': 4}",
    ]
    assert cli.main(command) == 0
    texts_PK = [
        [generation.text for generation in prompt.generations]
        for prompt in records.read_prompts(str(tmp_path / "out"))
    ]
    scores_PK = np.array([EveryLetter().score(texts) for texts in texts_PK])
    measured = perplexity.checkpoint_perplexity(
        str(adapted), str(root / "validation.jsonl"), mesh_shape={"data": 2, "model": 4}
    )
    assert len(scores_PK) == 6 and scores_PK.std() > 0
    assert points(adapted)[4] == {
        "expected_maximum_toxicity": metrics.expected_maximum_toxicity(scores_PK),
        "toxicity_probability": metrics.toxicity_probability(scores_PK),
        "mean_toxicity": metrics.mean_toxicity(scores_PK),
        PERPLEXITY: measured.value,
    }


def test_a_probe_does_not_change_what_is_trained(adapted, flags, tmp_path):
    probe = ("PROBE", "scorer.gin", "probe.gin")
    plain = [flag for flag in flags if not any(name in flag for name in probe)]
    assert cli.main([*plain, *ADAPTED, f"--gin.MODEL_DIR={tmp_path / 'plain'}"]) == 0
    mesh = meshes.create_mesh()
    trained, expected = (
        checkpoints.load_trained(checkpoints.resolve(str(path))[0], mesh)
        for path in (adapted, tmp_path / "plain")
    )
    jax.tree.map(np.testing.assert_array_equal, trained, expected)
    assert "probe" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())["settings"]


def test_step_0_is_the_base_and_the_manifest_names_what_was_taken(adapted):
    assert list(points(adapted)) == [0, 2, 4]
    frontier = json.loads((adapted / "manifest.json").read_text())["frontier"]
    assert (frontier["taken_step"], frontier["stopped_early"]) == (4, False)
    assert frontier["at_step_0"] == points(adapted)[0]


@pytest.mark.slow
def test_a_whole_model_ends_within_its_budget_and_goes_on_where_it_was_killed(
    flags, root, tmp_path, monkeypatch, capsys
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    bounds = ["--gin.PERPLEXITY_BUDGET=0", "--gin.PROBE_PATIENCE=1", "--gin.RANDOM_SEED=3"]
    more = ["--gin.LEARNING_RATE=0.5", "--gin.TRAIN_STEPS=50"]
    command = [*flags, *bounds, *more]
    assert cli.main([*command, f"--gin.MODEL_DIR={whole}"]) == 0
    said = capsys.readouterr().err
    assert "TRAINING ENDS" in said and "STEP 0 IS TAKEN" in said
    assert checkpoints.saved_steps(checkpoints.resolve(str(whole))[0]) == [0]

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("detox_jax.training.frontier.Frontier.outcome", kill)
        assert cli.main([*command, f"--gin.MODEL_DIR={killed}"]) not in (0, 2)
    assert cli.main([*command, f"--gin.MODEL_DIR={killed}"]) == 0
    for name in ("manifest.json", "metrics.jsonl", "model.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["PROBE_PROMPTS=missing.jsonl"], "missing.jsonl: no such"),
        (["PROBE_VALIDATION=missing.jsonl"], "missing.jsonl: no such"),
        (["PROBE_PERIOD=0"], "PROBE_PERIOD: must be at least 1, got 0"),
        (["PERPLEXITY_BUDGET=-1"], "PERPLEXITY_BUDGET: must be at least 0, got -1"),
        (["PERPLEXITY_BUDGET='5%'"], "PERPLEXITY_BUDGET: expected a number"),
        (["PROBE_PATIENCE=0"], "PROBE_PATIENCE: must be at least 1, got 0"),
        (["PROBE_MEASURE='toxic'"], "PROBE_MEASURE: must be one of expected_maximum_toxicity"),
        (["PROBE_MAX_NEW_TOKENS=64"], "beside the new tokens; shorten it or lower PROBE_MAX_NEW"),
        (["PROBE_SCORER=@vowels_scorer.EveryLetter"], "PROBE_SCORER"),
        (
            ["CONSENT=0", "PROBE_SCORER=@remote.PerspectiveScorer()"],
            "PROBE_SCORER is 'perspective', a service",
        ),
        (["decoding.Decoding.steering=[@words.BannedWords()]"], "PROBE: its decoding has steering"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(
    change, message, flags, root, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("PERSPECTIVE_API_KEY", "key")
    (tmp_path / "more.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from detox_jax.generation.steering import words\n"
        "from detox_jax.toxicity import remote\n"
    )
    if change[0].startswith("CONSENT"):
        change = [*change[1:], "remote.PerspectiveScorer.consent_to_send_text=True"]
    bindings = [f"--gin.{line}" for line in change]
    command = [*flags, f"--gin_file={tmp_path / 'more.gin'}", f"--gin.MODEL_DIR={tmp_path / 'm'}"]
    assert cli.main([*command, *bindings]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_a_scorer_without_any_score_ends_before_the_first_step(flags, tmp_path, capsys):
    (tmp_path / "silent.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "import vowels_scorer\n"
        "PROBE_SCORER = @vowels_scorer.Silent()\n"
    )
    command = [*flags, f"--gin_file={tmp_path / 'silent.gin'}", f"--gin.MODEL_DIR={tmp_path / 'm'}"]
    assert cli.main(command) == 2
    assert "PROBE_SCORER 'vowels' has no score for any of the 18" in capsys.readouterr().err
    assert not [*(tmp_path / "m").glob("checkpoints/*")]


def made(root, **changes):
    given = {"prompts": PromptFile(str(root / "prompts.jsonl")), "scorer": LexiconScorer()}
    return ToxicityProbe(validation=str(root / "validation.jsonl"), **{**given, **changes})


def test_documents_from_nothing_need_no_prompts(root, vocabulary):
    made(root, prompts=Standard(4)).check(vocabulary=vocabulary, max_length=64)


@pytest.mark.parametrize(("ids", "warned"), [("standard", True), ("probe", False)])
def test_the_ids_of_generated_documents_are_warned_of(ids, warned, root, model_dir, capsys):
    """By them the model would be asked by the random numbers of what it is trained on."""
    spec = checkpoints.read_spec(checkpoints.resolve(str(model_dir))[0])
    vocabulary = Vocabulary.load(f"{model_dir}/vocabulary")
    made(root, prompts=Standard(2, ids=ids)).open(spec, vocabulary, meshes.create_mesh())
    assert ("random numbers it thus asks" in capsys.readouterr().err) == warned


def test_the_tags_of_the_training_are_those_of_the_probe(root):
    tags, others = Tags(), Tags(good="<kind>")
    made(root).check()
    made(root, decoding=Decoding(behind=tags)).check(tags=tags)
    for behind in (None, others):
        with pytest.raises(UserError, match="PROBE asks behind .* pass --gin.PROBE_BEHIND"):
            made(root, decoding=Decoding(behind=behind)).check(tags=tags)
    # What is not known yet is not none.
    made(root, decoding=Decoding(behind=tags)).check()
    made(root).check(tags=None)
    with pytest.raises(UserError, match="stand behind no tag; leave PROBE_BEHIND None"):
        made(root, decoding=Decoding(behind=tags)).check(tags=None)


def test_plain_documents_are_not_asked_behind_tags_unless_the_base_knows_them(
    flags, root, model_dir, tmp_path, capsys
):
    tagged = [f"--gin_file={write_tags(tmp_path)}", "--gin.PROBE_BEHIND=@tags.Tags()"]
    command = [*flags, *tagged, f"--gin.MODEL_DIR={tmp_path / 'm'}", "--dry_run"]
    assert cli.main(command) == 2
    assert "documents stand behind no tag; leave PROBE_BEHIND None" in capsys.readouterr().err
    conditional = shutil.copytree(model_dir, tmp_path / "conditional")
    write_trained_behind(conditional, Tags())
    assert cli.main([*command, f"--gin.INITIAL_CHECKPOINT_PATH={conditional}"]) == 0


def write_tags(directory):
    """A gin file by which a command line can say @tags.Tags()."""
    path = directory / "tags.gin"
    path.write_text("from __gin__ import dynamic_registration\nfrom detox_jax import tags\n")
    return path


def write_trained_behind(model_dir, *tags):
    """A manifest of a training behind tags, or on a mixture of tasks, each behind its own."""
    sources = [{} if of is None else {"tags": {**of.named, "threshold": 0.5}} for of in tags]
    mixture = [[f"task {number}", source] for number, source in enumerate(sources)]
    settings = {"data": {"source": mixture if len(tags) > 1 else sources[0]}}
    manifest = {"verb": "train", "complete": True, "settings": settings, "schema_version": 2}
    (model_dir / "manifest.json").write_text(json.dumps(manifest))


def test_the_base_is_measured_without_tags_that_it_has_not_seen(root, model_dir, tmp_path):
    probe = made(root, decoding=Decoding(behind=Tags()))
    plain = dataclasses.replace(probe, decoding=Decoding())
    assert train._probe_of_step_0(plain, model_dir) is None
    assert train._probe_of_step_0(probe, model_dir) == plain
    assert train._probe_of_step_0(probe, None) == plain
    conditional = shutil.copytree(model_dir, tmp_path / "conditional")
    write_trained_behind(conditional, Tags())
    assert train._probe_of_step_0(probe, str(conditional)) is None
    write_trained_behind(conditional, Tags(good="<kind>"))
    assert train._probe_of_step_0(probe, str(conditional)) is not None
    # Of a mixture, of which a task may have none; where they have several, it is not known which.
    write_trained_behind(conditional, None, Tags(), Tags())
    assert train._probe_of_step_0(probe, str(conditional)) is None
    assert train._known_tags(None, str(conditional)) == {}
    write_trained_behind(conditional, Tags(), Tags(good="<kind>"))
    assert train._probe_of_step_0(probe, str(conditional)) == plain


def test_step_0_of_a_training_behind_tags_is_the_base_as_it_is_read_elsewhere(
    flags, root, model_dir, tmp_path, capsys
):
    lines = [json.loads(line) for line in (root / "documents.jsonl").read_text().splitlines()]
    scored = [json.dumps({**line, "toxicity": i % 2}) for i, line in enumerate(lines)]
    (tmp_path / "scored.jsonl").write_text("\n".join(scored))
    model = tmp_path / "model"
    command = [
        *flags,
        "--gin_file=gin_configs/training/conditional.gin",
        f"--gin.MODEL_DIR={model}",
    ]
    command += [f"--gin.INPUT={tmp_path / 'scored.jsonl'}", "--gin.PROBE_BEHIND=@tags.Tags()"]
    assert cli.main([*command, "--gin.PERPLEXITY_BUDGET=100.0"]) == 0
    said = f"the budget of perplexity, +10000.0%, is above that of step 0, which is {model_dir}"
    assert said in capsys.readouterr().out
    validation = str(root / "validation.jsonl")
    plain, behind = (
        perplexity.checkpoint_perplexity(model_dir, validation, behind=tags).value
        for tags in (None, Tags())
    )
    assert plain != behind and points(model)[0][PERPLEXITY] == pytest.approx(plain)
    manifest = json.loads((model / "manifest.json").read_text())
    assert manifest["settings"]["probe"]["learns"] == "from step 0 without tags"
    # What was finished before step 0 was read so stays; what was not is begun anew.
    del manifest["settings"]["probe"]["learns"]
    now = json.loads((model / "manifest.json").read_text())
    assert output_settings.difference(manifest, now) is None
    name, *_ = output_settings.difference({**manifest, "complete": False}, now) or ("",)
    assert name == "probe.learns"


def test_what_an_earlier_step_writes_is_not_looked_for(root, tmp_path):
    later = made(root, prompts=PromptFile(str(tmp_path / "text" / "prompts")))
    later.check(coming=[str(tmp_path / "text")])
    with pytest.raises(UserError, match="missing: no such"):
        dataclasses.replace(later, validation="missing").check(coming=[str(tmp_path / "text")])
    with pytest.raises(UserError, match="no such"):
        later.check(coming=[str(tmp_path / "other")])


def test_settings_say_that_rows_beyond_the_vocabulary_are_not_drawn(root, vocabulary, config):
    probe = made(root)
    wide = dataclasses.replace(config, vocab_size=config.vocab_size + 1)
    plain = train._probe_settings(probe, config, vocabulary)
    assert plain == probe.settings()
    assert train._probe_settings(probe, wide, vocabulary) == {**plain, "text_rules": 2}


def test_settings_name_the_chat_template_that_it_asks_in(root, tmp_path, config):
    """What `train` writes of one before names none, and goes on."""
    texts, named = ["{{ messages[0].content }}", "{{ messages[0].content }} "], []
    for text in texts:
        chats_made.save_tokenizer(tmp_path, text)
        settings = train._probe_settings(made(root), config, Vocabulary.load(str(tmp_path)))
        named.append(settings)
    assert len({settings["asked_in"] for settings in named}) == 2
    plain = dataclasses.replace(made(root), chat_template=False)
    vocabulary = Vocabulary.load(str(tmp_path))
    assert "asked_in" not in train._probe_settings(plain, config, vocabulary)
    old = {name: value for name, value in named[0].items() if name != "asked_in"}

    def found(there, complete):
        manifest = {"verb": "train", "complete": complete, "settings": {"probe": there}}
        now = {"verb": "train", "settings": {"probe": named[0]}}
        return output_settings.difference(*(json.loads(json.dumps(of)) for of in (manifest, now)))

    assert found(old, True) is found(old, False) is None
    assert found(named[1], True)[0] == "probe.asked_in"


def test_what_decides_is_in_the_settings_and_places_are_notes(root, tmp_path):
    shutil.copy(root / "prompts.jsonl", tmp_path / "prompts.jsonl")
    settings = made(root, rule=Rule(0.1)).settings()
    assert settings["rule"]["budget"] == 0.1 and settings["scorer"]["name"] == "lexicon"
    moved = made(root, rule=Rule(0.1), prompts=PromptFile(str(tmp_path / "prompts.jsonl")))
    assert output_settings.agree(settings, moved.settings())
    assert not output_settings.agree(settings, made(root, rule=Rule(0.2)).settings())
