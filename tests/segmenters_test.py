"""Words in scripts without spaces, and whatever counts words with them."""

import importlib.util
import json

import numpy as np
import pytest

from detox_jax import cli, records, segmenters
from detox_jax.errors import UserError
from detox_jax.evaluation import diversity, text_quality
from detox_jax.generation import prompts
from detox_jax.toxicity import apart, corpus, distinct

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("icu4py") is None, reason="needs the extra words"
)
ZH = "我今天去了商店，买了很多东西。"
ICU = "--gin.WORD_SEGMENTER=@segmenters.Icu()"


def words(text):
    return segmenters.Icu().spaced(text).split()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ZH, "我 今天 去了 商店， 买 了 很多 东西。"),
        ("吾輩は猫である。", "吾輩 は 猫 で ある。"),
        ("コンピューターを使う", "コンピューター を 使う"),
        ("ผมชอบกินข้าวผัดกุ้งมากที่สุด", "ผม ชอบ กิน ข้าว ผัด กุ้ง มาก ที่สุด"),
        ("ພາສາລາວ", "ພາສາ ລາວ"),
        ("ខ្ញុំចង់ទៅផ្សារ", "ខ្ញុំ ចង់ទៅ ផ្សារ"),
        ("ကျွန်တော်ကျောင်းသွားမယ်", "ကျွန်တော် ကျောင်း သွား မယ်"),
        ("他说：「你好」", "他 说： 「你好」"),
        ("iPhone手机 and well-known", "iPhone 手机 and well-known"),
        ("3月", "3 月"),
        ("😀今天去了𠮷野家", "😀今天 去了 𠮷 野家"),
        ("商店 - 商店", "商店 - 商店"),
    ],
)
def test_words_are_those_of_icu_with_their_punctuation(text, told):
    assert segmenters.Icu().spaced(text) == told
    assert segmenters.Icu().spaced(told) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Don't stop: well-known e.g. 3.14!",
        "한국어는 띄어쓰기가 있다.",
        "Съешь ещё этих  мягких\nбулок",
        "བོད་སྐད་ནི་བོད་ཡུལ",
        "\ud800 \0",
    ],
)
def test_where_spaces_tell_words_nothing_changes(text):
    assert segmenters.Icu().spaced(text) == text


@pytest.mark.parametrize(
    "text", [ZH, "a\ud800我今天\udfff", "😀我今天😀商店", "\u3000我今天\n\n去了", "(今天)去了"]
)
def test_nothing_but_spaces_is_added(text):
    told = segmenters.Icu().spaced(text)
    assert told.replace(" ", "") == text.replace(" ", "") and len(told) > len(text)


def test_scripts_that_it_cannot_divide_are_still_said():
    icu = segmenters.Icu()
    assert diversity.is_unspaced(ZH) and not diversity.is_unspaced(ZH, icu)
    assert diversity.is_unspaced("བོད་སྐད", icu)


def test_figures_of_words_are_those_of_the_words():
    """Three Chinese texts beside what people would write of them with spaces."""
    texts = [ZH, "我今天去了商店。", "今天今天今天今天"]
    icu, figures = segmenters.Icu(), []
    for given, segmenter in ((texts, icu), ([icu.spaced(t) for t in texts], None), (texts, None)):
        reader = text_quality.TextReader(segmenter)
        reader.add([records.Generation(text) for text in given])
        figures.append(reader.finish())
    by_icu, by_hand, by_space = figures
    for name in (
        "distinct",
        "distinct_per_ngram",
        "self_bleu",
        "mean_words",
        "degenerate_fraction",
    ):
        assert getattr(by_icu, name) == getattr(by_hand, name) != getattr(by_space, name)
    assert by_icu.mean_words == pytest.approx((8 + 4 + 4) / 3) and by_space.mean_words == 1
    assert by_icu.degenerate_fraction == pytest.approx(1 / 3)
    assert by_icu.unspaced_fraction == 0 and by_space.unspaced_fraction == 1


def test_halves_shingles_and_lengths_go_by_them(tmp_path):
    icu = segmenters.Icu()
    assert prompts.first_half(ZH, icu) == "我今天去了商店，" and prompts.first_half(ZH) == ""
    assert corpus.num_words(records.Document("a", ZH), icu) == 8
    loop = records.Document("a", "我今天去了商店" * 4)
    kept = [
        distinct.Unrepetitive(word_segmenter=of).select([loop], np.random.default_rng(0))
        for of in (icu, None)
    ]
    assert kept == [[], [loop]]


@pytest.mark.skipif(importlib.util.find_spec("datasketch") is None, reason="extra duplicates")
def test_near_copies_are_found_by_them():
    texts = ["我今天去了商店买了很多东西然后回家吃饭", "我今天去了商店买了很多东西然后回家睡觉"]
    documents = [records.Document(str(i), text) for i, text in enumerate(texts)]
    for segmenter, left in ((segmenters.Icu(), 1), (None, 2)):
        selection = distinct.NearDistinct(0.6, word_segmenter=segmenter)
        assert len(selection.select(documents, np.random.default_rng(0))) == left


def test_a_document_with_a_prompts_words_is_told_letter_by_letter():
    """A prompt that ends within a word: the words of the document are others there."""
    document = records.Document("d", f"他说{ZH}然后回家")
    cut = records.Prompt("p", "我今天去了商店，买了很")
    short = records.Prompt("q", "我今天")
    by_icu = apart.Evaluated([cut, short], segmenters.Icu())
    assert by_icu.why(document) == "text" and by_icu.by_id_alone == 1
    assert by_icu.why(records.Document("e", "他今天去了商店")) is None
    assert apart.Evaluated([cut], None).why(document) is None
    english = records.Prompt("r", "the ferry was late again today")
    same = records.Document("f", "They said: The ferry, was late again today?")
    assert apart.Evaluated([english], segmenters.Icu()).why(same) == "text"


# --- verbs ------------------------------------------------------------------------------------


def _manifest(directory):
    return json.loads((directory / "manifest.json").read_text())


def test_evaluate_counts_by_it_and_says_so(tmp_path, capsys):
    rows = [
        {
            "id": str(i),
            "prompt": {"text": "我今天", "toxicity": 0.1},
            "generations": [{"text": text, "toxicity": 0.2} for text in (ZH, "去了商店")],
        }
        for i in range(4)
    ]
    path = tmp_path / "scored.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [f"--gin.METHODS={{'base': '{path}'}}", "--gin.BOOTSTRAP_DRAWS=10"]
    quality, notes = {}, {}
    for name, extra in (("icu", [ICU]), ("none", [])):
        out = tmp_path / name
        assert cli.main(["evaluate", f"--gin.OUTPUT_DIR={out}", *flags, *extra]) == 0
        results = json.loads((out / "results.json").read_text())
        quality[name] = results["rows"][0]
        notes[name] = " ".join(results["provenance"]["notes"])
        assert ("word_segmenter" in _manifest(out)["settings"]) == (name == "icu")
    assert quality["icu"]["mean_words"] == 5 and quality["none"]["mean_words"] == 1
    assert quality["none"]["unspaced_fraction"] == 1 and "unspaced_fraction" not in quality["icu"]
    assert "by Icu 7" in notes["icu"] and "do not read them" not in notes["icu"]
    assert "do not read them" in notes["none"] and "WORD_SEGMENTER=@" in notes["none"]
    again = ["evaluate", f"--gin.OUTPUT_DIR={tmp_path / 'none'}", *flags, ICU]
    assert cli.main(again) == 2
    assert "(word_segmenter: None there, {'method': 'Icu'" in capsys.readouterr().err


def test_filter_matches_lengths_by_it(tmp_path):
    texts = ["我今天去了商店", "今天", "我今天去了商店买了很多东西", "a b"]
    rows = [{"id": str(i), "text": text, "toxicity": 0.1} for i, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "of.jsonl").write_text(json.dumps({"id": "x", "text": "one two three four"}) + "\n")
    flags = [f"--gin.INPUT={tmp_path}/in.jsonl", f"--gin.LENGTHS_OF={tmp_path}/of.jsonl"]
    flags += ["--gin.KEEP_FRACTION=1.0"]
    for name, extra, kept in (("icu", [ICU], "0"), ("none", [], "3")):
        assert cli.main(["filter", f"--gin.OUTPUT_DIR={tmp_path / name}", *flags, *extra]) == 0
        (line,) = next((tmp_path / name).glob("*.jsonl")).read_text().splitlines()
        assert json.loads(line)["id"] == kept
        settings = _manifest(tmp_path / name)["settings"]
        assert ("word_segmenter" in settings) == (name == "icu")
    assert settings["selection"] == {"method": "LeastToxic", "fraction": 1.0}


def test_a_selection_without_it_stands_in_the_manifest_as_before(tmp_path):
    row = {"id": "0", "text": "a b", "toxicity": 0.1}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    flags = [f"--gin.INPUT={tmp_path}/in.jsonl", "--gin.SELECTION=@distinct.Unrepetitive()"]
    for name, extra, said in (
        ("none", [], {}),
        ("icu", [ICU], {"word_segmenter": segmenters.Icu().described()}),
    ):
        assert cli.main(["filter", f"--gin.OUTPUT_DIR={tmp_path / name}", *flags, *extra]) == 0
        selection = _manifest(tmp_path / name)["settings"]["selection"]
        assert selection == {"method": "Unrepetitive", "most": 0.3, "words": 3, **said}


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(segmenters.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs icu4py: pip install 'detox-jax\[words\]'"):
        segmenters.Icu()
