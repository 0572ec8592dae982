"""The model card as huggingface_hub reads it: licence, base, this model's figures, its limits."""

import dataclasses
import json

import pytest
from huggingface_hub import ModelCard

from detox_jax.checkpoints import identity
from detox_jax.evaluation.results import Provenance, Results
from detox_jax.interop import convert
from tests import chats_made
from tests.evaluation import results_made
from tests.interop import reference

OF_BASE = """---
license: other
license_name: llama9
license_link: https://example.org/terms
language: [en, de]
datasets: [some/text]
---
# A base
"""


@pytest.fixture
def imported(tmp_path, vocabulary):
    reference.make(tmp_path / "hf", reference.LLAMA)
    vocabulary.save(str(tmp_path / "hf"))
    (tmp_path / "hf" / "README.md").write_text(OF_BASE)
    convert.convert(from_hf=str(tmp_path / "hf"), to=str(tmp_path / "ours"))
    return tmp_path / "ours"


def card(source, to, **settings):
    convert.convert(source=str(source), to_hf=str(to), **settings)
    return ModelCard.load(str(to / "README.md"))


def test_what_holds_of_the_base_holds_of_the_model(imported, tmp_path):
    data = card(imported, tmp_path / "out").data.to_dict()
    kept = {"license": "other", "license_name": "llama9", "language": ["en", "de"]}
    assert {name: data[name] for name in kept} == kept
    assert data["license_link"] == "https://example.org/terms" and "datasets" not in data
    assert data["library_name"] == "transformers" and "base_model" not in data
    other = card(imported, tmp_path / "other", license="mit").data.to_dict()
    assert other["license"] == "mit" and "license_name" not in other


def test_a_base_of_the_hub_is_named_with_its_revision(imported, tmp_path):
    file = imported / "huggingface.json"
    recorded = json.loads(file.read_text())
    recorded["source"] = {"repo": "owner/base", "revision": "f" * 40, "sha256": "0"}
    file.write_text(json.dumps(recorded))
    read = card(imported, tmp_path / "out")
    assert read.data.base_model == "owner/base"
    assert read.data.to_dict()["base_model_relation"] == "finetune"
    assert f"- base: owner/base, revision {'f' * 40}" in read.text
    same = card(imported, tmp_path / "same", base_name="owner/base").text
    assert f"- base: owner/base, revision {'f' * 40}" in same
    moved = card(imported, tmp_path / "moved", base_name="other/base")
    assert moved.data.base_model == "other/base" and "- base: other/base (sha256 0)" in moved.text


@pytest.mark.parametrize("content", ["", "no metadata", "---\n- a\n---\n", "---\na: [\n---\n"])
def test_a_card_that_cannot_be_read_says_nothing(content, imported, tmp_path):
    (tmp_path / "hf" / "README.md").write_text(content)
    convert.convert(from_hf=str(tmp_path / "hf"), to=str(tmp_path / "again"))
    read = card(tmp_path / "again", tmp_path / "out")
    assert read.data.license is None and "licence: nothing here says" in read.text


def test_no_card_tells_where_the_base_lay(imported, tmp_path):
    text = card(imported, tmp_path / "out").content
    assert "- base: hf (sha256 " in text and str(tmp_path) not in text


def test_this_models_rows_are_its_model_index(imported, tmp_path):
    rows = (
        results_made.made_row("base", "full", 0.5, 0.4, 12.0),
        results_made.made_row("sgeat | standard", "full", 0.25, 0.125, 12.5),
        results_made.made_row("sgeat | standard", "toxic", 0.75, float("nan"), 12.5),
    )
    methods = {
        "base": {"checkpoint": {"path": "x", "step": None, "made_from": "0"}},
        "sgeat | standard": {"checkpoint": identity.identity(str(imported))},
    }
    provenance = Provenance(settings={"methods": methods})
    results_made.write(tmp_path, Results(rows, provenance=provenance), details=False)
    results = str(tmp_path / "results.json")
    read = card(imported, tmp_path / "out", results=results)
    assert read.data.model_name == "sgeat | standard"
    found = {(r.dataset_split, r.metric_type): r.metric_value for r in read.data.eval_results}
    assert found == {
        ("full", "expected_maximum_toxicity"): 0.25,
        ("full", "toxicity_probability"): 0.125,
        ("toxic", "expected_maximum_toxicity"): 0.75,
        (None, "perplexity"): 12.5,
    }
    assert "| **sgeat \\| standard** | full (500 × 25) | 0.250" in read.text
    assert "| base | full" in read.text and "In bold: this model." in read.text
    assert "## Limits" in read.text and "## What the scorer does not see" in read.text

    other = dataclasses.replace(provenance, settings={"methods": {"base": methods["base"]}})
    results_made.write(tmp_path, Results(rows, provenance=other), details=False)
    read = card(imported, tmp_path / "out2", results=results)
    assert read.data.eval_results is None and "No row is of this model." in read.text


def test_rows_of_other_weights_of_the_same_making_are_another_models(imported, tmp_path):
    made = identity.with_weights(str(imported))
    others = {"same": made, "other": {**made, "weights": "0"}}
    others["before"] = identity.identity(str(imported))  # As results of before have it.
    rows = tuple(results_made.made_row(name, "full", 0.5, 0.4, 12.0) for name in others)
    for name, model in others.items():
        settings = {"methods": {name: {"checkpoint": model}}}
        results = Results(rows, provenance=Provenance(settings=settings))
        results_made.write(tmp_path, results, details=False)
        read = card(imported, tmp_path / name, results=str(tmp_path / "results.json"))
        is_mine = name != "other"
        assert (f"| **{name}** |" in read.text) == (read.data.eval_results is not None) == is_mine


def measured(tmp_path, imported, decoded_with=None, **of_methods):
    """Results of these methods, all of which are of this model."""
    row = results_made.made_row
    of_model = {"checkpoint": identity.identity(str(imported))}
    methods = {name: {**of_model, **settings} for name, settings in of_methods.items()}
    provenance = Provenance(settings={"methods": methods}, decoded_with=decoded_with)
    rows = tuple(row(name, "full", 0.5, 0.4, 12.0) for name in methods)
    results_made.write(tmp_path, Results(rows, provenance=provenance), details=False)
    return str(tmp_path / "results.json")


STEERED = {"own_decoding": ["steering"], "steering": [{"method": "BannedWords"}]}


def test_a_row_that_is_steered_or_chosen_is_not_this_models(imported, tmp_path):
    """Though it is made from it: whoever loads the model does not get such text."""
    several = {
        "words": STEERED,
        "best": {"own_decoding": ["best_of"]},
        "mine": {"own_decoding": []},
    }
    read = card(imported, tmp_path / "out", results=measured(tmp_path, imported, **several))
    assert read.data.model_name == "mine" and "| **mine** |" in read.text
    assert "**words**" not in read.text and "**best**" not in read.text
    said = "Steered, chosen or decoded in a way of their own: words (steering), best (best_of)."
    assert said in read.text
    del several["mine"]
    read = card(imported, tmp_path / "none", results=measured(tmp_path, imported, **several))
    assert read.data.eval_results is None and "**words**" not in read.text
    assert "No row is of this model alone; of its text, changed: words, best." in read.text
    # All rows alike, so that none had to say that it is meant; what they were drawn with is told.
    alike = measured(tmp_path, imported, {"mine": ("steering",)}, mine={"own_decoding": []})
    assert card(imported, tmp_path / "alike", results=alike).data.eval_results is None


@pytest.mark.parametrize(
    ("template", "decoded_with", "asked", "start"),
    [
        ("marks", {"mine": ("chat_template",)}, True, False),
        ("marks", {"other": ("chat_template",)}, False, True),
        ("marks", {}, False, True),
        ("marks", None, True, True),
        (None, None, False, True),
    ],
)
def test_how_prompts_stood_before_the_model(
    template, decoded_with, asked, start, imported, tmp_path
):
    if template is not None:
        text = chats_made.TEMPLATES[template]
        (imported / "vocabulary" / "chat_template.jinja").write_text(text)
    results = measured(tmp_path, imported, decoded_with, mine={})
    text = card(imported, tmp_path / "out", results=results).text
    assert ("apply_chat_template(messages, add_generation_prompt=True)" in text) == asked
    # By its spelling: not every tokenizer names a `bos_token`, as Qwen's does not.
    assert ("`'<|endoftext|>' + prompt`" in text) == start and "bos_token" not in text
    assert ("which these\nresults do not say" in text) == (asked and start)
