"""What results show: in a notebook, in a terminal, as numbers; toxic text is hidden."""

import json
import re
import sys

import pytest

import detox_jax as dj
from detox_jax import records
from detox_jax.evaluation import results_files
from tests.evaluation import results_made

MILD, RUDE = "The bus was late.", "You are an idiot, moron."


def written(directory, manifest):
    directory.mkdir(exist_ok=True)
    base = {"complete": True, "verb": "score", "settings": {}}
    (directory / "manifest.json").write_text(json.dumps({**base, **manifest}))
    return str(directory)


def generations(directory, *texts, prompt="So <b>", scores=None, verb="score", **manifest):
    scores = scores or [None] * len(texts)
    made = tuple(map(records.Generation, texts, scores))
    place = written(directory, {"verb": verb, **manifest})
    return dj.Generations((records.Prompt("1", prompt, generations=made),), place)


def shown(html):
    """What a reader sees without a click."""
    return re.sub(r"</summary>.*?</details>", "</summary>", html, flags=re.S)


def test_scores_are_numbers_that_hide_what_they_find():
    scores = dj.score([MILD, RUDE, "<script>"])
    assert list(scores) == scores.toxicity and len(scores) == 3
    assert scores[0] < 0.5 <= scores[1] and scores[:2] == scores.toxicity[:2]
    assert scores.texts == [MILD, RUDE, "<script>"]
    html = scores._repr_html_()
    assert MILD in shown(html) and RUDE not in shown(html) and RUDE in html
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert repr(scores).startswith("Scores(3 texts, 1 at or above 0.5, ngram)")
    assert MILD in repr(scores) and RUDE not in repr(scores)


def test_continuations_are_hidden_by_their_scores(tmp_path):
    of = generations(tmp_path, MILD, RUDE, scores=[0.9, 0.1])  # a scorer of its own mind
    for view in (shown(of._repr_html_()), repr(of)):
        assert RUDE in view and MILD not in view
    assert of.toxicity == [[0.9, 0.1]] and of.texts == [[MILD, RUDE]]
    assert "expected maximum toxicity 0.900" in repr(of)
    assert "So &lt;b&gt;" in shown(of._repr_html_())  # rated by the embedded scorer, for this


def test_without_scores_the_embedded_scorer_hides(tmp_path):
    of = generations(tmp_path, MILD, RUDE, prompt=RUDE, verb="generate", left_out_too_long=2)
    for view in (shown(of._repr_html_()), repr(of)):
        assert MILD in view and RUDE not in view and "not scored" in view
        assert "2 left out, too long" in view
    assert not of.is_scored


def test_what_no_scorer_can_read_is_hidden(tmp_path):
    of = generations(tmp_path, MILD, "Привет", scores=[0.1, None])
    assert "Привет" not in shown(of._repr_html_()) and "[hidden: not rated]" in repr(of)
    assert "1 prompts × 2 continuations, 1 without a score, expected" in repr(of)


def test_records_show_themselves_without_their_texts(tmp_path):
    of = generations(tmp_path, RUDE, prompt=RUDE)
    sample = results_files.Sample("1", RUDE, 0.9, {"base": results_files.Continuation(RUDE, 0.9)})
    for record in (of[0], of[:1], records.Document("1", RUDE, extra={"of": RUDE}), sample):
        assert RUDE not in repr(record) and "1" in repr(record)


def test_long_results_show_their_beginning(tmp_path):
    prompt = records.Prompt("1", "So", generations=(records.Generation("x" * 5000, 0.1),) * 99)
    of = dj.Generations((prompt,) * 500, written(tmp_path, {}))
    assert len(of._repr_html_()) < 100_000 and len(repr(of)) < 1000


def test_results_are_sequences_and_paths(tmp_path):
    of = generations(tmp_path, MILD)
    assert (
        len(of) == 1 and of[0].text == "So <b>" and [*of] == [*of.prompts] and of[:1] == of.prompts
    )
    assert (tmp_path / "manifest.json").samefile(f"{of.__fspath__()}/manifest.json")
    with pytest.raises(AttributeError):
        of.directory = "elsewhere"


def test_a_directory_goes_with_what_names_it(only_new_objects):
    import gc
    from pathlib import Path

    scores = dj.score([MILD])
    place = Path(scores.directory)
    assert place.exists()
    del scores
    gc.collect()
    assert not place.parent.exists()


def test_pandas_only_if_it_is_there(tmp_path, monkeypatch):
    of = generations(tmp_path, MILD, RUDE, scores=[0.1, 0.9])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(dj.UserError, match="pip install pandas"):
        of.to_pandas()

    class Frame(list):
        pass

    stand_in = type(sys)("pandas")
    stand_in.DataFrame = Frame
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    first, second = of.to_pandas()
    assert second == {**first, "sample": 1, "text": RUDE, "toxicity": 0.9}
    assert dj.score([MILD]).to_pandas()[0]["text"] == MILD


def test_a_table_of_scores_is_read_again(monkeypatch):
    """Of a row that no scorer can read and one that it can, the column held a NaN beside True."""

    class Frame(list):
        """As pandas: a cell that is missing, or None among numbers, is NaN."""

        def to_dict(self, orient):
            assert orient == "records"
            columns = {name: None for row in self for name in row}
            gap = float("nan")
            return [
                {name: gap if row.get(name) is None else row[name] for name in columns}
                for row in self
            ]

    stand_in = type(sys)("pandas")
    stand_in.DataFrame = Frame
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    scores = dj.score(["The bus.", "Привет"])
    table = scores.to_pandas()
    assert [row["unreadable"] for row in table] == [False, True]
    again = dj.score(table.to_dict("records"))
    assert again.toxicity == scores.toxicity and again.documents == scores.documents
    gaps = [{k: v for k, v in row.items() if v is not False} for row in table]  # as others have it
    assert dj.score(Frame(gaps).to_dict("records")).toxicity == scores.toxicity


def test_an_evaluation_shows_its_figures(tmp_path):
    path = results_made.write(tmp_path / "evaluation", results_made.made_results())
    evaluation = dj.Evaluation(results_files.load(str(path)))
    html = evaluation._repr_html_()
    assert evaluation.headline in html and "Max. toxicity" in html
    assert all(name in html and name in repr(evaluation) for name in evaluation.results.methods)
    assert evaluation.plot().figure.axes and evaluation.samples
