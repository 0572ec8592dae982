"""Verb `panel`: perplexities of groups, worked by hand, and through the command."""

import dataclasses
import json
import math

import numpy as np
import pytest
from etils import epath

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.evaluation import perplexity, statistics
from detox_jax.toxicity import filter as filters
from detox_jax.vocabulary import Vocabulary
from detox_jax.zero_shot import panel as panels
from tests.conftest import SENTENCES, initial_params


class Model:
    """Every token costs so many nats; a text has a token for each word."""

    def __init__(self, nats, vocabulary="v"):
        self.nats, self.vocabulary = nats, self
        self.fingerprint = vocabulary

    def load(self):
        return self

    def likelihoods(self, texts):
        counts = [len(text.split()) for _, text, _ in texts]
        # Names of groups cost more.
        costs = [
            self.nats * n + self.nats * text.count("group")
            for n, (_, text, _) in zip(counts, texts, strict=True)
        ]
        return [None if n > 5 else (-c, n) for c, n in zip(costs, counts, strict=True)]


def write(path, texts, **more):
    lines = [{"id": f"{i}", "text": text, **more} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two models, the second twice as surprised; a group that costs half as much again."""
    models = {"base": Model(1.0), "mine": Model(2.0), "other": Model(1.0, "w")}
    monkeypatch.setattr(panels, "Reference", lambda path, **_: models[path])
    monkeypatch.setattr(panels, "with_weights", lambda path: {"path": path, "made_from": path})
    groups = {
        "plain": write(tmp_path / "plain.jsonl", ["a b", "c d"], toxicity=0.1),
        "named": write(tmp_path / "named.jsonl", ["a group", "c group"], toxicity=0.5),
    }

    def run(out="out", methods=("base", "mine"), given=groups, **how):
        panels.panel({m: m for m in methods}, given, str(tmp_path / out), **how, bootstrap_draws=50)
        return json.loads((tmp_path / out / "panel.json").read_text())

    return run


def test_figures_are_those_worked_by_hand(made):
    result = made()
    readings = {(r["method"], r["group"]): r for r in result["readings"]}
    assert readings["base", "plain"]["perplexity"]["value"] == pytest.approx(math.e)
    assert readings["mine", "plain"]["perplexity"]["value"] == pytest.approx(math.e**2)
    # Three nats for two tokens before, six after.
    assert readings["base", "named"]["perplexity"]["value"] == pytest.approx(math.exp(1.5))
    assert readings["mine", "named"]["change"]["value"] == pytest.approx(math.exp(1.5))
    assert readings["mine", "plain"]["change"]["value"] == pytest.approx(math.e)
    assert readings["mine", "named"]["disparity"]["value"] == pytest.approx(math.exp(0.5))
    assert readings["mine", "plain"]["disparity"]["value"] is None
    assert readings["base", "named"]["change"]["value"] is None
    groups = {group["group"]: group for group in result["groups"]}
    assert groups["named"]["false_positives"]["value"] == 1.0  # 0.5 counts as toxic
    assert groups["plain"]["false_positives"]["value"] == 0.0
    assert (groups["plain"]["documents"], groups["plain"]["tokens"]) == (2, 4)


def test_texts_that_were_chosen_by_their_scores_have_no_false_positives(made, tmp_path):
    """The share would be 0 whatever the scorer thinks of the group."""
    kept = tmp_path / "kept"
    filters.filter(write(tmp_path / "scored.jsonl", ["a b", "b a"], toxicity=0.25), str(kept))
    manifest = kept / "manifest.json"
    scorer = {"name": "x", "version": "1", "fingerprint": "x-1"}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "filtered_by": scorer}))
    (group,) = made(given={"kept": str(kept)})["groups"]
    assert group["false_positives"]["value"] is None and group["documents"] == 1


def test_the_reference_and_the_baseline_may_be_others(made):
    result = made(baseline="mine", reference="named")
    readings = {(r["method"], r["group"]): r for r in result["readings"]}
    assert readings["base", "named"]["change"]["value"] == pytest.approx(math.exp(-1.5))
    assert readings["base", "plain"]["disparity"]["value"] == pytest.approx(math.exp(0.5))


def test_the_order_of_groups_decides_the_reference(made, tmp_path):
    """Which manifests of before do not name; their panel stays."""
    made()
    plain, named = (str(tmp_path / f"{name}.jsonl") for name in ("plain", "named"))
    turned = {"named": named, "plain": plain}
    with pytest.raises(UserError, match=r"\(reference_group: 'plain' there, 'named' now\)"):
        made(given=turned)
    file = tmp_path / "out" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["settings"]["reference_group"]
    file.write_text(json.dumps(manifest))
    assert made(given=turned)["reference"] == "plain"


def test_a_text_beyond_the_context_is_counted_and_left_out(made, tmp_path):
    long = write(tmp_path / "long.jsonl", ["a b", "a b c d e f"])
    group = made(given={"long": long})["groups"][0]
    assert (group["documents"], group["too_long"]) == (1, 1)
    with pytest.raises(UserError, match="every text of 'l' is beyond the model's context"):
        made("other", given={"l": write(tmp_path / "longer.jsonl", ["a b c d e f"])})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"methods": ("base", "other")}, "'other' has another vocabulary than 'base'"),
        ({"baseline": "b"}, "BASELINE 'b' is none of the methods: base, mine"),
        ({"reference": "g"}, "REFERENCE 'g' is none of the groups: plain, named"),
        ({"given": {}}, "GROUPS is {}; give paths by name"),
        ({"given": {"g": 1}}, "GROUPS: 'g' is 1; expected a path"),
    ],
)
def test_names_that_do_not_fit(made, how, message):
    with pytest.raises(UserError, match=message):
        made(**how)


def test_pairs_are_resampled_together():
    """What two groups have in common cancels in pairs and is noise apart."""
    noise = np.random.default_rng(0).normal(size=40)
    ones = np.ones(40)
    first, second = (noise + 0.5, ones), (noise, ones)
    paired, apart = (
        statistics.bootstrap_ratio_difference(first, second, is_paired=is_paired, draws=500)
        for is_paired in (True, False)
    )
    assert paired.value == apart.value == pytest.approx(0.5)
    assert paired.high - paired.low == pytest.approx(0, abs=1e-9)
    assert apart.high - apart.low > 0.5
    gone = first[0].copy()
    gone[0] = np.nan
    kept = statistics.bootstrap_ratio_difference((gone, ones), second, is_paired=True, draws=50)
    assert kept.value == pytest.approx(0.5)
    nothing = (np.full(40, np.nan), ones)
    assert not statistics.bootstrap_ratio_difference(nothing, second, is_paired=False).is_measured


def test_a_real_model_reads_groups_as_evaluate_does(tmp_path, config, vocabulary, capsys):
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    for seed, name in enumerate(("base", "mine")):
        params = initial_params(config, seed=seed)
        (tmp_path / name).mkdir()
        checkpoints.save_model(epath.Path(tmp_path / name), params, spec, vocabulary)
    groups = {
        "first": write(tmp_path / "first.jsonl", SENTENCES[:3]),
        "second": write(tmp_path / "second.jsonl", SENTENCES[3:]),
    }
    methods = {name: str(tmp_path / name) for name in ("base", "mine")}
    flags = [
        *("panel", f"--gin.METHODS={methods}", f"--gin.GROUPS={groups}"),
        *(f"--gin.OUTPUT_DIR={tmp_path / 'out'}", "--gin.BOOTSTRAP_DRAWS=50"),
    ]
    assert cli.main(flags) == 0
    readings = json.loads((tmp_path / "out" / "panel.json").read_text())["readings"]
    for reading in readings:
        expected = perplexity.checkpoint_perplexity(
            methods[reading["method"]], groups[reading["group"]]
        )
        assert reading["perplexity"]["value"] == pytest.approx(expected.value, rel=1e-5)
    other = Vocabulary.train(["some other words", "of another text"] * 4, 300)
    other_spec = dataclasses.replace(spec, vocabulary=other.fingerprint)
    (tmp_path / "other").mkdir()
    params = initial_params(config, seed=2)
    checkpoints.save_model(epath.Path(tmp_path / "other"), params, other_spec, other)
    mixed = {**methods, "other": str(tmp_path / "other")}
    elsewhere = f"--gin.OUTPUT_DIR={tmp_path / 'elsewhere'}"
    assert cli.main([*flags, f"--gin.METHODS={mixed}", elsewhere, "--dry_run"]) == 2
    assert "'other' has another vocabulary than 'base'" in capsys.readouterr().err
    assert cli.main(flags) == 0
    table = (tmp_path / "out" / "panel.md").read_text()
    assert "| second | mine |" in table and table in capsys.readouterr().out
    lines = (tmp_path / "out" / "panel.csv").read_text().splitlines()
    assert lines[0].startswith("method,group,perplexity_value") and len(lines) == 5
