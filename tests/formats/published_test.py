"""BOLD, ToxiGen, RTP-LX and FrenchToxicityPrompts as they are downloaded, in fixtures."""

import gzip
import json

import pytest

from detox_jax import bad_records, record_blocks, records
from detox_jax.errors import UserError

# BOLD's files are one line without an end; nearly all prompts end with a space.
PROMPTS = {
    "American_actors": {"Ann_Lee": ["Ann Lee is an ", "In 1990 Lee "], "Bo_Ray": ["Bo Ray was "]},
    "American_actresses": {"Cy_Fox": ["Cy Fox is an "]},
}
SENTENCES = {"judaism": {"Judaism": ["Judaism is a religion.", "Judaism has texts."]}}
# ToxiGen's have the two characters of an escaped line break.
NEUTRAL = r"- women play chess\n- women write books\n-"
# RTP-LX's annotations are of people, from 1 to 5.
HARMS = {"Toxicity": 4.0, "IdentityAttack": 2.0, "SelfHarm": 1.0, "SexualContent": 1.0}


def _rtp_lx(text, index, locale, **more):
    return {
        "Prompt": text,
        "Completion": "",
        "Index": str(index),
        "Locale": locale,
        "Dialect": "",
        "PromptAnnotations": HARMS,
        "BenignCompletion": " all is well",
    } | more


def _write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


# --- BOLD -------------------------------------------------------------------------------------


def test_bold_prompts_know_domain_group_and_title(tmp_path):
    path = tmp_path / "gender_prompt.json"
    path.write_text(json.dumps(PROMPTS))
    prompts = list(records.read_prompts(str(path)))
    assert [(p.text, p.extra["group"], p.extra["title"]) for p in prompts] == [
        ("Ann Lee is an", "American_actors", "Ann_Lee"),
        ("In 1990 Lee", "American_actors", "Ann_Lee"),
        ("Bo Ray was", "American_actors", "Bo_Ray"),
        ("Cy Fox is an", "American_actresses", "Cy_Fox"),
    ]
    assert {p.extra["domain"] for p in prompts} == {"gender"}
    assert prompts[1].id == "bold-gender-American_actors-Ann_Lee-2"


def test_bold_prompts_that_come_back_have_ids_of_their_own(tmp_path):
    """748 of the 10,195 about professions do, more than a source without ids may hold."""
    path = tmp_path / "profession_prompt.json"
    path.write_text(json.dumps({"a": {"b": ["A baker is "] * 50}}))
    assert len({p.id for p in records.read_prompts(str(path))}) == 50


def test_bold_sentences_are_documents_and_no_prompts(tmp_path):
    path = tmp_path / "religious_ideology_wiki.json.gz"
    path.write_bytes(gzip.compress(json.dumps(SENTENCES).encode()))
    documents = list(records.read_documents(str(path)))
    assert [d.text for d in documents] == ["Judaism is a religion.", "Judaism has texts."]
    assert documents[0].extra == {
        "domain": "religious_ideology",
        "group": "judaism",
        "title": "Judaism",
    }
    with pytest.raises(UserError, match='has no "prompt"'):
        list(records.read_prompts(str(path)))


def test_a_directory_of_bold_is_all_its_domains(tmp_path):
    (tmp_path / "gender_prompt.json").write_text(json.dumps(PROMPTS))
    (tmp_path / "race_prompt.json").write_text(json.dumps({"x": {"y": ["He was "]}}))
    prompts = list(records.read_prompts(str(tmp_path)))
    assert [p.extra["domain"] for p in prompts] == ["gender"] * 4 + ["race"]


@pytest.mark.parametrize(
    "rows",
    [
        [{"meta": {"tags": ["a"]}, "text": "x"}],
        [{"meta": {"tags": ["a"]}}, {"meta": {"tags": ["b"]}}],
        [{"meta": {"tags": [1]}}],
    ],
)
def test_json_lines_of_a_like_name_and_start_are_read_as_lines(tmp_path, rows):
    path = _write(tmp_path / "my_prompt.json", *rows)
    if "text" in rows[0]:
        assert [d.text for d in records.read_documents(path)] == ["x"]
        return
    with pytest.raises(UserError, match=r'my_prompt.json:1: record without a "text"'):
        list(records.read_documents(path))


# --- ToxiGen ----------------------------------------------------------------------------------


def test_toxigen_prompts_are_lines_with_group_and_stance(tmp_path):
    (tmp_path / "neutral_women_1k.txt").write_text(f"{NEUTRAL}\n{NEUTRAL}\n")
    # A demonstration of `hate_bisexual` lacks its line break.
    (tmp_path / "hate_mental_disability_1k.txt").write_text("- one\\n- two!-\n")
    prompts = list(records.read_prompts(str(tmp_path)))
    assert [(p.id, p.text) for p in prompts] == [
        ("toxigen-hate-mental_disability-1", "- one\n- two!-"),
        ("toxigen-neutral-women-1", "- women play chess\n- women write books\n-"),
        ("toxigen-neutral-women-2", "- women play chess\n- women write books\n-"),
    ]
    assert prompts[0].extra == {"group": "mental_disability", "stance": "hate"}


def test_toxigen_prompts_of_the_hub_have_a_line_break_behind_them(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "neutral_women_1k-00000-of-00001.parquet"
    pq.write_table(pa.table({"prompt": [f"{NEUTRAL}\n"]}), path)
    (prompt,) = records.read_prompts(str(path))
    assert prompt.text == "- women play chess\n- women write books\n-"
    assert prompt.extra["group"] == "women"


@pytest.mark.parametrize(
    ("name", "line"), [("women.txt", NEUTRAL), ("neutral_women.txt", "women play chess")]
)
def test_other_plain_text_stays_as_it_is(tmp_path, name, line):
    (tmp_path / name).write_text(f"{line}\n")
    (prompt,) = records.read_prompts(str(tmp_path / name))
    assert prompt.text == line and not prompt.extra


def test_toxigen_annotated_sentences_have_group_and_label(tmp_path):
    rows = [
        {"text": t, "target_group": "women", "toxicity_ai": a, "toxicity_human": h}
        for t, a, h in (
            *(("one", 2.5, 3.0), ("two", 2.5, 3.5), ("three", None, 1.0)),
            ("four", 10**400, 1.0),  # which is no float
        )
    ]
    documents = list(records.read_documents(_write(tmp_path / "d.jsonl", *rows)))
    assert [d.extra.get("toxic") for d in documents] == [False, True, None, None]
    assert {d.extra["group"] for d in documents} == {"women"}
    prompts = list(records.read_prompts(f"{tmp_path}/d.jsonl#prompt=text"))
    assert prompts[1].text == "two" and prompts[1].extra["group"] == "women"


# --- RTP-LX -----------------------------------------------------------------------------------


def test_rtp_lx_prompts_know_language_dialect_and_harms(tmp_path):
    path = _write(tmp_path / "RTP_LX_AR.json", _rtp_lx("مرحبا", 7, "AR", Dialect="Egyptian"))
    (prompt,) = records.read_prompts(path)
    assert prompt.id == "rtp-lx-ar-7" and prompt.text == "مرحبا"
    assert prompt.toxicity == 0.75  # 4 of 1 to 5
    assert prompt.prompt_extra == {"identity_attack": 2.0, "self_harm": 1.0, "sexual_content": 1.0}
    assert prompt.extra["language"] == "ar" and prompt.extra["dialect"] == "Egyptian"
    assert prompt.extra["BenignCompletion"] == " all is well"
    assert not prompt.generations


def test_rtp_lx_of_the_first_versions(tmp_path):
    row = _rtp_lx("Ahoj", 0, "CS")
    row["Annotations"] = row.pop("PromptAnnotations")
    row["OriginalMetadata"] = {"Filename": "1.txt", "Begin": "3", "End": "9"}
    (prompt,) = records.read_prompts(_write(tmp_path / "RTP_LX_CS.json", row))
    assert prompt.toxicity == 0.75 and prompt.extra["OriginalMetadata"]["Begin"] == "3"


@pytest.mark.parametrize(
    ("name", "locale", "language"),
    [
        ("RTP_LX_ZH-Hans.json", "ZH", "zh-Hans"),
        ("RTP_LX_ZH-Hant.json", "ZH", "zh-Hant"),
        ("RTP_LX_UK.json", "", "uk"),
        ("RTP_LX_NO-NB.json", "NO", "no-NB"),
        ("RTP_LX_PT.json", "Pt-Br", "pt-BR"),
        ("RTP_LX_PT.json", "PT", "pt"),
        ("RTP_LX_BCMS.json", "BCMS", "bcms"),
        ("all.jsonl", "DE", "de"),
        ("all.jsonl", "", None),
    ],
)
def test_rtp_lx_language_is_that_of_the_files_name(tmp_path, name, locale, language):
    (prompt,) = records.read_prompts(_write(tmp_path / name, _rtp_lx("x", 0, locale)))
    assert prompt.extra.get("language") == language


def test_rtp_lx_without_its_english_prompts_is_refused_or_set_aside(tmp_path):
    rows = [_rtp_lx("NA", 0, "EN"), *(_rtp_lx(f"p{i}", i, "EN") for i in range(1, 4))]
    path = _write(tmp_path / "RTP_LX_EN.json", *rows)
    with pytest.raises(UserError, match=r'RTP_LX_EN.json:1: RTP-LX without its prompt \("NA"\)'):
        list(records.read_prompts(path))
    policy = bad_records.SetAside(path=str(tmp_path / "bad.jsonl"), most=0.5)
    aside = bad_records.opened(policy)
    assert [p.text for p in records.read_prompts(path, aside)] == ["p1", "p2", "p3"]


def test_rtp_lx_beyond_what_a_number_holds_is_refused_by_its_line(tmp_path):
    row = _rtp_lx("a", 1, "DE", PromptAnnotations={**HARMS, "Toxicity": 10**400})
    path = _write(tmp_path / "RTP_LX_DE.json", row)
    with pytest.raises(UserError, match=r'RTP_LX_DE.json:1: prompt: "toxicity" is 1000'):
        list(records.read_prompts(path))


# --- FrenchToxicityPrompts --------------------------------------------------------------------


@pytest.fixture
def french(tmp_path):
    """Files of the published names, a sample a line; names of fields are of this test alone."""
    directory = tmp_path / "dataset"
    directory.mkdir()
    for band, score in (("high", 80.5), ("mid_high", 60), ("mid_low", 30), ("low", 2.5)):
        row = {"debut": f"Le chat {band}", "suite": " dort.", "scores": {"TOXICITY": score}}
        _write(directory / f"{band}_tox_prompt.json", row, row | {"debut": f"Le chien {band}"})
    return directory


def test_french_prompts_have_language_and_band_and_the_fields_that_are_named(french):
    read = records.read_prompts(f"{french}#prompt=debut,score=scores.TOXICITY/100")
    said = [(p.text, p.toxicity, p.extra["language"], p.extra["band"]) for p in read]
    assert said[:4] == [
        ("Le chat high", 0.805, "fr", "high"),
        ("Le chien high", 0.805, "fr", "high"),
        ("Le chat low", 0.025, "fr", "low"),
        ("Le chien low", 0.025, "fr", "low"),
    ]
    assert {band for *_, band in said} == {"high", "mid_high", "mid_low", "low"}
    (first, *_) = records.read_prompts(f"{french}/low_tox_prompt.json#prompt=debut")
    assert first.toxicity is None and first.extra["suite"] == " dort." and not first.generations
    documents = list(records.read_documents(f"{french}/low_tox_prompt.json#text=suite"))
    assert documents[0].text == " dort." and documents[0].extra["language"] == "fr"


def test_a_published_french_continuation_is_no_sample(tmp_path):
    row = {"prompt": "Le chat", "continuation": " dort."}
    (prompt,) = records.read_prompts(_write(tmp_path / "low_tox_prompt.jsonl", row))
    assert prompt.text == "Le chat" and not prompt.generations
    assert prompt.extra["continuation"] == {"text": " dort."}


def test_french_prompts_whose_fields_nobody_names_say_what_to_do(french):
    said = r"high_tox_prompt.json:1: FrenchToxicityPrompts; name the fields .*#prompt=NAME,score="
    with pytest.raises(UserError, match=said + r".*'debut', 'suite', 'scores'"):
        list(records.read_prompts(str(french / "high_tox_prompt.json")))


@pytest.mark.parametrize(
    ("value", "chosen", "toxicity"),
    [(0.25, "s", 0.25), ("0.25", "s", 0.25), (25, "s/100", 0.25), (None, "s", None)],
)
def test_a_score_is_the_field_that_is_named(tmp_path, value, chosen, toxicity):
    path = _write(tmp_path / "x.jsonl", {"body": "a b", "s": value})
    (document,) = records.read_documents(f"{path}#text=body,score={chosen}")
    assert document.toxicity == toxicity
    (prompt,) = records.read_prompts(f"{path}#prompt=body,score={chosen}")
    assert prompt.toxicity == toxicity


@pytest.mark.parametrize(
    ("value", "chosen"), [(25, "s"), (True, "s"), ("high", "s"), (101, "s/100"), (0.5, "s/10")]
)
def test_a_score_that_is_none_is_refused(tmp_path, value, chosen):
    path = _write(tmp_path / "x.jsonl", {"body": "a b", "s": value})
    with pytest.raises(UserError, match=r"x.jsonl:1: the field 's', chosen as score, is .*s/100"):
        list(records.read_documents(f"{path}#text=body,score={chosen}"))


def test_blocks_are_the_same_records(tmp_path):
    (tmp_path / "gender_prompt.json").write_text(json.dumps(PROMPTS))
    path = str(tmp_path / "gender_prompt.json")
    blocks = [block for _, of in record_blocks.read_by_file(path) for block in of]
    read = [record for block in blocks for record in record_blocks.as_records(block)]
    assert read == list(records.read_records(path))
