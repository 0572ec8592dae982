"""BPE vocabularies: shifted ids, round trips, files."""

import itertools
import json
import re

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from detox_jax import vocabulary as vocabulary_lib
from detox_jax.errors import UserError
from detox_jax.generation.generate import _encode
from detox_jax.generation.prompts import Request, Standard
from detox_jax.vocabulary import Vocabulary
from tests.conftest import SENTENCES
from tests.tokenizers_made import (
    byte_fallback_tokenizer,
    save_byte_level,
    save_llama,
    save_sentencepiece,
    sentencepiece_model,
    unigram_tokenizer,
    write,
)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_round_trip_of_any_text(vocabulary, text):
    ids = vocabulary.encode(text)
    assert all(0 < i < vocabulary.vocab_size for i in ids)
    if "<|endoftext|>" not in text:
        assert vocabulary.decode(ids) == text


def test_lone_surrogates_become_the_replacement_character(vocabulary):
    assert vocabulary.decode(vocabulary.encode("a\ud800b")) == "a\ufffdb"


def test_batch_equals_one_by_one(vocabulary):
    texts = ["The bus was late.", "", "Thanks \u2603 a\ud800b"]
    assert vocabulary.encode_batch(texts) == [vocabulary.encode(text) for text in texts]


def test_padding_and_end_of_text_have_no_text(vocabulary):
    ids = vocabulary.encode("Thanks!")
    assert vocabulary.decode([0, *ids, vocabulary.eos_id, 0]) == "Thanks!"
    assert vocabulary.encode("<|endoftext|>") == [vocabulary.eos_id]


def test_save_and_load(vocabulary, tmp_path):
    vocabulary.save(str(tmp_path))
    loaded = Vocabulary.load(str(tmp_path))
    assert loaded.fingerprint == vocabulary.fingerprint
    assert loaded.encode("The bus was late") == vocabulary.encode("The bus was late")


def test_gpt2_files_are_shifted_by_one(tmp_path):
    """Token 0 of a GPT-2 vocabulary is "!"; here it is id 1, and 0 is padding."""
    vocab = {"!": 0, "h": 1, "i": 2, "hi": 3, "<|endoftext|>": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("h i\n")
    loaded = Vocabulary.load(str(tmp_path))
    assert loaded.encode("hi!!") == [4, 1, 1]
    assert (loaded.vocab_size, loaded.eos_id) == (6, 5)
    assert loaded.decode([4, 1]) == "hi!"


# Which pieces there are, and which of them are cut apart before any merge.
PIECES = (
    ". \u010a .\u010a \u010a\u010a a b ( s e se see (see 1 2 12 \u00c3 \u00a9 \u00cc \u0123".split()
)
MERGES = ". \u010a\n\u010a \u010a\ns e\nse e\n( see\n1 2\n"
GPT2_CUTS = {
    ".\n": ". \u010a",
    "a\n\nb": "a \u010a \u010a b",
    "(see": "( see",
    "12": "12",
    "e\u0301": "e \u00cc \u0123",  # the bytes cc 81
}
NEOX_CUTS = {**GPT2_CUTS, "e\u0301": "\u00c3 \u00a9"}  # composed: the bytes c3 a9
QWEN_CUTS = {
    ".\n": ".\u010a",
    "a\n\nb": "a \u010a\u010a b",
    "(see": "(see",
    "12": "1 2",
    "e\u0301": "\u00c3 \u00a9",
}


def write_merges(path, **files):
    vocab = {piece: i for i, piece in enumerate([*PIECES, "<|endoftext|>"])}
    (path / "vocab.json").write_text(json.dumps(vocab))
    (path / "merges.txt").write_text(MERGES)
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("files", "cuts"),
    [
        ({"config": {"model_type": "opt"}}, GPT2_CUTS),
        ({"tokenizer_config": {"tokenizer_class": "GPT2TokenizerFast"}}, GPT2_CUTS),
        ({"tokenizer_config": {"tokenizer_class": "GPTNeoXTokenizerFast"}}, NEOX_CUTS),
        ({"tokenizer_config": {"tokenizer_class": "Qwen2Tokenizer"}}, QWEN_CUTS),
        ({"tokenizer_config": {"tokenizer_class": "Qwen2TokenizerFast"}}, QWEN_CUTS),
        ({"tokenizer_config": {}, "config": {"model_type": "qwen3"}}, QWEN_CUTS),
        (
            {
                "tokenizer_config": {"tokenizer_class": "GPT2Tokenizer"},
                "config": {"model_type": "qwen2"},
            },
            GPT2_CUTS,
        ),
    ],
)
def test_merges_are_read_as_their_class_reads_them(files, cuts, tmp_path):
    write_merges(tmp_path, **files)
    Vocabulary.load(str(tmp_path)).save(str(tmp_path / "copy"))
    for path in (tmp_path, tmp_path / "copy"):
        loaded = Vocabulary.load(str(path))
        for text, pieces in cuts.items():
            assert " ".join(str(loaded.id_to_token(i)) for i in loaded.encode(text)) == pieces


@pytest.mark.parametrize("name", ["BertTokenizer", "PreTrainedTokenizerFast", ["GPT2Tokenizer"]])
def test_merges_of_a_class_that_is_not_known_are_refused(name, tmp_path):
    write_merges(tmp_path, tokenizer_config={"tokenizer_class": name})
    with pytest.raises(UserError) as error:
        Vocabulary.load(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}/tokenizer_config.json: how ")
    assert "save_pretrained, which writes tokenizer.json" in str(error.value)
    assert 'an earlier version made name "GPT2Tokenizer"' in str(error.value)


@pytest.mark.real
def test_real_gpt2_files(data_dir):
    loaded = Vocabulary.load(str(data_dir / "tokenizers" / "gpt2"))
    assert loaded.encode("Hello world") == [15497, 996]
    assert loaded.encode("!!!") == [10186] and loaded.encode("!") == [1]
    assert loaded.vocab_size == 50258 and loaded.eos_id == 50257


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no vocabulary; expected tokenizer.json"),
        ({"tokenizer.json": "{"}, "not a readable vocabulary"),
        ({"vocab.json": "[]", "merges.txt": ""}, "not a readable vocabulary"),
        ({"vocab.json": '{"a": 0}', "merges.txt": ""}, "no <|endoftext|> token"),
    ],
)
def test_bad_files(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        Vocabulary.load(str(tmp_path))
    assert message in str(error.value)


def test_too_small_a_vocabulary():
    with pytest.raises(UserError, match="at least 258"):
        Vocabulary.train(["text"], 100)


# --- vocabularies of other libraries --------------------------------------------------------------

TEXTS = [
    "The bus was late again.",
    "  two  spaces ",
    "caf\u00e9 cafe\u0301 \U0001f469\u200d\U0001f467",
    "a\tb\x00\x7f\r\nc",
    "",
    "\ufffd \u200f",
]


def test_fingerprints_do_not_change(vocabulary):
    """Checkpoints that exist name their vocabulary by these."""
    assert vocabulary.fingerprint == "3f9a8d4408c2f2e2"
    assert vocabulary.bos_id == vocabulary.eos_id == 1


def test_fingerprint_of_gpt2_files_does_not_change(tmp_path):
    vocab = {"!": 0, "h": 1, "i": 2, "hi": 3, "<|endoftext|>": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("h i\n")
    assert Vocabulary.load(str(tmp_path)).fingerprint == "24178b1eefff040b"


@pytest.mark.parametrize("make", [byte_fallback_tokenizer, unigram_tokenizer])
def test_any_tokenizer_json(make, tmp_path):
    tokenizer = make()
    names = ("<s>", "</s>") if make is byte_fallback_tokenizer else ("<bos>", "<eos>")
    config = {"bos_token": names[0], "eos_token": {"content": names[1], "lstrip": False}}
    write(tmp_path, tokenizer, tokenizer_config=config)
    loaded = Vocabulary.load(str(tmp_path))
    assert (loaded.bos_id, loaded.eos_id) == (2, 3)
    for text in TEXTS:
        theirs = tokenizer.encode(text, add_special_tokens=False).ids
        assert loaded.encode(text) == [i + 1 for i in theirs]
        assert loaded.decode([2, *loaded.encode(text), 3, 0]) == tokenizer.decode(theirs)
    assert loaded.decode(loaded.encode("late\ud800")) == loaded.decode(loaded.encode("late\ufffd"))
    assert loaded.encode(names[1]) == [3]


def test_what_a_tokenizer_was_saved_with_cuts_and_pads_no_text(tmp_path):
    """transformers leaves the truncation and padding of its last call in tokenizer.json."""
    tokenizer = byte_fallback_tokenizer()
    encodings = tokenizer.encode_batch(SENTENCES, add_special_tokens=False)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding()
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    write(tmp_path, tokenizer, tokenizer_config=config)
    ids = Vocabulary.load(str(tmp_path)).encode_batch(SENTENCES)
    assert ids == [[i + 1 for i in encoding.ids] for encoding in encodings]


def test_a_sentencepiece_model(tmp_path):
    reference = sentencepiece_model(tmp_path)
    loaded = Vocabulary.load(str(tmp_path))
    assert (loaded.bos_id, loaded.eos_id, loaded.vocab_size) == (2, 3, 341)
    for text in [*TEXTS, *SENTENCES]:
        assert loaded.encode(text) == [i + 1 for i in reference.EncodeAsIds(text)]
        assert loaded.decode(loaded.encode(text)) == reference.DecodeIds(
            reference.EncodeAsIds(text)
        )
    assert loaded.encode_batch(TEXTS) == [loaded.encode(text) for text in TEXTS]
    assert loaded.encode("late</s>late") == [*loaded.encode("late"), 3, *loaded.encode("late")]
    assert loaded.decode([2, *loaded.encode("late"), 3]) == "late"
    assert loaded.id_to_token(2) == "<s>"


@pytest.mark.parametrize("save", [save_byte_level, save_sentencepiece, save_llama])
def test_a_continuation_keeps_the_space_before_it(save, tmp_path):
    """Prompt and continuation are the text that was cut, wherever it was cut between tokens."""
    save(tmp_path)
    loaded = Vocabulary.load(str(tmp_path))
    for text in SENTENCES:
        ids = loaded.encode(text)
        for cut in range(len(ids) + 1):
            before = [loaded.bos_id, *ids[:cut]]
            assert loaded.decode(before) + loaded.decode_continuation(before, ids[cut:]) == text
    spaced = loaded.decode_continuation(loaded.encode("The bus"), loaded.encode("The bus was")[-1:])
    assert spaced.endswith("s") and loaded.decode_continuation([loaded.bos_id], []) == ""


@pytest.mark.parametrize("save", [save_byte_level, save_sentencepiece, save_llama])
@pytest.mark.parametrize(
    "text", [" was late.", "es, and late", ", and so on", "  two", "\nnew line"]
)
def test_a_continuation_is_encoded_as_it_stands_behind_its_prompt(save, text, tmp_path):
    save(tmp_path)
    loaded = Vocabulary.load(str(tmp_path))
    prompt = "The bus"
    (ids,) = loaded.encode_continuations([prompt], [text])
    together = loaded.decode([*loaded.encode(prompt), *ids])
    if save is save_sentencepiece and text in ("  two", "\nnew line"):
        assert together.split() == (prompt + text).split()  # its own rule: one space for any
    else:
        assert together == prompt + text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"special_tokens_map": {"bos_token": "<s>", "eos_token": "</s>"}}, (2, 3)),
        ({"generation_config": {"bos_token_id": 1, "eos_token_id": [2, 0]}}, (2, 3)),
        ({"config": {"eos_token_id": 2}}, (3, 3)),
        (
            {
                "tokenizer_config": {"eos_token": "</s>", "bos_token": None},
                "config": {"bos_token_id": 1, "eos_token_id": 0},
            },
            (2, 3),
        ),
    ],
)
def test_start_and_end_come_from_the_files(files, expected, tmp_path):
    write(tmp_path, byte_fallback_tokenizer(), **files)
    loaded = Vocabulary.load(str(tmp_path))
    assert (loaded.bos_id, loaded.eos_id) == expected
    loaded.save(str(tmp_path / "copy"))
    copy = Vocabulary.load(str(tmp_path / "copy"))
    assert (copy.bos_id, copy.eos_id, copy.fingerprint) == (*expected, loaded.fingerprint)


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({}, (3,)),
        ({"generation_config": {"eos_token_id": [2, 5, 2]}}, (3, 6)),
        ({"generation_config": {"eos_token_id": 5}, "config": {"eos_token_id": 7}}, (3, 6)),
        ({"generation_config": {"temperature": 0.6}, "config": {"eos_token_id": [2, 7]}}, (3,)),
        ({"config": {"eos_token_id": [2, 7]}}, (3, 8)),
        ({"config": {"eos_token_id": -1}}, (3,)),
    ],
)
def test_a_text_ends_at_any_token_that_the_model_lists(files, ends, tmp_path):
    settings = {"eos_token": "</s>"}
    write(tmp_path, byte_fallback_tokenizer(), tokenizer_config=settings, **files)
    loaded = Vocabulary.load(str(tmp_path))
    assert loaded.end_ids == ends and loaded.eos_id == 3
    loaded.save(str(tmp_path / "copy"))
    assert Vocabulary.load(str(tmp_path / "copy")).end_ids == ends
    kept = (tmp_path / "copy" / "generation_config.json").exists()
    assert kept == ("generation_config" in files)


def test_an_end_that_is_no_token_is_refused(tmp_path):
    settings = {"eos_token": "</s>"}
    listed = {"eos_token_id": [2, "</s>"]}
    write(tmp_path, byte_fallback_tokenizer(), tokenizer_config=settings, generation_config=listed)
    with pytest.raises(UserError, match="generation_config.json: its eos_token_id '</s>' is no id"):
        Vocabulary.load(str(tmp_path))


def test_fingerprint_tells_start_tokens_apart(tmp_path):
    prints = set()
    for i, bos in enumerate(("<s>", "</s>")):
        (tmp_path / str(i)).mkdir()
        config = {"bos_token": bos, "eos_token": "</s>"}
        write(tmp_path / str(i), byte_fallback_tokenizer(), tokenizer_config=config)
        prints.add(Vocabulary.load(str(tmp_path / str(i))).fingerprint)
    assert len(prints) == 2


def test_chat_template_and_special_tokens_survive_byte_for_byte(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    tokenizer = byte_fallback_tokenizer()
    size = tokenizer.get_vocab_size()
    added = {str(size): {"content": "<|im_start|>", "special": True, "normalized": False}}
    config = {"eos_token": "</s>", "chat_template": "{{ x }}", "added_tokens_decoder": added}
    write(source, tokenizer, tokenizer_config=config)
    (source / "chat_template.jinja").write_bytes(b"{% for m in messages %}\r\n{% endfor %}")
    (source / "README.md").write_text("not the tokenizer's")
    loaded = Vocabulary.load(str(source))
    assert loaded.encode("<|im_start|>") == [size + 1] and loaded.vocab_size == size + 2
    loaded.save(str(tmp_path / "copy"))
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {path.name for path in (tmp_path / "copy").iterdir()} == names
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes()


def test_of_another_vocabulary_nothing_stays_that_would_be_read(vocabulary, tmp_path):
    files = {
        "chat_template.jinja": "{{ x }}",
        "special_tokens_map.json": '{"eos_token": "<|im_end|>"}',
        "generation_config.json": '{"eos_token_id": [0, 1]}',
        "vocab.json": "{}",
        "notes.txt": "somebody's",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    vocabulary.save(str(tmp_path), alone=True)
    assert {file.name for file in tmp_path.iterdir()} == {"tokenizer.json", "notes.txt"}
    assert Vocabulary.load(str(tmp_path)).end_ids == vocabulary.end_ids
    (tmp_path / "config.json").write_text("{}")  # At its own place all that lies there is its own.
    Vocabulary.load(str(tmp_path)).save(f"{tmp_path}/", alone=True)
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": {"eos_token": "<end>"}}, "eos_token '<end>' is not in the vocab"),
        ({"config": {"eos_token_id": 99999}}, "eos_token_id 99999 is not among"),
        ({}, "no file names another end of a document"),
        ({"config": []}, "config.json: expected a JSON object, got list"),
        ({"added_tokens": {"<s>": 7}, "config": {"eos_token_id": 2}}, "settings say 7"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": 1}}}, "added tokens that cannot be"),
    ],
)
def test_contradicting_files(files, message, tmp_path):
    write(tmp_path, byte_fallback_tokenizer(), **files)
    with pytest.raises(UserError) as error:
        Vocabulary.load(str(tmp_path))
    assert message in str(error.value)


def test_what_the_settings_say_of_an_added_token_stands_over_tokenizer_json(tmp_path):
    tokenizer = byte_fallback_tokenizer()
    size = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["<|mark|>"])  # Not special; and normalized, to have a space before it.
    mark = size + 1
    flags = {"content": "<|mark|>", "special": True, "normalized": False}
    for added, text in ((None, "<|mark|>"), ({str(size): flags}, "")):
        config = {"eos_token": "</s>"} if added is None else {"added_tokens_decoder": added}
        write(tmp_path, tokenizer, tokenizer_config={"eos_token": "</s>", **config})
        loaded = Vocabulary.load(str(tmp_path))
        assert loaded.decode([mark]) == text
        found = [mark in loaded.encode(late) for late in ("late <|mark|>", "late<|mark|>")]
        assert found == [True, added is not None]
    # `added_tokens.json` knows no flags, and changes none.
    write(
        tmp_path, tokenizer, tokenizer_config={"eos_token": "</s>"}, added_tokens={"<|mark|>": size}
    )
    assert Vocabulary.load(str(tmp_path)).decode([mark]) == "<|mark|>"


def test_an_added_token_that_is_named_as_special_is_special(tmp_path):
    size = len(PIECES) + 1
    added = {"<|pad|>": size, "<|word|>": size + 1}
    write_merges(tmp_path, added_tokens=added, special_tokens_map={"pad_token": "<|pad|>"})
    loaded = Vocabulary.load(str(tmp_path))
    assert loaded.encode("a<|pad|>b<|word|>") == [5, size + 1, 6, size + 2]
    assert loaded.decode([5, size + 1, 6, size + 2]) == "ab<|word|>"


def test_tokens_added_to_a_sentencepiece_model_are_refused(tmp_path):
    sentencepiece_model(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 340}')
    with pytest.raises(UserError, match="was added to the SentencePiece model"):
        Vocabulary.load(str(tmp_path))


def test_a_broken_sentencepiece_model(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a readable vocabulary"):
        Vocabulary.load(str(tmp_path))


def test_documents_start_with_the_start_token(tmp_path):
    from tasks.vocabularies import SeqioBPEVocabulary  # Imports TensorFlow.

    write(tmp_path, byte_fallback_tokenizer(), config={"bos_token_id": 1, "eos_token_id": 2})
    loaded = Vocabulary.load(str(tmp_path))
    requests = [Request("0", "late"), Request("1", "")]
    assert _encode(requests, loaded, True, Standard(2), None) == [[2, *loaded.encode("late")], [2]]
    assert SeqioBPEVocabulary(str(tmp_path)).bos_id == 2
    assert SeqioBPEVocabulary(str(tmp_path)).eos_id == 3


@pytest.mark.real
def test_stories260k_encodes_like_sentencepiece(data_dir):
    path = data_dir / "models" / "stories260k"
    loaded = Vocabulary.load(str(path))
    reference = sentencepiece.SentencePieceProcessor(str(path / "tokenizer.model"))
    assert (loaded.bos_id, loaded.eos_id, loaded.vocab_size) == (2, 3, 513)
    text = (path / "tinystories_sample.txt").read_text()
    assert loaded.encode(text) == [i + 1 for i in reference.EncodeAsIds(text)]
    assert loaded.decode(loaded.encode(text)) == reference.DecodeIds(reference.EncodeAsIds(text))


def real_lines(data_dir):
    rows = (data_dir / "comments" / "goemotions_train.tsv").read_text().split("\n")
    lines = [row.split("\t")[0] for row in rows[:6000]]
    lines += (data_dir / "text" / "wikitext2_valid.txt").read_text().split("\n")[:2000]
    with (data_dir / "rtp" / "prompts_dev.jsonl").open() as prompts:
        lines += [json.loads(line)["prompt"]["text"] for line in itertools.islice(prompts, 2000)]
    return [*lines, *TEXTS, "\u2028\ufeff\ufb01", "</s> <s> x", "<|endoftext|>a", "a\udc80b"]


@pytest.mark.real
@pytest.mark.interop
@pytest.mark.parametrize("source", ["tokenizers/gpt2", "models/stories260k"])
def test_ten_thousand_real_lines_equal_transformers(source, data_dir):
    transformers = pytest.importorskip("transformers")
    path = str(data_dir / source)
    loaded = Vocabulary.load(path)
    cls = transformers.GPT2Tokenizer if "gpt2" in source else transformers.AutoTokenizer
    theirs = cls.from_pretrained(path)
    lines = real_lines(data_dir)
    assert len(lines) >= 10_000
    for line, ids in zip(lines, loaded.encode_batch(lines), strict=True):
        clean = line.replace("\udc80", "\ufffd")
        expected = theirs.encode(clean, add_special_tokens=False)
        assert ids == [i + 1 for i in expected], line
        text = theirs.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert loaded.decode(ids) == text


def test_a_word_without_end_is_trained_on_in_parts():
    """Its pairs are counted again after every merge: the time would grow with its square."""
    base64, spaces = "Ab3/" * 1500, " " * 4100
    text = f"a word {base64} and{spaces}then"
    parts = list(vocabulary_lib._bounded(text))
    assert "".join(parts) == text
    assert max(len(run) for part in parts for run in re.findall(r"\S+|\s+", part)) == 1000
    trained = Vocabulary.train([text], 300)
    assert trained.decode(trained.encode(text)) == text


@pytest.mark.parametrize("text", ["", "x", *SENTENCES, "y" * 1000 + " " + "z" * 1000])
def test_a_text_of_ordinary_words_is_trained_on_as_it_is(text):
    assert list(vocabulary_lib._bounded(text)) == [text]
