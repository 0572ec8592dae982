"""Tokenizers built from vocabulary files: ids by hand, ids of transformers, and what is refused."""

import json

import pytest
from etils import epath

from detox_jax.classifiers.classifier_text import ClassifierTokenizer
from detox_jax.errors import UserError
from tests.classifiers import encoder_tokenizers_made as made

MAX_LENGTH = 24
TEXTS = [
    "You are an idiot.",
    "",
    " ",
    "I",
    "the bus the lamp " * 80,  # Cut.
    "x" * 300,  # One word, too long for WordPiece.
    "Thanks\n\n  for\tthe   recipe \u00e9\u00c9 cafe\u0301 \u4f60\u597d\u5417\uff1f \U0001f642!",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "control \x00\x01\x07 \x7f\u0085 \u200b\u200e\ufeff\ufffd end",
    "special [SEP] tokens </s> in <pad> a [PAD] <mask>text [MASK] [CLS]",
    "  \u00a0leading and trailing\u3000 \r\n",
    "\u0130stanbul STRASSE \u00df \ufb01ne \uff21\uff22\uff23 \u00bd \u2460",
    "\ud55c\uad6d\uc5b4 \u0939\u093f\u0928\u094d\u0926\u0940 \u0639\u0631\u0628\u064a \u05e2\u05d1",
    "under_score don't e-mail@example.com http://a.b/c?d=1 #tag $5.00 ...!!!",
    "\u2581already \u2581 spaced ##ing \u0120word",
]


def _tokenizer(directory, max_length=None):
    return ClassifierTokenizer(epath.Path(directory), 10_000, MAX_LENGTH, max_length)


def _write(directory, name, value):
    (directory / name).write_text(json.dumps(value))


CASES = {
    "bert": ("bert", {}),
    "bert-cased": ("bert", {"do_lower_case": False}),
    "bert-accents": ("bert", {"strip_accents": False, "tokenize_chinese_chars": False}),
    "roberta": ("roberta", {}),
    "roberta-prefix": ("roberta", {"add_prefix_space": True}),
    "xlm-roberta": ("xlm-roberta", {}),
    "deberta-v2": ("deberta-v2", {}),
    "deberta-v2-lower": ("deberta-v2", {"do_lower_case": True, "split_by_punct": True}),
}


@pytest.mark.interop
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("case", CASES)
def test_ids_are_those_of_transformers(case, side, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    family, config = CASES[case]
    made.MAKERS[family](tmp_path)
    _write(tmp_path, "config.json", {"model_type": family})
    settings = {"model_max_length": MAX_LENGTH, "truncation_side": side, **config}
    _write(tmp_path, "tokenizer_config.json", settings)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = _tokenizer(tmp_path).encode(TEXTS)
    for text, ids in zip(TEXTS, ours, strict=True):
        assert ids == theirs(text, truncation=True)["input_ids"], repr(text)
    assert max(map(len, ours)) == MAX_LENGTH


@pytest.mark.interop
def test_special_tokens_of_both_files_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    made.byte_pairs(tmp_path)
    _write(tmp_path, "config.json", {"model_type": "roberta"})
    mask = {"content": "<mask>", "lstrip": True, "normalized": False}
    _write(tmp_path, "special_tokens_map.json", {"mask_token": mask, "cls_token": "<s>"})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "a  <mask> b</s>"
    assert _tokenizer(tmp_path).encode([text])[0] == theirs(text)["input_ids"]


def test_word_pieces_by_hand(tmp_path):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] id ##iot caf ##e \u4f60 . Caf ##\u00e9".split()
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    encode = _tokenizer(tmp_path).encode
    assert encode(["Idiot. caf\u00e9\u4f60 what"]) == [[2, 5, 6, 10, 7, 8, 9, 1, 3]]
    assert encode(["[MASK]", ""]) == [[2, 4, 3], [2, 3]]
    _write(tmp_path, "tokenizer_config.json", {"do_lower_case": False})
    assert _tokenizer(tmp_path).encode(["Caf\u00e9 idiot"]) == [[2, 11, 12, 5, 6, 3]]


def test_fairseq_counts_from_its_own_tokens(tmp_path):
    import sentencepiece

    made.xlm_pieces(tmp_path)
    pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / "sentencepiece.bpe.model"))
    text = "the bus was late"
    inner = [i + 1 for i in pieces.encode(text)]  # type: ignore
    assert _tokenizer(tmp_path).encode([text]) == [[0, *inner, 2]]
    assert min(inner) > 3


def test_cut_keeps_the_tokens_around(tmp_path):
    made.byte_pairs(tmp_path)
    (ids,) = _tokenizer(tmp_path, 5).encode(["the bus was late again"])
    assert len(ids) == 5 and (ids[0], ids[-1]) == (0, 2)


def test_the_settings_are_part_of_the_tokenizer(tmp_path):
    made.word_pieces(tmp_path)
    assert [file.name for file in _tokenizer(tmp_path).files] == ["vocab.txt"]
    _write(tmp_path, "tokenizer_config.json", {"do_lower_case": False})
    names = [file.name for file in _tokenizer(tmp_path).files]
    assert names == ["vocab.txt", "tokenizer_config.json"]


def test_classes_that_are_known_may_be_named(tmp_path):
    made.word_pieces(tmp_path)
    before = _tokenizer(tmp_path).encode(TEXTS)
    _write(tmp_path, "config.json", {"tokenizer_class": "BertJapaneseTokenizer"})
    # As in transformers, the tokenizer's own file goes before the model's.
    _write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast"})
    assert _tokenizer(tmp_path).encode(TEXTS) == before


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
@pytest.mark.parametrize("named", ["config.json", "tokenizer_config.json"])
def test_a_case_that_the_class_does_not_read_is_passed_over(family, named, tmp_path):
    made.MAKERS[family](tmp_path)
    before = _tokenizer(tmp_path).encode(TEXTS)
    config = {"do_lower_case": True}
    if named == "config.json":
        _write(tmp_path, "config.json", {"model_type": family})
    else:
        classes = {"roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizerFast"}
        config["tokenizer_class"] = classes[family]
    _write(tmp_path, "tokenizer_config.json", config)
    assert _tokenizer(tmp_path).encode(TEXTS) == before
    _tokenizer(tmp_path)._tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert _tokenizer(tmp_path).encode(TEXTS) == before


def test_a_case_that_the_class_reads_must_be_that_of_tokenizer_json(tmp_path):
    made.deberta_pieces(tmp_path)
    _tokenizer(tmp_path)._tokenizer.save(str(tmp_path / "tokenizer.json"))
    _write(tmp_path, "config.json", {"model_type": "deberta-v2"})
    _write(tmp_path, "tokenizer_config.json", {"do_lower_case": True})
    with pytest.raises(UserError, match="do_lower_case is True, but tokenizer.json has False"):
        _tokenizer(tmp_path)


def test_tokenizer_json_goes_first(tmp_path):
    made.word_pieces(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a readable tokenizer"):
        _tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer: neither tokenizer.json nor vocab.txt"),
        ({"vocab.json": "{}"}, "has no tokenizer"),
        ({"vocab.txt": "a\nb\n"}, r"its cls_token '\[CLS\]' is not in the vocabulary"),
        ({"vocab.txt": b"\xff\xfe"}, r"vocab.txt: not a readable vocabulary"),
        ({"vocab.json": "{", "merges.txt": ""}, r"vocab.json: not a readable vocabulary"),
        ({"spm.model": b"junk"}, r"spm.model: not a readable vocabulary"),
        ({"sentencepiece.bpe.model": b""}, "not a readable vocabulary: it holds no pieces"),
        (
            {"vocab.txt": "[UNK]\n[CLS]\n[SEP]\n", "tokenizer_config.json": "[]"},
            "tokenizer_config.json: expected a JSON object",
        ),
        (
            {
                "vocab.txt": "[UNK]\n[CLS]\n[SEP]\n",
                "tokenizer_config.json": '{"do_lower_case": "x"}',
            },
            "do_lower_case is 'x'; true or false",
        ),
        (
            {
                "vocab.txt": "[UNK]\n[CLS]\n[SEP]\n",
                "special_tokens_map.json": '{"sep_token": {"size": 1}}',
            },
            "special_tokens_map.json: sep_token cannot be read",
        ),
        (
            {"vocab.txt": "[UNK]\n[CLS]\n[SEP]\n", "added_tokens.json": '{"[X]": 9}'},
            r"'\[X\]' is id 3 in the vocabulary, but its settings say 9",
        ),
        (
            {
                "vocab.txt": "[UNK]\n[CLS]\n[SEP]\n",
                "config.json": '{"tokenizer_class": "BertJapaneseTokenizer"}',
            },
            "/config.json: how 'BertJapaneseTokenizer', its tokenizer_class, reads vocab.txt is",
        ),
        (
            {
                "vocab.json": "{}",
                "merges.txt": "",
                "tokenizer_config.json": '{"tokenizer_class": "HerbertTokenizerFast"}',
                "config.json": '{"tokenizer_class": "RobertaTokenizer"}',
            },
            "/tokenizer_config.json: how 'HerbertTokenizer', .* reads vocab.json and merges.txt is",
        ),
    ],
)
def test_spoilt_files(files, message, tmp_path):
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        _tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
