"""Sheets as they come back: what spreadsheets do to them is read, what changes a result is not."""

import csv
import random

import pytest

from detox_jax.errors import UserError
from detox_jax.human import answers
from tests.human import human_made

KEY = human_made.key(prompts=3, samples=1, raters=2)
MINE = human_made.prefers("mine")
JUDGES = dict.fromkeys(KEY.questions, MINE)


def rows_of(rater=1):
    return human_made.filled(KEY, rater, **JUDGES)


def read(tmp_path, content, allow_missing=False, name="sheet.csv"):
    """What is read of a file of these bytes, without its directory where it is refused."""
    file = tmp_path / name
    file.write_bytes(content.encode("utf-8-sig") if isinstance(content, str) else content)
    try:
        return answers.read(KEY, answers.files_of(str(file)), allow_missing)
    except UserError as error:
        raise UserError(str(error).replace(f"{tmp_path}/", "")) from None


def plain(answered):
    return sorted((x.row.item, sorted(x.answers.items())) for x in answered)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    found = read(tmp_path_factory.mktemp("plain"), human_made.csv_of(rows_of()))
    assert [x.answers for x in found] == [
        dict.fromkeys(KEY.questions, x.row.method_side) for x in found
    ]
    assert {x.rater for x in found} == {1}
    return plain(found)


def with_columns(rows):
    return [{**row, "": "", " ": "", "notes": "tired; sorry"} for row in rows]


def quoting_all(rows):
    return human_made.csv_of(rows, quoting=csv.QUOTE_ALL)


# What programs make of a sheet that is saved again.
EDITS = {
    "without a byte order mark": lambda rows: human_made.csv_of(rows).encode(),
    "line feeds alone": lambda rows: human_made.csv_of(rows, lineterminator="\n"),
    "carriage returns alone": lambda rows: human_made.csv_of(rows, lineterminator="\r"),
    "semicolons": lambda rows: human_made.csv_of(rows, delimiter=";"),
    "semicolons that a line names": lambda rows: (
        "sep=;\r\n" + human_made.csv_of(rows, delimiter=";")
    ),
    "Unicode text": lambda rows: human_made.csv_of(rows, delimiter="\t").encode("utf-16"),
    "western code page": lambda rows: human_made.csv_of(rows, delimiter=";").encode("cp1252"),
    "DOS": lambda rows: human_made.csv_of(rows).encode("cp437", "replace"),
    "ASCII": lambda rows: human_made.csv_of(rows).encode("ascii", "replace"),
    "all quoted": quoting_all,
    "empty and other columns": lambda rows: human_made.csv_of(with_columns(rows)),
    "empty cells and rows behind": lambda rows: (
        human_made.csv_of(rows) + ",,,,,,,,\r\n\r\n;\r\n"[:12]
    ),
    "rows sorted otherwise": lambda rows: human_made.csv_of(
        random.Random(0).sample(rows, len(rows))
    ),
    "columns in another order": lambda rows: human_made.csv_of(
        [dict(reversed(row.items())) for row in rows]
    ),
    "letters of other case": lambda rows: human_made.csv_of(
        [{k: v.lower() if k in KEY.questions else v for k, v in row.items()} for row in rows]
    ).replace("less_toxic", "Less_Toxic "),
    "spaces around answers": lambda rows: human_made.csv_of(
        [{k: f" {v} " if k in KEY.questions else v for k, v in row.items()} for row in rows]
    ),
    "two sheets in one file": lambda rows: human_made.csv_of([*rows, *rows_of(2)]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_spreadsheets_do_to_a_sheet_is_read(edit, tmp_path, expected):
    found = plain(read(tmp_path, EDITS[edit](rows_of())))
    if edit == "two sheets in one file":
        assert len(found) == 2 * len(expected)
        found = [x for x in found if f"{KEY.code}_1_" in x[0]]
    assert found == expected


def changed(place, **cells):
    rows = rows_of()
    rows[place] = {**rows[place], **cells}
    return human_made.csv_of(rows)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed(1, more_fluent="C"), "sheet.csv:3: more_fluent is 'C'; write A, B or equal"),
        (changed(0, less_toxic=""), "sheet.csv:2: no answer to 'less_toxic'; write A, B or equal"),
        (changed(2, A="… another text"), "sheet.csv:4: the text of 'A' is not the sheet's: '… ano"),
        (changed(2, prompt=""), "sheet.csv:4: the text of 'prompt' is not the sheet's: ''"),
        (
            changed(1, item="zzzzzz_1_1"),
            "sheet.csv:3: item 'zzzzzz_1_1' is of another key; those of",
        ),
        (changed(1, item=""), "sheet.csv:3: no item"),
        (
            changed(1, item=f"{KEY.code}_1_99"),
            f"sheet.csv:3: no item '{KEY.code}_1_99' in this key",
        ),
        (
            human_made.csv_of([*rows_of(), rows_of()[0]]),
            f"sheet.csv:5: item '{KEY.code}_1_1' stands at sheet.csv:2 too; give each sheet once",
        ),
        (human_made.csv_of(rows_of()[1:]), "sheet.csv: 1 of the 3 items of rater 1 are missing"),
        (
            human_made.csv_of(rows_of()).replace("less_toxic", "toxic"),
            "column 'less_toxic' is missing",
        ),
        (
            human_made.csv_of(rows_of()).replace("more_topical", "A", 1),
            "sheet.csv:1: column 'A' stands 2 times",
        ),
        (human_made.csv_of(rows_of()).replace("“", '"', 1), "sheet.csv:2: cannot be read as CSV"),
        ("", "sheet.csv:1: column 'item' is missing; the first row of a sheet names item, prompt"),
        (b"\xff\xfe\x00", "sheet.csv:1: column 'item' is missing"),
    ],
)
def test_what_changes_a_result_is_one_line_with_file_and_row(content, said, tmp_path):
    with pytest.raises(UserError) as error:
        read(tmp_path, content)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_texts_of_the_two_sides_in_each_others_place_are_refused(tmp_path):
    rows = rows_of()
    rows[0] |= {"A": rows[0]["B"], "B": rows[0]["A"]}
    for content in (human_made.csv_of(rows), human_made.csv_of(rows).encode("cp1252")):
        with pytest.raises(UserError, match="2: the text of 'A' is not the sheet's"):
            read(tmp_path, content)


def test_a_code_page_whose_characters_end_in_letters_is_refused_with_advice(tmp_path):
    """In Japan's the quotation mark before a prompt has the letter g for its second byte."""
    with pytest.raises(UserError, match="2: the text of 'prompt' .*; .* save it as CSV UTF-8"):
        read(tmp_path, human_made.csv_of(rows_of()).encode("cp932"))
    with pytest.raises(UserError, match="another.*; copy the answers into a fresh sheet"):
        read(tmp_path, changed(2, A="… another text"))


def test_missing_answers_and_rows_are_left_out_where_they_may_be(tmp_path):
    rows = rows_of()[1:]
    rows[0]["less_toxic"] = ""
    found = read(tmp_path, human_made.csv_of(rows), allow_missing=True)
    assert [sorted(x.answers) for x in found] == [
        ["more_fluent", "more_topical"],
        sorted(KEY.questions),
    ]
    blank = [{**row, **dict.fromkeys(KEY.questions, "")} for row in rows]
    with pytest.raises(UserError, match="no answer at all"):
        read(tmp_path, human_made.csv_of(blank), allow_missing=True)


def test_sheets_are_files_globs_and_directories(tmp_path):
    human_made.write_filled(tmp_path / "filled", KEY, raters=(1, 2), **JUDGES)
    (tmp_path / "filled" / "instructions.txt").write_text("read this")
    (tmp_path / "filled" / "~$rater_1.csv").write_text("a lock of Excel's")
    both = answers.files_of(str(tmp_path / "filled"))
    assert [file.name for file in both] == ["rater_1.csv", "rater_2.csv"]
    assert answers.files_of(str(tmp_path / "filled" / "rater_*.csv")) == both
    assert answers.files_of([str(file) for file in both[::-1]]) == both[::-1]
    assert len(answers.files_of([str(both[0]), str(tmp_path / "filled")])) == 2
    copy = both[0].rename(both[0].parent / "rater_[2].csv")
    assert answers.files_of(str(copy)) == [copy]  # and not rater_2.csv
    for missing in ("nosuch", "nosuch/*.csv"):
        with pytest.raises(UserError, match="SHEETS=.*no such sheet"):
            answers.files_of(str(tmp_path / missing))
    with pytest.raises(UserError, match="name at least one sheet"):
        answers.files_of([])
    (tmp_path / "filled" / "rater_2.xlsx").write_bytes(b"PK")
    for named in ("filled", "filled/rater_2.xlsx"):
        with pytest.raises(UserError, match="rater_2.xlsx: is a workbook; save it as CSV"):
            answers.files_of(str(tmp_path / named))


def test_one_sheet_under_two_names_is_refused(tmp_path):
    human_made.write_filled(tmp_path / "filled", KEY, raters=(1,), **JUDGES)
    copy = tmp_path / "filled" / "rater_1 (copy).csv"
    copy.write_bytes((tmp_path / "filled" / "rater_1.csv").read_bytes())
    with pytest.raises(UserError, match=r"rater_1.csv:2: item .* stands at .*\(copy\).csv:2 too"):
        answers.read(KEY, answers.files_of(str(tmp_path / "filled")), False)
