"""Some rows of a run alone: what they need, where their figures go, and what later runs find."""

import json
import shutil

import gin
import pytest
from etils import epath

from detox_jax import cli, sgeat
from detox_jax.errors import UserError
from detox_jax.generation.decoding import Decoding
from detox_jax.generation.steering.activations import ActivationOffset
from detox_jax.generation.steering.experts import Experts
from detox_jax.generation.steering.subspace import SubspaceMargin
from detox_jax.method import only
from detox_jax.method.fitted_vectors import Vectors
from detox_jax.method.method import Method, answers_as
from detox_jax.models.adaptation import LoRAConfig
from tasks import demo_corpus
from tests import sgeat_made
from tests.sgeat_test import files_of

CORPORA = {
    "standard": sgeat.Corpus(prompts=str),
    "third": sgeat.Corpus(source="standard", size_of="standard"),
    "toxic": sgeat.Corpus(source="standard"),
    "second": sgeat.Corpus(prompts=str, writer="standard", pool=("third",)),
    "unused": sgeat.Corpus(prompts=str),
}
ROWS = {
    "standard": Method("standard"),
    "unused": Method("unused"),
    "anti": Method("toxic", LoRAConfig()),
    "minus": Method(terms={"anti": -1.0}),
    "round": Method("second", start="standard"),
    "greedy": Method(start="standard", decoding={"behind": None}),
    "other": Method(start="greedy"),
    "experts": Method(decoding={"steering": [Experts(anti="anti", alpha=1.0, base="base")]}),
    "vector": Method(decoding={"steering": [ActivationOffset("mean", 1.0)]}),
    "plane": Method(decoding={"steering": [SubspaceMargin("other")]}),
    "file": Method(decoding={"steering": [ActivationOffset("elsewhere", 1.0)]}),
}
VECTORS = {"mean": Vectors("third", model="standard"), "other": Vectors("unused")}


@pytest.mark.parametrize(
    ("row", "rows", "corpora", "vectors"),
    [
        ("standard", "standard", "standard", ""),
        ("minus", "minus anti", "toxic standard", ""),
        ("round", "round standard", "second third standard", ""),
        ("greedy", "greedy standard", "standard", ""),
        ("experts", "experts anti", "toxic standard", ""),
        ("vector", "vector standard", "third standard", "mean"),
        ("plane", "plane", "unused", "other"),
        ("file", "file", "", ""),
        ("base", "", "", ""),
    ],
)
def test_what_a_row_needs_and_nothing_else(row, rows, corpora, vectors):
    needed = only.Needed(ROWS, CORPORA, VECTORS)
    needed.measure(row, Decoding())
    made = needed.rows, needed.corpora, needed.vectors
    assert made == ({*rows.split()}, {*corpora.split()}, {*vectors.split()})
    assert needed.has("standard", ROWS["standard"]) == ("standard" in needed.rows)
    assert needed.has("standard", CORPORA["standard"]) == ("standard" in needed.corpora)


def test_what_steers_all_rows_steers_the_base_too():
    needed = only.Needed(ROWS, CORPORA, VECTORS)
    needed.measure("base", Decoding(steering=[ActivationOffset("mean", 1.0)]))
    assert (needed.rows, needed.vectors) == ({"standard"}, {"mean"})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "ONLY is empty; give names of METHODS"),
        (["standrad"], "ONLY: 'standrad' is no method; did you mean standard[?]$"),
        (["q"], "ONLY: 'q' is no method; there are standard, unused, anti"),
    ],
)
def test_names_that_are_no_rows(names, message):
    only.check(["base", "standard"], ROWS)
    with pytest.raises(UserError, match=message):
        only.check(names, ROWS)


def test_a_frontier_of_fewer_rows_is_another_line():
    given = {"whole": ["standard", "round"], "one": ["standard"]}
    assert only.frontiers(given, {"standard": ROWS["standard"]}) == {"one": ["standard"]}
    assert only.frontiers(given, {"anti": ROWS["anti"]}) is None
    assert only.frontiers(None, ROWS) is None


@pytest.mark.parametrize("rows", [ROWS, dict(reversed(ROWS.items()))])
def test_a_model_answers_under_one_name_whatever_the_order_of_rows(rows):
    assert answers_as("greedy", rows, ["base", "greedy", "standard"]) == "standard"
    assert answers_as("file", rows, ["base", "file"]) == "base"
    # The row that made it is asked behind a tag, and so not asked.
    assert answers_as("other", rows, ["base", "other", "greedy"]) == "greedy"


# --- a run ------------------------------------------------------------------------------------

CONFIG = f"""{sgeat_made.IMPORTS}
from detox_jax.generation import steer
from detox_jax.generation.steering import activations
from detox_jax.generation import sampling
{sgeat_made.CONFIG}
METHODS = {{
    'whole': {{'corpus': 'standard'}},
    'whole-seed1': {{'corpus': 'standard', 'random_seed': 1}},
    'top': {{'start': 'whole', 'decoding': {{'sampling': @sampling.TopKSampling()}}}},
    'vector': {{'decoding': {{'steering': [@activations.ActivationOffset()]}}}},
}}
FRONTIERS = {{'steps': ['whole'], 'with top': ['whole', 'top']}}
sampling.TopKSampling.k = 50
VECTORS = {{'mean': {{'corpus': 'standard'}}}}
steer.steer.margin = 0.01
activations.ActivationOffset:
  vectors = 'mean'
  strength = 0.1
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    root = tmp_path_factory.mktemp("only")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sgeat_made.DEMO_CORPUS.items():
            patch.setattr(demo_corpus, name, value)
        (root / "small.gin").write_text(CONFIG)
        sgeat_made.write_questions(root)
        yield ["sgeat", f"--gin_file={root / 'small.gin'}", f"--gin.DOWNSTREAM_DIR={root}"]


def names(directory):
    return {path.name for path in directory.iterdir()}


@pytest.mark.slow
def test_some_rows_alone_and_all_of_them_later_leave_what_a_run_of_all_leaves(
    flags, tmp_path, capsys
):
    out = tmp_path / "out"
    command = [*flags, f"--gin.OUTPUT_DIR={out}"]
    top = [*command, "--gin.ONLY=['top', 'base']"]
    assert cli.main([*top, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "ONLY = ['top', 'base']" in said
    planned = {*said.split("# plan: ")[1].split()}
    assert cli.main(top) == 0
    said = capsys.readouterr().out
    # The row, what it needs, and nothing else; the plan had said so.
    (place,) = out.glob("only-*")
    assert names(out / "models") == {"whole"} and names(out / "corpora") == {"standard"}
    assert names(out / "continuations") == {"base", "top"} and not (out / "vectors").exists()
    assert names(out / "choices") == {"base", "whole"}
    made = {path.parent for path in out.rglob("manifest.json") if "text" not in path.parts}
    assert {str(path) for path in made} <= planned
    # Its figures are of it alone, and nothing says that they are those of the whole run.
    assert f"{place}/report.html" in said and not (out / "results.json").exists()
    results = json.loads((place / "results.json").read_text())
    assert {row["method"] for row in results["rows"]} == {"base", "top"}
    assert not list((place / "report").glob("frontiers*"))
    # What its figures say repeats them, and nothing is left to do.
    assert cli.main([*results["provenance"]["command"].split()[1:], "--dry_run"]) == 0
    head = capsys.readouterr().out.split("# plan: ")[1].split(" of them done")[0]
    assert head == "{0} steps, {0}".format(head.split()[0])

    # Other rows: what is there is taken, what is not is made.
    assert cli.main([*command, "--gin.ONLY=['whole-seed1', 'whole', 'vector']"]) == 0
    (other,) = {*out.glob("only-*")} - {place}
    assert names(out / "models") == {"whole", "whole-seed1"}
    assert [path.name for path in (other / "report").glob("frontiers*.md")] == ["frontiers.md"]
    table = (other / "report" / "table.md").read_text()
    assert "2 seeds" in table and "| vector" in table and "| top" not in table

    # All rows: the same bytes as those of a run that never named some, in the same place.
    assert cli.main(command) == 0
    after = {n: content for n, content in files_of(out).items() if not n.startswith("only-")}
    shutil.rmtree(out)
    assert cli.main(command) == 0
    before = files_of(out)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == []


def test_where_figures_go_is_the_same_in_whatever_order_rows_are_named():
    root = epath.Path("run")
    one = only.directory(root, ["top", "whole"])
    assert one == only.directory(root, ["whole", "base", "top", "top"])
    assert one not in (only.directory(root, ["top"]), only.directory(root, ["topwhole"]))


def test_a_name_that_is_no_row_is_one_line_and_nothing_begins(flags, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={out}", "--gin.ONLY=['whle']"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "detox-jax: error: ONLY: 'whle' is no method; did you mean whole?"
    assert not out.exists()


def test_without_a_macro_nothing_is_bound():
    gin.clear_config()
    only.bind(["standard"])
    assert "standard" not in gin.config_str()
