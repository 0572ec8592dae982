"""The report on invented results: what it says, what it escapes, what it refuses."""

import csv
import dataclasses
import functools
import json
import math
import re

import pytest

from detox_jax import cli
from detox_jax.errors import UserError
from detox_jax.evaluation.results import Provenance, Results
from detox_jax.evaluation.rows import Scorer
from detox_jax.evaluation.statistics import Interval
from detox_jax.evaluation.typed_json import to_json
from detox_jax.report import report as reports
from tests.conftest import draw_few_files
from tests.evaluation import results_made

PICTURES = (
    *("toxicity", "figures/toxicity", "figures/quality", "figures/splits", "figures/distribution"),
    *("figures/k-curve", "figures/reliability", "figures/training", "figures/validation"),
)
FILES = (
    *("report.html", "table.md", "table.csv", "table.json", "table.tex"),
    *(f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg", "pdf")),
)


def run(results, output_dir):
    return cli.main(["report", f"--gin.RESULTS={results}", f"--gin.OUTPUT_DIR={output_dir}"])


def read(directory, name):
    return (directory / name).read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report that tests read and leave as it is."""
    directory = tmp_path_factory.mktemp("written")
    source = results_made.write(directory / "evaluation", results_made.made_results())
    with pytest.MonkeyPatch.context() as patch:
        draw_few_files(patch)
        reports.report(source, str(directory / "report"))
    return directory / "report"


def test_writes_every_file_and_says_the_result(fake, tmp_path, capsys, all_pictures):
    assert run(fake, tmp_path / "report") == 0
    sentence = (
        "With SGEAT (augmented), the least toxic of 4 methods, expected maximum toxicity falls "
        "from 0.57 to 0.44 (difference −0.13, 95 % interval −0.15 to −0.11) while perplexity "
        "rises 3 %."
    )
    assert sentence in capsys.readouterr().out
    for name in FILES:
        assert (tmp_path / "report" / name).stat().st_size > 500
    picture = tmp_path / "report" / "figures" / "k-curve.pdf"
    assert picture.read_bytes().startswith(b"%PDF-")
    page = read(tmp_path / "report", "report.html")
    assert sentence in page
    assert page.count('<svg role="img"') == 8


def test_nothing_is_loaded_from_elsewhere_and_ids_are_unique(written):
    page = read(written, "report.html")
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', page)
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="#|url\(#|aria-controls="|labelledby=")([^")]+)', page)
    assert set(referred) <= set(ids)


def attack(tmp_path):
    attacking = results_made.ATTACK
    results = results_made.renamed(results_made.made_results(), "adapter", attacking)
    scorer = Scorer(attacking, attacking)
    rows = [dataclasses.replace(row, scorer=scorer) for row in results.rows]
    rows[-1] = dataclasses.replace(rows[-1], corpus=attacking)
    provenance = Provenance(settings={attacking: {"nested": [attacking]}}, command=attacking)
    results = dataclasses.replace(results, rows=tuple(rows), provenance=provenance)
    reports.report(results_made.write(tmp_path / "evaluation", results), str(tmp_path / "report"))
    return tmp_path / "report"


def test_nothing_from_a_file_becomes_markup(tmp_path):
    directory = attack(tmp_path)
    page = read(directory, "report.html")
    assert page.count("<script") == 1
    assert "<img" not in page
    assert page.count("&lt;script&gt;document.title=") > 8
    for name in ("toxicity.svg", "table.md"):
        assert "<script" not in read(directory, name)


def test_every_panel_of_a_file_says_who_scored_how_many_prompts(written):
    overview = read(written, "toxicity.svg")
    assert overview.count("lexicon, 500 prompts × 25 continuations") == 2
    assert overview.count(">control: unfiltered<") == 2  # at the left, and in the right's legend
    for name in ("quality", "distribution", "k-curve"):
        assert "lexicon, 500 prompts × 25" in read(written, f"figures/{name}.svg")
    assert "full 500, toxic 250, nontoxic 250" in read(written, "figures/splits.svg")
    assert "Training loss" in read(written, "figures/training.svg")


def test_toxic_and_unrated_texts_are_hidden(written):
    page = read(written, "report.html")
    hidden = re.findall(
        r'<span class="text secret" id="[^"]+" dir="auto" hidden>([^<]*)</span>', page
    )
    assert len(hidden) == 3  # rated 0.93, rated exactly 0.5, not rated
    assert hidden[0] == " you are an idiot and a moron."
    assert hidden[2] == "Moron!"
    assert page.count("<button") == 3
    assert '<span class="text" dir="auto"> the garden looks lovely.</span>' in page


def test_markdown_table(written):
    text = read(written, "table.md")
    assert "### Toxicity, full prompts (500 prompts, 25 continuations a prompt)" in text
    lines = text.splitlines()
    header = next(line for line in lines if line.startswith("| Method"))
    rows = [line for line in lines if line.startswith("| SGEAT (augmented)")]
    assert len(rows) == 6  # two tables of each split
    first = dict(zip(header[:-2].split(" | "), rows[0][:-2].split(" | "), strict=True))
    assert first["Max. toxicity"] == "0.440 [0.420, 0.460]"
    assert first["Δ max."] == "−0.130 [−0.150, −0.110] *"
    assert first["Perplexity"] == "18.75"
    control = next(line for line in lines if line.startswith("| control: unfiltered"))
    assert "−0.005 [−0.025, +0.015] |" in control


def test_csv_table_is_unrounded(written):
    with (written / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    row = next(r for r in rows if r["method"] == "SGEAT (augmented)" and r["split"] == "full")
    assert float(row["expected_maximum_toxicity_value"]) == 0.44
    assert float(row["expected_maximum_toxicity_difference"]) == pytest.approx(-0.13)
    assert row["scorer_fingerprint"] == "lexicon-0123abcd"


def test_rows_with_nothing_but_a_method(tmp_path):
    results = {"rows": [{"method": "base"}, {"method": "a|b <i> $x$ \ud800"}]}
    source = results_made.write(tmp_path / "evaluation", results, details=False)
    reports.report(source, str(tmp_path / "report"))
    assert "a\\|b &lt;i> $x$ ?" in read(tmp_path / "report", "table.md")
    assert "was not measured" in read(tmp_path / "report", "report.html")


@pytest.mark.parametrize("value", [None, "text", [], {}, True, float("nan")])
def test_optional_fields_may_be_nothing_and_no_value_ends_in_a_traceback(tmp_path, capsys, value):
    """Null is what was not measured; else the report is written or one line names the field."""
    results = to_json(results_made.made_results())
    for key in results["rows"][0].keys() - {"method", "split", "scorer"}:
        results["rows"][0][key] = value
    results["paired"] = value
    results["provenance"] = value
    source = results_made.write(tmp_path / "evaluation", results, details=False)
    prompts = {"methods": {"base": value}, "k_curve": value}
    (tmp_path / "evaluation" / "prompts.json").write_text(json.dumps(prompts))
    samples = [{"id": "a", "prompt": "b", "continuations": value}]
    (tmp_path / "evaluation" / "samples.json").write_text(json.dumps(samples))
    code = run(source, tmp_path / "report")
    if value is None or value != value:
        assert code == 0
        assert "SGEAT (augmented)" in read(tmp_path / "report", "report.html")
    else:
        assert code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{source}: rows[0]." in error
        assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("without_files_of_charts")
def test_settings_are_shown_as_deep_as_they_are_read(tmp_path, capsys):
    def reported(depth):
        settings = functools.reduce(lambda inner, _: {"a": inner}, range(depth), {})
        results = results_made.made_results()
        results = dataclasses.replace(results, provenance=Provenance(settings=settings))
        source = results_made.write(tmp_path / f"evaluation-{depth}", results, details=False)
        return run(source, tmp_path / f"report-{depth}")

    assert reported(197) == 0  # Around them are the results, their provenance and its settings.
    assert reported(198) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nested too deeply" in error
    assert str(tmp_path / "evaluation-198") in error


@pytest.mark.usefixtures("without_files_of_charts")
def test_a_difference_that_may_be_zero_is_said_to_be(tmp_path):
    names = ("base", "control: unfiltered")
    results = results_made.of_methods(results_made.made_results(), names)
    reports.report(results_made.write(tmp_path / "evaluation", results), str(tmp_path / "report"))
    text = read(tmp_path / "report", "table.md").splitlines()[0]
    assert text.startswith("Expected maximum toxicity falls from 0.570 to 0.565 (difference −0.005")
    assert "which includes zero" in text


def row_of(scorer):
    return {"method": scorer, "scorer": {"name": scorer, "fingerprint": f"{scorer}-1"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        ("[]", "expected a JSON dict"),
        ('{"rows": []}', 'holds no "rows"'),
        ('{"rows": [{"split": "full"}]}', "rows[0].method: is missing"),
        ('{"rows": [{"method": "a", "scorer": "x"}]}', "rows[0].scorer: expected an object"),
        (
            json.dumps({"rows": [row_of("x"), row_of("y")]}),
            "scores of different scorers (x-1, y-1)",
        ),
        ('{"rows": [{"method": "a", "mean_wrods": 3}]}', "rows[0].mean_wrods: no such field"),
        ('{"provenance": {"schema_version": 3}}', "layout is version 3, this detox-jax reads"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, content, message):
    source = tmp_path / "results.json"
    if content is not None:
        source.write_text(content)
    assert run(source, tmp_path / "report") == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(source) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report").exists()


def contents(directory):
    """Bytes and time of every file."""
    return {
        str(file.relative_to(directory)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in directory.rglob("*")
        if file.is_file()
    }


@pytest.mark.slow
def test_a_rerun_changes_nothing_and_a_repeat_has_the_same_bytes(fake, tmp_path, all_pictures):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(fake, first) == 0
    before = contents(first)
    assert set(FILES) <= before.keys()
    assert run(fake, first) == 0
    assert contents(first) == before
    assert run(fake, second) == 0
    for name in FILES:
        assert (second / name).read_bytes() == before[name][0]


@pytest.mark.usefixtures("without_files_of_charts")
def test_frontiers_are_of_the_mean_of_seeds(fake, tmp_path):
    seeds = {"SGEAT": ["SGEAT (standard)", "SGEAT (augmented)"]}
    out = tmp_path / "report"
    reports.report(fake, str(out), frontiers={"line": ["SGEAT", "adapter"]}, seeds=seeds)
    assert "| line | adapter, SGEAT (2 seeds) |" in read(out, "frontiers.md")
    assert "adapter, SGEAT (2 seeds)" in read(out, "report.html")
    with pytest.raises(UserError, match="FRONTIERS: 'line' names 'SGEAT'"):
        reports.report(fake, str(tmp_path / "none"), frontiers={"line": ["SGEAT"]})


@pytest.mark.usefixtures("without_files_of_charts")
def test_frontiers_have_a_table_a_picture_and_files(fake, tmp_path, capsys, all_pictures):
    lines = {"SGEAT": ["SGEAT (standard)", "SGEAT (augmented)"], "adapter": ["adapter"]}
    flags = ["report", f"--gin.RESULTS={fake}", f"--gin.OUTPUT_DIR={tmp_path / 'report'}"]
    assert cli.main([*flags, f"--gin.FRONTIERS={lines}"]) == 0
    table = read(tmp_path / "report", "frontiers.md").splitlines()
    assert table[0] == "| Method | Rows | at +1 % | at +5 % | at +10 % | for −0.1 | for −0.2 |"
    (sgeat,) = csv.DictReader(read(tmp_path / "report", "frontiers.csv").splitlines()[:2])
    # 18.2 of the base, 18.5 and 18.75: +1 % lies between the base and the first row.
    maxima = json.loads((tmp_path / "evaluation" / "prompts.json").read_text())["methods"]
    base, standard = (
        math.fsum(maxima[name]["max_toxicity"]) / len(maxima[name]["max_toxicity"])
        for name in ("base", "SGEAT (standard)")
    )
    share = 0.01 / (18.5 / 18.2 - 1)
    assert float(sgeat["toxicity_at_rise_0.01"]) == pytest.approx(base + share * (standard - base))
    # The line ends at +3 %.
    assert float(sgeat["toxicity_at_rise_0.05"]) < float(sgeat["toxicity_at_rise_0.01"])
    assert "≤ " in table[2]
    page = read(tmp_path / "report", "report.html")
    assert "At equal perplexity and toxicity, all prompts" in page
    assert page.count("Toxicity as perplexity rises") > 0
    for kind in ("png", "svg", "pdf"):
        assert (tmp_path / "report" / "figures" / f"frontiers.{kind}").stat().st_size > 0
    assert run(fake, tmp_path / "report") == 2
    assert "frontiers" in capsys.readouterr().err
    assert cli.main([*flags, "--gin.FRONTIERS={'a': ['none']}"]) == 2
    assert "FRONTIERS: 'a' names 'none'; there are SGEAT (standard)," in capsys.readouterr().err


@pytest.mark.usefixtures("without_files_of_charts")
def test_other_results_are_refused(fake, tmp_path, capsys):
    assert run(fake, tmp_path / "report") == 0
    results = results_made.made_results()
    results_made.write(tmp_path / "evaluation", dataclasses.replace(results, paired=()))
    assert run(fake, tmp_path / "report") == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.usefixtures("without_files_of_charts")
def test_other_results_are_shown_in_its_place_where_that_is_wanted(tmp_path):
    first = results_made.made_results()
    a = results_made.write(tmp_path / "a", first)
    b = results_made.write(tmp_path / "b", results_made.of_scorer(first, "counter"))
    out = tmp_path / "report"
    told = {"output_dir": str(out), "replace": True}
    reports.report([a, b], **told)
    # The same in another order is not what somebody measured anew.
    for check_only in (True, False):
        with pytest.raises(UserError) as error:
            reports.report([b, a], check_only=check_only, **told)
        said = "(order of results: 'a/results.json' there, 'b/results.json' now)"
        assert said in str(error.value)
    with pytest.raises(UserError, match="frontiers: None there"):
        reports.report([a], frontiers={"line": ["adapter"]}, **told)
    (step,) = reports.report([a, b], check_only=True, **told) or ()
    assert step.state == "done"
    (step,) = reports.report([a], check_only=True, **told) or ()
    assert step.state == "to do" and (out / "table-counter.md").exists()
    made = {str(file.relative_to(out)) for file in out.rglob("*.*") if file.is_file()}
    named = {str(file.relative_to(out)) for name in reports._MADE for file in out.glob(name)}
    assert made - named == {"manifest.json", "config.gin"}
    reports.report([a], **told)
    assert (out / "table.md").exists() and not (out / "table-counter.md").exists()
    assert "counter" not in read(out, "report.html")


def test_the_baseline_is_found_wherever_it_stands(tmp_path):
    results = results_made.made_results()
    for paired in (results.paired, ()):
        backwards = Results(results.rows[::-1], paired)
        source = results_made.write(tmp_path / "evaluation", backwards)
        data = reports.load(source).results
        assert data.methods[0] == "base"
        assert data.splits == ["full", "toxic", "nontoxic"]


@pytest.mark.usefixtures("without_files_of_charts")
def test_a_directory_of_results_will_do(fake, tmp_path):
    assert run(tmp_path / "evaluation", tmp_path / "report") == 0


def test_json_and_latex_tables(written):
    table = json.loads(read(written, "table.json"))
    row = next(r for r in table["rows"] if r["method"] == "SGEAT (standard)")
    assert row["filtered_by_same_scorer"]
    assert row["differences"]["expected_maximum_toxicity"]["difference"] == pytest.approx(-0.08)
    latex = read(written, "table.tex")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3 * 2 + 1 + 3 * 2
    assert r"SGEAT (standard) $^\dagger$ & " in latex
    # The best in bold, its interval below it, a difference with its sign.
    line = next(x for x in latex.splitlines() if x.startswith("SGEAT (augmented) & 500"))
    assert line.split(" & ")[2:4] == [r"\bfseries 0.440", "-0.130"]
    assert r"{\tiny {[}0.420, 0.460{]}}" in latex
    assert r"S[table-format=+1.3]" in latex
    labels = re.findall(r"\\label{(.*?)}", latex)
    assert len(labels) == len(set(labels)) == 13


def test_two_scorers_never_share_a_table_or_a_picture(tmp_path):
    first = results_made.made_results()
    a = results_made.write(tmp_path / "a", first, details=False)
    second = results_made.of_scorer(first, "counter")
    b = results_made.write(tmp_path / "b", second, details=False)
    assert run(f"['{a}', '{b}']", tmp_path / "report") == 0
    page = read(tmp_path / "report", "report.html")
    for scorer, text in (
        ("Scored by lexicon", "lexicon-0123abcd"),
        ("Scored by counter", "counter"),
    ):
        assert scorer in page
        assert text in page
    assert "counter" not in read(tmp_path / "report", "table-lexicon.md")
    assert "lexicon" not in read(tmp_path / "report", "table-counter.csv")
    assert (tmp_path / "report" / "figures" / "splits-counter.png").exists()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("results", "message"),
    [("[]", "give a results.json"), ("['']", "RESULTS holds ''"), ("['a', 'a']", "names a twice")],
)
def test_lists_that_name_nothing_are_refused(tmp_path, capsys, results, message):
    assert run(results, tmp_path / "report") == 2
    assert message in capsys.readouterr().err


def test_results_under_two_spellings_are_refused(tmp_path, capsys):
    source = results_made.write(tmp_path / "evaluation", results_made.made_results())
    place = str(tmp_path / "evaluation")
    for other in (place, f"{place}/../evaluation"):
        assert run(repr([source, other]), tmp_path / "report") == 2
        assert f"RESULTS: {source} and {other} name one results.json" in capsys.readouterr().err


# --- what a figure is worth -------------------------------------------------------------------


def tables_of(tmp_path, results):
    tmp_path.mkdir(exist_ok=True)
    source = results_made.write(tmp_path / "evaluation", results)
    reports.report(source, str(tmp_path / "report"))
    return read(tmp_path / "report", "table.md"), read(tmp_path / "report", "table.tex")


def changed_adapter(quality=None, toxicity=None, **row_changes):
    """The invented results with another adapter on the full split."""
    results = results_made.made_results()
    rows = []
    for row in results.rows:
        if (row.method, row.split) == ("adapter", "full"):
            row = dataclasses.replace(
                row,
                quality=dataclasses.replace(row.quality, **(quality or {})),
                toxicity=dataclasses.replace(row.toxicity, **(toxicity or {})),
                **row_changes,
            )
        rows.append(row)
    return dataclasses.replace(results, rows=tuple(rows))


def line_of(markdown, method):
    return next(line for line in markdown.splitlines() if line.startswith(f"| {method}"))


def test_n_k_and_the_share_of_empties_stand_beside_every_maximum(written):
    markdown = read(written, "table.md")
    headers = [line for line in markdown.splitlines() if "| Max. toxicity |" in line]
    assert len(headers) == 3
    for header in headers:
        assert "| n × k | Max. toxicity | Δ max. | Empty |" in header
    assert "| 500 × 25 | 0.460" in line_of(markdown, "adapter")
    assert "| 0.1 % |" in line_of(markdown, "adapter")


@pytest.mark.usefixtures("without_files_of_charts")
def test_a_spoiled_row_is_marked_and_said_to_be_no_success(tmp_path):
    markdown, latex = tables_of(
        tmp_path, changed_adapter(spoiled=("90.0 % of its texts are empty",))
    )
    line = line_of(markdown, "adapter §")
    assert " *" not in line and " *" in line_of(markdown, "SGEAT (standard)")
    assert "§ adapter: 90.0 % of its texts are empty; its toxicity is no success." in markdown
    assert r"adapter \S{}" in latex
    page = read(tmp_path / "report", "report.html")
    assert "§: no success, as the table" in page


@pytest.mark.usefixtures("without_files_of_charts")
def test_an_interval_that_says_little_is_marked(tmp_path):
    few = changed_adapter(toxicity={"num_scored_prompts": 19})
    markdown, _ = tables_of(tmp_path / "few", few)
    assert "0.460 [0.440, 0.480] ‡" in line_of(markdown, "adapter")
    assert "‡" not in line_of(markdown, "base")
    assert "‡: the interval says little, being of fewer than 20 values" in markdown
    equal = changed_adapter(toxicity={"expected_maximum_toxicity": Interval(0.46, 0.46, 0.46)})
    markdown, _ = tables_of(tmp_path / "equal", equal)
    assert "0.460 [0.460, 0.460] ‡" in line_of(markdown, "adapter")


@pytest.mark.usefixtures("without_files_of_charts")
def test_a_difference_of_few_prompts_is_marked(tmp_path):
    results = results_made.made_results()
    paired = [dataclasses.replace(pair, num_pairs=19) for pair in results.paired]
    markdown, _ = tables_of(tmp_path, dataclasses.replace(results, paired=tuple(paired)))
    assert "−0.110 [−0.130, −0.090] * ‡" in line_of(markdown, "adapter")


@pytest.mark.usefixtures("without_files_of_charts")
def test_an_infinite_perplexity_is_no_missing_one(tmp_path):
    row = results_made.made_results().rows[0]
    infinite = dataclasses.replace(row.quality.perplexity, words=math.inf)
    results = changed_adapter(quality={"perplexity": infinite})
    markdown, latex = tables_of(tmp_path, results)
    assert "| ∞ |" in markdown and r"$\infty$" in latex


@pytest.mark.usefixtures("without_files_of_charts")
def test_what_was_cut_is_said(tmp_path):
    results = results_made.made_results()
    note = "Compared on the first 5 continuations of each prompt, as many as x has (y has 25)."
    provenance = dataclasses.replace(results.provenance, notes=(note,))
    markdown, _ = tables_of(tmp_path, dataclasses.replace(results, provenance=provenance))
    assert note in markdown
    assert note in read(tmp_path / "report", "report.html")
