"""A call from Python and the command line write the same, and no call leaves anything in gin."""

import dataclasses
import json
import re
import threading
from pathlib import Path

import gin
import pytest
from etils import epath

import detox_jax as dj
from detox_jax import cli
from detox_jax.formats import record_ids
from detox_jax.method import only
from detox_jax.output_settings import without_notes
from detox_jax.toxicity.remote import PerspectiveScorer
from tests.conftest import SENTENCES
from tests.evaluation import results_made

PROMPTS = ["So", "What a day,", "So", "I think"]


@pytest.fixture(scope="module")
def model(model_dir):
    return dj.load(model_dir)


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    # One comes back: a file may hold a few such among hundreds, here it needs an id.
    ids = [None, None, f"{record_ids.content_id('So')}-2", None]
    lines = [{"id": id, "prompt": {"text": text}} for id, text in zip(ids, PROMPTS, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def shards(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.jsonl")}


def manifest(directory):
    return without_notes(json.loads((directory / "manifest.json").read_text()))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Settings that differ from the defaults."""
    words = tmp_path_factory.mktemp("words") / "words.txt"
    words.write_text("idiot\nlate\n")
    return {
        **{"k": 3, "max_new_tokens": 6, "seed": 7},
        "sampling": dj.TopKSampling(9),
        "steering": [dj.BannedWords(words)],
    }


def run(*argv):
    assert cli.main(list(argv)) == 0


def test_generate_and_score(model, prompt_file, drawn, tmp_path):
    run(
        "generate",
        f"--gin.CHECKPOINT_PATH={model.path}",
        f"--gin.INPUT={prompt_file}",
        f"--gin.OUTPUT_DIR={tmp_path / 'command'}",
        "--gin.NUM_SAMPLES=3",
        "--gin.MAX_NEW_TOKENS=6",
        "--gin.RANDOM_SEED=7",
        "--gin.SAMPLING=@sampling.TopKSampling()",
        "--gin.TOP_K=9",
        "--gin.STEERING=[@words.BannedWords()]",
        f"--gin.words.BannedWords.words_file={drawn['steering'][0].words_file}",
    )
    generations = model.generate(PROMPTS, output_dir=tmp_path / "python", **drawn)
    written = shards(tmp_path / "command")
    assert shards(tmp_path / "python") == written != {}
    assert [prompt.text for prompt in generations] == PROMPTS
    assert generations.texts[0] != generations.texts[2]  # other draws for another id
    ours, theirs = manifest(tmp_path / "python"), manifest(tmp_path / "command")
    for of in (ours, theirs):
        del of["settings"]["prompts"]  # its file's bytes: Python writes the ids that it makes
        del of["settings"]["dtype"]
    assert ours == theirs

    run(
        "score",
        f"--gin.INPUT={tmp_path / 'command'}",
        f"--gin.OUTPUT_DIR={tmp_path / 'scored'}",
        "--gin.SCORER=@lexicon.LexiconScorer()",
    )
    for scorer in ("lexicon", dj.LexiconScorer()):
        scored = dj.score(generations, scorer)
        assert shards(tmp_path / "scored") == shards(Path(scored.directory))
        assert scored.is_scored and not generations.is_scored


def test_a_file_is_read_as_the_command_line_reads_it(model, prompt_file, tmp_path):
    given = {"k": 2, "max_new_tokens": 4}
    from_file = model.generate(prompt_file, output_dir=tmp_path / "file", **given)
    assert from_file.texts == model.generate(PROMPTS, **given).texts
    # What is there already is returned, and another setting is refused.
    assert model.generate(prompt_file, output_dir=tmp_path / "file", **given) == from_file
    with pytest.raises(dj.UserError, match="made with other settings"):
        model.generate(prompt_file, output_dir=tmp_path / "file", seed=1, **given)


def test_the_home_directory_is_meant_as_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    scored = dj.score(["A text."], "lexicon", output_dir="~/scored")
    assert Path(scored.directory) == tmp_path / "scored" and [*shards(tmp_path / "scored")]
    run("score", "--input=~/scored", "--gin.SCORER=@lexicon.LexiconScorer()", "--output=~/again")
    assert [*shards(tmp_path / "again")] and not (tmp_path / "~").exists()


def test_the_configuration_repeats_the_call(model, prompt_file, drawn, tmp_path):
    model.generate(prompt_file, output_dir=tmp_path / "python", **drawn)
    config = tmp_path / "python" / "config.gin"
    run("generate", f"--gin_file={config}", f"--gin.OUTPUT_DIR={tmp_path / 'again_'}")
    assert shards(tmp_path / "again_") == shards(tmp_path / "python")
    repeated = (tmp_path / "again_" / "config.gin").read_text()
    assert repeated.replace("again_", "python") == config.read_text()


class Shouts:
    """A scorer of a notebook's own."""

    name, fingerprint = "shouts", "shouts-1"

    def __init__(self, lacks=None):
        self.lacks = lacks

    def check(self):
        if self.lacks:
            raise dj.UserError(self.lacks)

    def score(self, texts):
        return [float(text.isupper()) for text in texts]


def test_a_scorer_of_ones_own_goes_on_and_is_asked_for_where_the_call_is_repeated(tmp_path, capsys):
    file, out = tmp_path / "texts.jsonl", tmp_path / "out"
    file.write_text('{"id": "1", "text": "NO"}\n{"id": "2", "text": "no"}\n')
    assert list(dj.score(file, Shouts(), output_dir=out)) == [1.0, 0.0]
    assert list(dj.score(file, Shouts(), output_dir=out)) == [1.0, 0.0]
    with pytest.raises(dj.UserError, match=r"scorer.fingerprint: 'shouts-1' there, 'ngram-"):
        dj.score(file, output_dir=out)
    capsys.readouterr()
    repeated = ["score", f"--gin_file={out / 'config.gin'}", f"--output={tmp_path / 'again'}"]
    assert cli.main(repeated) == 2
    assert "required and not set: SCORER; pass --gin.SCORER=..." in capsys.readouterr().err
    run(*repeated, "--gin.SCORER=@lexicon.LexiconScorer()")


def test_what_a_scorer_lacks_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(dj.UserError, match="^no key$"):
        dj.score(["a"], Shouts(lacks="no key"), output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_calls_in_one_process_leave_nothing_behind(model, drawn):
    """Gin has one configuration a process; a user's own, locked even, stays as it is."""
    plain = model.generate(["So"], k=2, max_new_tokens=4)
    gin.clear_config()
    gin.parse_config("MINE = 3\nmine/gin.macro.value = 4")
    gin.constant("mine.CONSTANT", 5)
    gin.config._set_config_is_locked(True)
    before = gin.config_str()
    try:
        other = model.generate(["So"], **drawn)
        with pytest.raises(dj.UserError, match="k: must be at least 1"):
            model.generate(["So"], k=0)
        dj.score(["A text."], "lexicon")
        assert gin.config_str() == before and gin.config_is_locked()
        assert gin.config._CONSTANTS["mine.CONSTANT"] == 5
    finally:
        gin.clear_config(clear_constants=True)
    again = model.generate(["So"], k=2, max_new_tokens=4)
    assert without_notes(again.manifest) == without_notes(plain.manifest)
    assert again.texts == plain.texts
    assert other.manifest["settings"]["sampling"]["method"] == "TopKSampling"
    assert again.manifest["settings"]["sampling"]["method"] == "TopPSampling"
    assert dj.score(["A text."]).scorer["name"] == "ngram"  # the default again


def test_threads_take_turns(model):
    """Gin's configuration is the process's, not the thread's."""
    alone = {
        seed: model.generate(["So"], k=2, max_new_tokens=4, seed=seed).texts for seed in (1, 2)
    }
    found = {}

    def generate(seed):
        found[seed] = model.generate(["So"], k=2, max_new_tokens=4, seed=seed).texts

    threads = [threading.Thread(target=generate, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone and alone[1] != alone[2]


def test_perplexity(model, tmp_path):
    from detox_jax.evaluation.perplexity import checkpoint_perplexity

    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES))
    expected = checkpoint_perplexity(model.path, str(documents))
    assert model.perplexity(SENTENCES) == model.perplexity(documents) == expected


@pytest.mark.slow
def test_held_out_text_is_read_as_a_row_was_drawn(model):
    """Under its steering, behind its tag: as `evaluate` reads it where a file gives it both."""
    steering, tags = [dj.PrefixContrast(text="You are.", alpha=2.0)], dj.Tags()
    asked = {"base": {}, "steered": {"steering": steering}, "tagged": {"behind": tags}}
    rows = {
        name: dj.score(model.generate(SENTENCES, k=2, max_new_tokens=4, **how))
        for name, how in asked.items()
    }
    assert "behind" in rows["tagged"].manifest["generated"]
    results = dj.evaluate(rows, heldout=SENTENCES, bootstrap_draws=100).results
    found = {row.method: row.quality.perplexity for row in results.rows if row.split == "full"}
    assert all(found.values()) and not any("not measured" in n for n in results.provenance.notes)
    assert len({round(of.value, 3) for of in found.values()}) == 3
    assert found["base"] == model.perplexity(SENTENCES)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"chat_template": True},
            "^CHAT_TEMPLATE is True.*no chat template|^chat_template is True",
        ),
        ({"chat_template": "yes"}, "^chat_template: must be one of auto"),
        ({"steering": dj.BannedWords()}, r"write \[BannedWords\(\)\], with the brackets$"),
        ({"behind": "x"}, "^behind: expected a Tags or None, got 'x'$"),
        ({"max_new_tokens": 63}, r"^prompts\[0\]: prompt 'sha256-\w+' has \d+ tokens, but"),
        ({"behind": dj.Tags()}, r"^prompts\[1\]: prompt .* its text holds the tag"),
    ],
)
def test_how_a_model_is_asked_is_checked(model, asked, message):
    with pytest.raises(dj.UserError, match=message):
        model.generate(["The bus", "<|good|>"], k=1, **asked)


@pytest.fixture
def configured(monkeypatch):
    """What gin holds when a verb would begin, which then does nothing."""
    seen = []

    def prepared(arguments, given=None):
        verb, defaults = cli.load_config(arguments)
        cli.configuration.check(verb, defaults, arguments.bindings)
        seen.append(gin.config_str())
        return (lambda: None), []

    monkeypatch.setattr(cli, "prepared", prepared)
    return seen


def test_sgeat_is_configured_as_from_the_command_line(model, configured, tmp_path):
    place = tmp_path / "run"
    flags = [
        "--gin_file=gin_configs/experiments/demo.gin",
        f"--gin.OUTPUT_DIR={place}",
        f"--gin.INITIAL_CHECKPOINT_PATH={model.path}",
        f"--gin.PROMPTS_INPUT={tmp_path / 'prompts.jsonl'}",
        "--gin.NUM_DOCUMENTS=12",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 32}",
        "--gin.METHODS={'words': {'decoding': {'steering': [@words.BannedWords()]}}}",
    ]
    cli.main(["sgeat", *flags])
    with pytest.raises(dj.UserError, match="no such file"):  # no results: nothing was done
        dj.sgeat(
            model,
            place,
            prompts=tmp_path / "prompts.jsonl",
            gin_files=["gin_configs/experiments/demo.gin"],
            num_documents=12,
            task_feature_lengths={"targets": 32},
            methods={"words": {"decoding": {"steering": [dj.BannedWords()]}}},
        )
    command, python = configured
    python = python.replace("@methods/words.BannedWords()", "@words.BannedWords()")
    python = "\n".join(line for line in python.split("\n") if "methods/words" not in line)
    assert set(python.split("\n")) == set(command.split("\n"))


def test_a_scorer_that_is_a_struct_is_one_of_the_configuration(configured):
    scorer = PerspectiveScorer(consent_to_send_text=True, queries_per_second=3.0)
    with pytest.raises(dj.UserError, match="no such file"):  # no scores: nothing was done
        dj.score(["a"], scorer)
    (config,) = configured
    lines = config.split("\n")
    assert "SCORER = @scorer/remote.PerspectiveScorer()" in lines
    assert "scorer/remote.PerspectiveScorer.queries_per_second = 3.0" in lines
    assert "scorer/remote.PerspectiveScorer.consent_to_send_text = True" in lines


def test_rows_that_a_gin_file_names_have_their_figures(model, configured, tmp_path):
    (tmp_path / "layer.gin").write_text("ONLY = ['standard']\nMESH_SHAPE = {'data': 2}\n")
    place = only.directory(epath.Path(tmp_path / "run"), ["standard"])
    Path(place).mkdir(parents=True)
    results_made.write(Path(place) / "evaluation", results_made.made_results())
    given = {
        "prompts": tmp_path / "prompts.jsonl",
        "heldout": tmp_path / "heldout.jsonl",
        "task_feature_lengths": {"targets": 32},
        "gin_files": [tmp_path / "layer.gin"],
    }
    assert dj.sgeat(model, tmp_path / "run", **given).figures == str(place)
    on_mesh = dataclasses.replace(model, mesh_shape={"fsdp": 4})
    assert dj.sgeat(on_mesh, tmp_path / "run", **given).figures == str(place)
    with pytest.raises(dj.UserError, match="no such file"):  # all rows: nothing was done
        dj.sgeat(on_mesh, tmp_path / "run", **{**given, "gin_files": []}, only=None)
    with pytest.raises(dj.UserError, match="no such file"):
        dj.sgeat(model, tmp_path / "run", **given, only=None, mesh_shape={"data": 8})
    meshes = [re.search("^MESH_SHAPE = (.*)", config, re.M)[1] for config in configured]
    assert meshes == ["{'data': 2}", "{'data': 2}", "{'fsdp': 4}", "{'data': 8}"]


def test_a_model_is_trained_on_the_mesh_that_is_said_last(model, configured, tmp_path, monkeypatch):
    """And comes back on it, in the dtype that it was loaded in."""
    in_bfloat16 = dj.load(model.path, dtype="bfloat16")
    monkeypatch.setattr("detox_jax.api.model.load", lambda path, **other: other)
    (tmp_path / "layer.gin").write_text("MESH_SHAPE = {'data': 2}\n")
    layer = {"gin_files": [tmp_path / "layer.gin"]}
    on_mesh = dataclasses.replace(model, mesh_shape={"fsdp": 4})

    def trained(start, **settings):
        length = {"targets": 32}
        return start.train(
            tmp_path / "texts.jsonl",
            tmp_path / "trained",
            task_feature_lengths=length,
            train_steps=2,
            **settings,
        )

    given = {"mesh_shape": {"data": 8}}
    loaded = [trained(model), trained(on_mesh), trained(on_mesh, **layer)]
    loaded += [trained(model, **layer), trained(model, **layer, **given)]
    expected = [None, {"fsdp": 4}, {"data": 2}, {"data": 2}, {"data": 8}]
    assert loaded == [{"dtype": None, "mesh_shape": mesh} for mesh in expected]
    meshes = [re.search("^MESH_SHAPE = (.*)", config, re.M)[1] for config in configured]
    assert meshes == [str(mesh) for mesh in expected]
    assert trained(in_bfloat16)["dtype"] == "bfloat16"
    (tmp_path / "layer.gin").write_text("MESH_SHAPE = 'fsdp=2,model=4'\n")
    as_text = [trained(model, **layer), trained(on_mesh, mesh_shape="data=8")]
    assert [of["mesh_shape"] for of in as_text] == [{"fsdp": 2, "model": 4}, {"data": 8}]


def test_train_is_configured_as_from_the_command_line(model, configured, tmp_path, monkeypatch):
    monkeypatch.setattr("detox_jax.api.model.load", lambda path, **other: path)
    file = tmp_path / "texts.jsonl"
    flags = [
        f"--gin.MODEL_DIR={tmp_path / 'trained'}",
        f"--gin.INITIAL_CHECKPOINT_PATH={model.path}",
        f"--gin.INPUT={file}",
        f"--gin.VOCABULARY_PATH={model.path}/vocabulary",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 32}",
        "--gin.TRAIN_STEPS=2",
        "--gin.LEARNING_RATE=1e-3",
    ]
    cli.main(["train", *flags])
    model.train(
        file,
        tmp_path / "trained",
        task_feature_lengths={"targets": 32},
        train_steps=2,
        learning_rate=1e-3,
    )
    command, python = configured
    assert python == command
