"""Keywords are the run files' macros, and mistakes read as Python."""

import datetime
import decimal
import io
import json
import pathlib
import re

import numpy as np
import pytest
from etils import epath

import detox_jax as dj
from detox_jax import cli, records, run_files
from detox_jax.api import calls, gin_lines, inputs, keywords
from detox_jax.evaluation import results_files
from detox_jax.method import only
from tests.conftest import SENTENCES
from tests.evaluation import results_made

RUDE = "You are an idiot, moron."
# What the calls make of their own arguments.
TRAIN = {"model_dir", "initial_checkpoint_path", "input", "validation_input", "vocabulary_path"}
SGEAT = {"output_dir", "initial_checkpoint_path", "prompts_input", "heldout"}
EVALUATE = {"methods", "output_dir", "baseline", "heldout", "reference"}
# What gin files give: tasks and functions.
TRAIN |= {"mixture_or_task_name", "cache_dir"}
# What a path says behind `#`.
TRAIN |= {"text_field", "id_field"}
SGEAT |= {"corpora", "judges", "scorer", "cached_scorer"}
SGEAT |= {"prepare", "train_vocabulary", "pretrain"}


def macros(file):
    text = file.read_text()
    names = {name.lower() for name in re.findall(r"^([A-Z][A-Z0-9_]*) =", text, re.M)}
    for included in re.findall(r"^include '(.+)'", text, re.M):
        names |= macros(run_files.ROOT / included)
    return names


@pytest.mark.parametrize(
    ("verb", "settings", "others"),
    [
        ("train", keywords.TrainSettings, TRAIN),
        ("sgeat", keywords.SgeatSettings, SGEAT),
        ("evaluate", keywords.EvaluateSettings, EVALUATE),
    ],
)
def test_every_macro_is_a_keyword_or_an_argument(verb, settings, others):
    named = set(settings.__annotations__)
    assert not named & others
    assert named | others == macros(cli._run_file(verb))


def test_some_rows_alone_have_their_figures_in_a_place_of_their_own(tmp_path, monkeypatch):
    rows = {"only": ["adapter"]}
    monkeypatch.setattr("detox_jax.api.verbs.call", lambda verb, settings, **how: rows)
    place = only.directory(epath.Path(tmp_path / "run"), ["adapter"])
    pathlib.Path(place).mkdir(parents=True)
    results_made.write(pathlib.Path(place) / "evaluation", results_made.made_results())
    run = dj.sgeat(None, tmp_path / "run", only=["adapter"])
    assert run.evaluation.results.methods[0] == "base" and run.report == str(place / "report.html")
    assert run.output_dir == str(tmp_path / "run")


def test_figures_of_a_run_in_a_bucket_are_looked_for_there(monkeypatch):
    looked = []
    monkeypatch.setattr("detox_jax.api.verbs.call", lambda verb, settings, **how: {"only": None})
    monkeypatch.setattr(results_files, "of_each_scorer", lambda path: looked.append(path) or [])
    run = dj.sgeat(None, "gs://bucket/run")
    assert looked == ["gs://bucket/run/evaluation"]
    assert run.report == "gs://bucket/run/report.html"


def test_a_model_of_a_run_is_loaded_from_where_it_lies(monkeypatch, tmp_path):
    for place in ("models/whole", "base"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.setattr("detox_jax.api.evaluation.load", lambda path: path)
    run = dj.Run(str(tmp_path), {}, str(tmp_path))
    for name, place in (("whole", "models/whole"), ("base", "base")):
        found = run.model(name)
        assert found == epath.Path(tmp_path / place) and isinstance(found, epath.Path)
    with pytest.raises(dj.UserError, match="no model 'x' in .*; one of whole, base$"):
        run.model("x")


def test_defaults_of_generate_are_the_run_files():
    defaults = dj.Model.generate.__kwdefaults__
    text = cli._run_file("generate").read_text()
    names = {"k": "NUM_SAMPLES", "seed": "RANDOM_SEED"}
    for name in ("k", "max_new_tokens", "seed", "batch_size"):
        assert f"\n{names.get(name, name.upper())} = {defaults[name]}\n" in text


@pytest.fixture(scope="module")
def model(model_dir):
    return dj.load(model_dir)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda m, p: m.generate(["a"], k=0), r"k: must be at least 1, got 0; for example k=25"),
        (lambda m, p: m.generate(["a"], k="x"), r"k: expected a whole number, got 'x'"),
        (lambda m, p: m.generate(["a"], seed=-1), r"seed: must be from 0"),
        (lambda m, p: m.generate(["a " * 50]), r"has \d+ tokens.*or lower max_new_tokens"),
        (lambda m, p: m.generate(["a " * 99]), r"has \d+ tokens, which leave nothing of"),
        (lambda m, p: m.generate(["a"], steering=[dj.BannedWords]), "give BannedWords"),
        (lambda m, p: m.generate(["a"], steering=["x"]), "steering: item 0: expected a Method"),
        (lambda m, p: m.generate(["a"], sampling="greedy"), "expected a Sampling, got 'greedy'$"),
        (lambda m, p: m.generate(["a"], sampling=object()), "no setting can hold a object"),
        (lambda m, p: m.generate([]), "^prompts is empty"),
        (lambda m, p: m.generate(["a", 3]), r"^prompts\[1\] is 3; expected text$"),
        (lambda m, p: m.generate(3), "^prompts is 3; give a list of texts"),
        (lambda m, p: m.generate(p / "no.jsonl"), "^prompts: no such file"),
        (lambda m, p: m.generate([{"prompt": 3}]), r"^prompts\[0\]: "),
        (lambda m, p: m.train(SENTENCES, p / "t"), "pass task_feature_lengths=..."),
        (lambda m, p: m.train(SENTENCES, p / "t", batch_siz=3), "did you mean batch_size?"),
        (lambda m, p: m.train(SENTENCES, p / "t", input=3), "input is given by the call's own"),
        (
            lambda m, p: m.train(
                SENTENCES, p / "t", task_feature_lengths={"targets": 32}, learning_rate="fast"
            ),
            "learning_rate: expected a number, got 'fast'; for example learning_rate=2e-05",
        ),
        (lambda m, p: dj.sgeat(m, p / "r", num_document=3), "did you mean num_documents?"),
        (
            lambda m, p: dj.sgeat(m, p / "r"),
            "^required and not set: prompts, heldout; pass pro",
        ),
        (lambda m, p: dj.sgeat(m, p / "r", gin_files=["no.gin"]), "^gin_files: no.gin: no such"),
        (lambda m, p: dj.score("README.md"), r"give pathlib.Path\('README.md'\) to read it"),
        (lambda m, p: dj.score(["a"], "ngrm"), "did you mean ngram?"),
        (lambda m, p: dj.score(["a"], object()), "expected an object with name, fingerprint"),
        (lambda m, p: dj.load(p / "none"), "none: no such checkpoint"),
        (lambda m, p: dj.load(None), "^path is None; give a path$"),
        (lambda m, p: dj.load(m, mesh_shape=3), "^mesh_shape: expected a dict of whole numbers"),
        (lambda m, p: m.perplexity(["a"], batch_size=0), "^batch_size: must be at least 1"),
        (lambda m, p: m.train(["a"], None), "^model_dir is None; give a path$"),
        (lambda m, p: dj.score(["a"], output_dir=3), "^output_dir is 3; give a path$"),
        (lambda m, p: dj.sgeat(m, None), "^output_dir is None; give a path$"),
        (lambda m, p: dj.sgeat(m, p / "r", gin_files="no.gin"), "^gin_files: no.gin: no such"),
        (lambda m, p: dj.evaluate(["scored"]), r'^methods is a list; give .*\{"base": scored\}$'),
        (lambda m, p: dj.evaluate({"base": ("x",)}), r"^methods\['base'\] is a tuple; give what"),
        (lambda m, p: dj.evaluate({"base": dj.score(["a"])}), r"^methods\['base'\] is a Scores"),
    ],
)
def test_mistakes_are_one_line_in_the_words_of_python(model, tmp_path, mistake, message):
    with pytest.raises(dj.UserError, match=message) as caught:
        mistake(model, tmp_path)
    said = str(caught.value)
    assert "\n" not in said and "--gin" not in said and isinstance(caught.value, ValueError)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert [*tmp_path.iterdir()] == []


RECORD = {"id": "1", "text": "So", "prompt": {"text": "So"}}


class Frame:
    """As pandas' has it."""

    columns = ["id", "text"]

    def __iter__(self):
        return iter(self.columns)

    def to_dict(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (RECORD, "is a dict; give a list of texts or of records; of one record, [record]"),
        ({"text": ["a", "b"]}, "is a dict; give a list of texts or of records"),
        (records.Document("1", RUDE), "is a Document; give a list of texts or of records"),
        (Frame(), 'is a Frame; give df.to_dict("records")'),
        ({"a", "b"}, "is a set; give a list: a set has no order"),
        (b"abc", "is a bytes; give text, such as given.decode()"),
        (io.StringIO("a\nb\n"), "is a StringIO; give pathlib.Path of its name, to read it"),
        (np.array("a"), "is a ndarray; give a list of texts, or the path of a file"),
        ([[RUDE]], "[0] is a list; expected text"),
        ([], " is empty; give at least one text"),
        (["a", {"x": object()}], "[1]: holds an object, which no record can; give text, numbers,"),
        (["a", {("x",): 1}], "[1]: cannot be written as JSON: keys must be str"),
    ],
)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("texts", lambda m, p, given: dj.score(given)),
        ("prompts", lambda m, p, given: m.generate(given)),
        ("texts", lambda m, p, given: m.perplexity(given)),
        ("texts", lambda m, p, given: m.train(given, p / "t")),
        ("validation", lambda m, p, given: m.train(["a"], p / "t", validation=given)),
        ("heldout", lambda m, p, given: dj.evaluate({"base": "x"}, heldout=given)),
        ("prompts", lambda m, p, given: dj.sgeat(m, p / "r", prompts=given)),
        ("heldout", lambda m, p, given: dj.sgeat(m, p / "r", heldout=given)),
    ],
)
def test_what_is_no_list_of_texts_is_refused(model, tmp_path, name, call, given, message):
    """A record was read as the names of its fields, a table as those of its columns."""
    with pytest.raises(dj.UserError, match=f"^{name}") as caught:
        call(model, tmp_path, given)
    assert message in str(caught.value) and RUDE not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "given",
    [
        "~/heldout.jsonl",
        "gs://b/my prompts.jsonl",
        "hf://datasets/a/b",
        "tfds://civil_comments:1.2.4#split=test",
        "https://example.com/texts",
        "heldot.jsonl",
        "reviews.csv.gz#text=body,id=key",
        "allenai/real-toxicity-prompts#split=train",
        "/data/texts",
        "READM?.md",
        "docs#split=train",
    ],
)
def test_a_text_alone_that_may_be_a_place_is_refused(tmp_path, given):
    """A misspelt name, or an address, was scored or trained on as a text of its own."""
    with pytest.raises(dj.UserError, match="^heldout=.* may name a file; give pathlib.Path"):
        inputs.text_file(given, tmp_path, "heldout")
    assert (
        json.loads(pathlib.Path(inputs.text_file([given], tmp_path)).read_text())["text"] == given
    )


@pytest.mark.parametrize(
    "text",
    ["So", "Is it so?", "See https://example.com.", "Read README.md", "C#", "1/2 a cup", "是/否"],
)
def test_a_text_alone_is_one(tmp_path, text):
    assert json.loads(pathlib.Path(inputs.text_file(text, tmp_path)).read_text())["text"] == text


@pytest.mark.parametrize("kind", [pathlib.Path, pathlib.PurePosixPath])
def test_an_address_may_be_a_path(tmp_path, monkeypatch, kind):
    """`pathlib` makes one slash of two, which was refused with a text that is no path."""
    for address in (
        "gs://b/x.jsonl",
        "tfds://civil_comments:1.2.4#split=test",
        "hf://datasets/a/b",
    ):
        assert inputs.text_file(kind(address), tmp_path) == address
        assert calls.path_of(kind(address), "path") == address
        assert gin_lines.GinLines({"heldout": kind(address)}).bindings == [f"HELDOUT = {address!r}"]
    monkeypatch.setenv("HOME", "/home/me")
    assert inputs.text_file(kind("~/heldout.jsonl"), tmp_path) == "/home/me/heldout.jsonl"


def test_a_gin_file_may_lie_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(dj.UserError, match=f"^gin_files: {tmp_path}/no.gin: no such"):
        calls.call("score", {}, gin_files=["~/no.gin"])


def test_records_of_numpy_and_of_results_are_read():
    scores = dj.score(
        [
            {
                "id": np.int64(3),
                "text": np.str_("x"),
                "toxicity": np.float32(0.5),
                "of": np.float32([0.5, 1]),
            },
            records.Document("4", "y"),
        ]
    )
    assert [document.id for document in scores.documents] == ["3", "4"]
    assert scores.documents[0].extra["of"] == [0.5, 1.0]
    prompt = records.Prompt("5", "So", generations=(records.Generation(RUDE),))
    scored = dj.score((prompt, prompt)[:1])
    assert scored.texts == [[RUDE]] and RUDE not in repr(scored[:1])


class NaTType(datetime.datetime):
    """As pandas' has it."""


class NAType:
    """As pandas' has it: neither true nor false."""

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


def test_records_of_a_table_with_gaps_are_read(tmp_path):
    """pandas fills gaps with NaN, NaT and NA; they were refused, or written as no JSON."""
    nan = float("nan")
    gaps = {"id": nan, "filename": nan, "begin": nan, "end": nan, "toxicity": nan}
    flags = {"challenging": nan, "unreadable": nan}
    made = {
        "when": NaTType(2024, 1, 1),
        "of": [np.float32("nan"), np.array([1.0, np.inf])],
        "inside": {"x": NAType(), "y": np.datetime64("NaT")},
    }
    dates = {
        "day": datetime.date(2024, 1, 2),
        "time": datetime.datetime(2024, 1, 2, 3, 4, 5),
        "numpy": np.datetime64("2024-01-02T03:04:05", "ns"),
        "price": decimal.Decimal("1.50"),
    }
    scores = dj.score([{"text": "a", **gaps, **flags, **made}, {"text": "b", **dates}], "lexicon")
    first, second = scores.documents
    assert first.id.startswith("sha256-") and first.toxicity == 0 and not first.unreadable
    assert {name: first.extra[name] for name in made} == {
        "when": None,
        "of": [None, [1.0, None]],
        "inside": {"x": None, "y": None},
    }
    assert second.extra == {
        "day": "2024-01-02",
        "time": "2024-01-02 03:04:05",
        "numpy": "2024-01-02T03:04:05.000000000",
        "price": "1.50",
    }
    for file in pathlib.Path(scores.directory).glob("*.jsonl"):
        assert "NaN" not in file.read_text()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: dj.score([{"id": "1", "text": "a"}] * 2), r"^texts\[1\]: duplicate id '1'"),
        (lambda m: m.perplexity([{"id": "1"}]), r'^texts\[0\]: record without a "text"'),
        (lambda m: m.perplexity(["", " "]), "^texts: holds no text; "),
        (lambda m: m.perplexity([{"body": "a"}]), "rename its field body to text$"),
        (lambda m: m.generate([{"id": "1", "text": "a"}]), "^prompts: .*its field text to prompt$"),
    ],
)
def test_lists_are_named_by_their_argument_and_places_in_them(model, call, message):
    with pytest.raises(dj.UserError, match=message):
        call(model)


def test_a_list_that_is_another_is_named_by_its_argument(tmp_path):
    dj.score(["a"], output_dir=tmp_path / "s")
    with pytest.raises(dj.UserError, match="'[0-9a-f]{8} of texts' there, '[0-9a-f]{8} of texts'"):
        dj.score(["b"], output_dir=tmp_path / "s")


def test_what_the_command_line_says_of_the_figures_is_a_warning(tmp_path, capsys):
    scored = {}
    for name, count in (("base", 3), ("mine", 2)):
        drawn = (records.Generation("a"),) * count
        scored[name] = tmp_path / name
        dj.score([records.Prompt("1", "So", generations=drawn)], output_dir=scored[name])
    capsys.readouterr()
    with pytest.warns(UserWarning) as caught:
        dj.evaluate(scored, heldout=["A text."], bootstrap_draws=100)
    said = [str(warning.message) for warning in caught]
    assert any(note.startswith("Nothing read heldout: no method has a model") for note in said)
    assert any(note.startswith("Compared on the first 2 continuations") for note in said)
    assert any(note.startswith("Not compared, since the files do not say") for note in said)
    assert not any("gin" in note for note in said) and capsys.readouterr().out == ""
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.raises(dj.UserError, match="^heldout: holds no text; heldout needs some$"):
        dj.evaluate(scored, heldout=[""])


def test_continuations_without_scores_are_not_evaluated(tmp_path):
    manifest = {"complete": True, "verb": "generate", "settings": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(dj.UserError, match=r"methods\['base'\] has no scores; give detox_jax"):
        dj.evaluate({"base": dj.Generations((), str(tmp_path))})


def test_generations_are_meant_to_be_steered_and_asked_as_they_were(tmp_path):
    """Which is named where the baseline's are not, and refuses no evaluation of before."""

    def scored(name, **asked):
        drawn = (records.Generation("a"),) * 2
        dj.score([records.Prompt("1", "So", generations=drawn)], output_dir=tmp_path / name)
        file = tmp_path / name / "manifest.json"
        manifest = {**json.loads(file.read_text()), "generated": {"max_new_tokens": 20, **asked}}
        file.write_text(json.dumps(manifest))
        return dj.Generations((), str(tmp_path / name))

    def own(output, base, mine):
        rows = {"base": base, "mine": mine}
        dj.evaluate(rows, output_dir=tmp_path / output, bootstrap_draws=100)
        manifest = json.loads((tmp_path / output / "manifest.json").read_text())
        return [row["own_decoding"] for row in manifest["settings"]["methods"].values()]

    def finished_as(output, own_of_mine):
        file = tmp_path / output / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["settings"]["methods"]["mine"]["own_decoding"] = own_of_mine
        file.write_text(json.dumps(manifest))

    raw, template = scored("raw"), {"chat_template": "0123456789abcdef"}
    asked, alike = scored("asked", **template), scored("alike", **template)
    steered = scored("steered", steering=[{"method": "BannedWords"}])
    assert own("a", asked, alike) == [[], []]
    assert own("b", raw, asked) == own("c", asked, raw) == [[], ["chat_template"]]
    assert own("d", tmp_path / "asked", raw) == [[], ["chat_template"]]
    assert own("e", raw, steered) == own("f", steered, raw) == [[], ["steering"]]
    for output, base, mine, before in (("a", asked, alike, ["x"]), ("b", raw, asked, [])):
        finished_as(output, before)
        assert own(output, base, mine)[1] == before
    with pytest.raises(dj.UserError, match="'mine' was generated with max_new_tokens 10"):
        own("g", raw, scored("short", max_new_tokens=10))


def test_a_hugging_face_model_is_refused_with_the_command(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(dj.UserError, match="detox-jax convert --from_hf="):
        dj.load(tmp_path)


def test_words_that_are_no_macros_stay():
    said = "A.B: EMT of JSON is 3; lower MAX_NEW_TOKENS, see CONFIG"
    assert calls.in_python(said, ["max_new_tokens"]) == said.replace(
        "MAX_NEW_TOKENS", "max_new_tokens"
    )
