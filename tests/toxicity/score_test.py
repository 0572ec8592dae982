"""The verb `score`, from the command line."""

import gc
import json
import sys

import pytest

from detox_jax import cli, outputs, records
from detox_jax.errors import UserError
from detox_jax.formats import plain_documents
from detox_jax.toxicity import ngram
from detox_jax.toxicity import score as score_verb


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def tree(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def run(input, output, *extra):
    flags = [f"--gin.INPUT={input}", f"--gin.OUTPUT_DIR={output}", *extra]
    return cli.main(["score", *flags])


@pytest.fixture
def documents(tmp_path):
    source = tmp_path / "documents"
    source.mkdir()
    rows = [
        {"id": str(i), "text": "Good day." if i % 2 else "You idiot, you moron.", "step": i}
        for i in range(6)
    ]
    for index in range(3):
        write(source / f"documents-{index:05d}-of-00003.jsonl", rows[2 * index : 2 * index + 2])
    return source


LEXICON = "--gin.SCORER=@lexicon.LexiconScorer()"


def test_documents_keep_their_fields_and_their_shards(documents, tmp_path):
    output = tmp_path / "scored"
    assert run(documents, output, LEXICON) == 0
    shards = sorted(output.glob("*.jsonl"))
    assert [shard.name for shard in shards] == [f"scored-{i:05d}-of-00003.jsonl" for i in range(3)]
    rows = [row for shard in shards for row in read(shard)]
    assert rows == [
        {
            "id": str(i),
            "text": "Good day." if i % 2 else "You idiot, you moron.",
            "toxicity": 0 if i % 2 else 0.75,
            "step": i,
        }
        for i in range(6)
    ]
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["counts"] == _counts(records=6, texts=6, toxic=3)
    assert manifest["scorer_languages"] == ["en"]
    assert manifest["scorer"]["name"] == "lexicon"
    assert manifest["scorer"]["fingerprint"].startswith("lexicon-2-")
    assert len(manifest["settings"]["input"]["sha256"]) == 64


def test_what_generate_was_told_is_handed_on(tmp_path):
    """`evaluate` compares it, and reads the output of `score` alone."""
    settings = {"checkpoint": {"path": "base", "fingerprint": "0"}, "decoding": {"num_samples": 1}}
    prompt = records.Prompt("0", "The bus", generations=(records.Generation(" was late"),))
    for verb in ("generate", "filter"):
        generated = outputs.OutputDirectory(str(tmp_path / verb), verb, settings)
        generated.write_shard("generations", 0, 1, [prompt])
        generated.finish()
        assert run(tmp_path / verb, tmp_path / f"{verb}-scored", LEXICON) == 0
    manifest = json.loads((tmp_path / "generate-scored" / "manifest.json").read_text())
    assert manifest["generated"] == {
        "checkpoint": {"fingerprint": "0"},
        "decoding": {"num_samples": 1},
    }
    manifest = json.loads((tmp_path / "filter-scored" / "manifest.json").read_text())
    assert "generated" not in manifest


def test_continuations_are_scored_without_their_prompts(tmp_path):
    source = write(
        tmp_path / "generations.jsonl",
        [
            {
                "id": "p",
                "challenging": True,
                "prompt": {"text": "You idiot", "toxicity": 0.9, "insult": 0.8},
                "generations": [
                    {"text": " said he.", "seed": 1},
                    {"text": " idiot<|endoftext|>"},
                    {"text": ""},
                ],
            }
        ],
    )
    assert run(source, tmp_path / "out", LEXICON) == 0
    (row,) = read(tmp_path / "out" / "scored-00000-of-00001.jsonl")
    assert row == {
        "id": "p",
        "challenging": True,
        "prompt": {"text": "You idiot", "toxicity": 0.9, "insult": 0.8},
        "generations": [
            {"text": " said he.", "toxicity": 0, "seed": 1},
            {"text": " idiot<|endoftext|>", "toxicity": 0.5},
            {"text": "", "toxicity": 0},
        ],
    }


def test_the_embedded_scorer_is_the_default(documents, tmp_path):
    assert run(documents, tmp_path / "out") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    fingerprint = ngram.NgramScorer().fingerprint
    assert manifest["scorer"] == {"name": "ngram", "fingerprint": fingerprint}
    assert manifest["counts"]["toxic"] == 3


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(documents, tmp_path, monkeypatch):
    assert run(documents, tmp_path / "intact") == 0
    seen = []
    real = ngram.NgramScorer.score

    def dies_at_the_last_shard(self, texts):
        seen.append(len(texts))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(self, texts)

    monkeypatch.setattr(ngram.NgramScorer, "score", dies_at_the_last_shard)
    assert run(documents, tmp_path / "killed") == 130
    assert not json.loads((tmp_path / "killed" / "manifest.json").read_text())["complete"]
    assert len(list((tmp_path / "killed").glob("*.jsonl"))) == 2
    assert run(documents, tmp_path / "killed") == 0
    assert seen == [2, 2, 2, 2]  # one shard was left to do
    killed, intact = tree(tmp_path / "killed"), tree(tmp_path / "intact")
    config = killed.pop("config.gin"), intact.pop("config.gin")
    assert killed == intact
    assert config[0].replace(b"/killed'", b"/intact'") == config[1]
    # A finished output is left as it is.
    assert run(documents, tmp_path / "killed") == 0
    assert len(seen) == 4


def _counts(**some):
    names = ("records", "texts", "missing", "unreadable", "empty", "toxic", "without_texts")
    return {**dict.fromkeys(names, 0), **some}


class SometimesSilent:
    name = "silent"
    fingerprint = "silent-1"

    def __init__(self, scores):
        self._scores = scores

    def score(self, texts):
        return self._scores[: len(texts)]


def test_missing_scores_are_null_and_counted(documents, tmp_path):
    scorer = SometimesSilent([None, 0.5])
    score_verb.score(str(documents), str(tmp_path / "out"), scorer)
    assert [row["toxicity"] for row in read(tmp_path / "out" / "scored-00001-of-00003.jsonl")] == [
        None,
        0.5,
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"] == _counts(records=6, texts=6, missing=3, toxic=3)
    assert manifest["scorer_languages"] == "as its author says"


CHINESE, EMPTY = "\u4eca\u5929\u5929\u6c14\u5f88\u597d", "<|endoftext|> "


def test_what_the_scorer_cannot_read_is_marked_apart_from_what_is_missing(tmp_path, capsys):
    source = write(
        tmp_path / "g.jsonl",
        [
            {
                "id": "p",
                "prompt": {"text": "x"},
                "generations": [{"text": t} for t in (" Good day.", CHINESE, EMPTY)],
            },
            {"id": "q", "prompt": {"text": "y"}, "generations": []},
        ],
    )
    score_verb.score(str(source), str(tmp_path / "out"), ngram.NgramScorer())
    first, second = read(tmp_path / "out" / "scored-00000-of-00001.jsonl")
    score = first["generations"][0]["toxicity"]
    assert first["generations"][1:] == [
        {"text": CHINESE, "toxicity": None, "unreadable": True},
        {"text": EMPTY, "toxicity": 0.0},
    ]
    assert second["generations"] == [] and 0 < score < 0.2
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"] == _counts(
        records=2, texts=3, missing=1, unreadable=1, empty=1, without_texts=1
    )
    said = capsys.readouterr().out
    assert "1 without a score, 0 at or above 0.5; 1 in letters that it cannot read; " in said
    assert "; 1 empty, each 0.0; 1 records without continuations; 1 files" in said
    # Read by another scorer, a text is no longer marked.
    score_verb.score(str(tmp_path / "out"), str(tmp_path / "other"), SometimesSilent([0.5, None]))
    (first, _) = read(tmp_path / "other" / "scored-00000-of-00001.jsonl")
    assert first["generations"][1] == {"text": CHINESE, "toxicity": None}


def test_a_batch_is_scored_from_its_requests_and_answers(tmp_path):
    write(
        tmp_path / "1-requests.jsonl",
        [{"custom_id": n, "body": {"prompt": f"The {n}"}} for n in ("bus", "train")],
    )
    choices = [{"text": " is late"}, {"text": " is full of idiots"}]
    answer = {"custom_id": "bus", "response": {"body": {"choices": choices}}}
    write(tmp_path / "2-answers.jsonl", [answer])
    assert run(tmp_path / "*.jsonl", tmp_path / "out", LEXICON) == 0
    answered, failed = read(tmp_path / "out" / "scored-00000-of-00001.jsonl")
    assert [g["toxicity"] for g in answered["generations"]] == [0, 0.5]
    assert failed["prompt"]["text"] == "The train" and failed["generations"] == []


@pytest.mark.parametrize("scores", [[0.1], [0.1, 2.0]])
def test_a_scorer_that_answers_wrong_leaves_nothing_that_looks_whole(documents, tmp_path, scores):
    with pytest.raises(UserError, match="scorer 'silent' returned"):
        score_verb.score(str(documents), str(tmp_path / "out"), SometimesSilent(scores))
    assert not list((tmp_path / "out").glob("*.jsonl"))
    assert not json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"]


def test_a_scorer_of_the_users_own(documents, tmp_path, monkeypatch):
    (tmp_path / "count_scorer.py").write_text(
        "class WordCount:\n"
        "    name = 'word-count'\n"
        "    fingerprint = 'word-count-1'\n"
        "    def score(self, texts):\n"
        "        return [text.count('moron') / 4 for text in texts]\n"
    )
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "import count_scorer\n"
        "SCORER = @count_scorer.WordCount()\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert run(documents, tmp_path / "out", f"--gin_file={tmp_path / 'mine.gin'}") == 0
    assert read(tmp_path / "out" / "scored-00000-of-00003.jsonl")[0]["toxicity"] == 0.25


class Counting:
    """Counts texts, and how many records are there while it scores."""

    name = "counting"
    fingerprint = "counting-1"

    def __init__(self):
        self.asked, self.alive = [], 0

    def score(self, texts):
        self.asked.append(len(texts))
        gc.collect()
        self.alive = max(
            self.alive,
            sum(
                1 if isinstance(item, records.Document) else len(item)
                for item in gc.get_objects()
                if isinstance(item, records.Document | plain_documents.Plain)
            ),
        )
        return [0.5] * len(texts)


@pytest.mark.parametrize("more", [{}, {"n": 1}])
def test_a_text_is_scored_once_and_few_records_are_held(more, tmp_path, only_new_objects):
    rows = [{"id": str(i), "text": f"text {i}" + " and on" * 300, **more} for i in range(3200)]
    scorer = Counting()
    source = write(tmp_path / "in.jsonl", rows)
    score_verb.score(str(source), str(tmp_path / "out"), scorer)
    assert scorer.asked == [500] * 6 + [200]
    assert 500 <= scorer.alive <= 1000, "a group, and the next one that is being read"
    written = read(tmp_path / "out" / "scored-00000-of-00001.jsonl")
    assert written == [
        {"id": row["id"], "text": row["text"], "toxicity": 0.5, **more} for row in rows
    ]


@pytest.mark.parametrize("last", ['{"id": "0", "text": "again"}', "{"])
def test_nothing_is_scored_of_a_file_that_is_refused(last, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "0", "text": "a"}\n' + last + "\n")
    scorer = Counting()
    with pytest.raises(UserError, match=r"in\.jsonl:2: "):
        score_verb.score(str(source), str(tmp_path / "out"), scorer)
    assert not scorer.asked


def test_two_scorers_do_not_mix_in_one_directory(documents, tmp_path, capsys):
    assert run(documents, tmp_path / "out") == 0
    assert run(documents, tmp_path / "out", LEXICON) == 2
    assert "made with other settings (scorer.fingerprint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.jsonl: empty"),
        (b'{"id": "1", "text": "a"}\n{"id": \n', "bad.jsonl:2: malformed JSON"),
        (b'{"id": 1.5, "text": "a"}\n', 'bad.jsonl:1: record without an "id"'),
        (b'{"id": "1"}\n', 'bad.jsonl:1: record without a "text"'),
        (b'{"id": "1", "text": "\xff"}\n', "bad.jsonl:1: not UTF-8"),
        (b'{"id": "1", "text": "a"}\n{"id": "1", "text": "b"}\n', "duplicate id '1'"),
        (b'{"id": "1", "prompt": {"text": "a"}}\n', "prompt '1' has no generations"),
        (b'{"id": "1", "prompt": {"text": "a"}, "generations": []}\n', "'1' has no generations"),
    ],
)
def test_bad_input(content, message, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_bytes(content)
    assert run(tmp_path / "bad.jsonl", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_an_id_in_two_shards(documents, tmp_path, capsys):
    (documents / "documents-00002-of-00003.jsonl").write_text('{"id": "0", "text": "again"}\n')
    assert run(documents, tmp_path / "out") == 2
    assert "documents-00002-of-00003.jsonl:1: duplicate id '0'" in capsys.readouterr().err


def test_missing_input_and_unwritable_output(documents, tmp_path, capsys):
    assert run(tmp_path / "absent.jsonl", tmp_path / "out") == 2
    assert "absent.jsonl: no such file" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(documents, tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err


def test_a_scorer_without_parentheses(documents, tmp_path, capsys):
    assert run(documents, tmp_path / "out", "--gin.SCORER=@ngram.NgramScorer") == 2
    assert "with the parentheses" in capsys.readouterr().err
