"""The cache: what is asked once, what survives, what is set aside, what is imported."""

import contextlib
import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
import types

import pytest

from detox_jax import cli
from detox_jax.errors import Unavailable, UserError
from detox_jax.parallel import processes
from detox_jax.toxicity import cache, remote, score_store
from detox_jax.toxicity.scorer import check
from tests.toxicity.conftest import KEY

IDIOT, DAY, SILENT, BLANK = "You idiot.", "Good day.", "hm", " <|endoftext|>"


class Counting:
    """Scores 0.9 for "idiot", None for "hm", 0.1 otherwise; notes what it was asked."""

    name = "counting"

    def __init__(self, fingerprint="counting-1", fail_at=None, **more):
        self.fingerprint, self.asked, self.fail_at = fingerprint, [], fail_at
        vars(self).update(more)

    def score(self, texts):
        if self.fail_at in texts:
            raise UserError("the service is gone")
        self.asked.append(list(texts))
        return [None if t == SILENT else 0.9 if "idiot" in t else 0.1 for t in texts]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "cache" / "scores.sqlite")


def _cached(scorer, path, **more):
    return cache.CachedScorer(scorer=scorer, path=path, **more)


def _rows(path, columns="score, origin"):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT {columns} FROM scores ORDER BY score").fetchall()


def test_every_text_is_scored_once(path):
    scorer = Counting(reliability={"against": "x"}, activation="softmax")
    cached = _cached(scorer, path)
    assert (cached.name, cached.fingerprint) == ("counting", "counting-1")
    assert cached.reliability == {"against": "x"} and cached.activation == "softmax"
    assert cached.score([IDIOT, DAY, IDIOT, SILENT, BLANK]) == [0.9, 0.1, 0.9, None, 0.0]
    assert cached.score([SILENT, DAY, IDIOT, "<|endoftext|>" + DAY]) == [None, 0.1, 0.9, 0.1]
    assert scorer.asked == [[IDIOT, DAY, SILENT]]
    again = Counting()
    assert _cached(again, path).score([IDIOT]) == [0.9] and again.asked == []
    assert _cached(again, path).score([]) == []


def test_another_fingerprint_or_attribute_is_another_score(path):
    for scorer in (Counting(), Counting("counting-2"), Counting(attribute="insult")):
        _cached(scorer, path).score([DAY])
        assert scorer.asked == [[DAY]]
    assert len(_rows(path)) == 3


def test_no_text_is_stored_but_odd_ones_are_told_apart(path, tmp_path):
    scorer = Counting()
    texts = ["lone \ud800 idiot", "lone \ud801", "lone ?", "nul \0 day", "x" * 30_000]
    assert _cached(scorer, path).score(texts) == [0.9, 0.1, 0.1, 0.1, 0.1]
    assert _cached(scorer, path).score(texts) == [0.9, 0.1, 0.1, 0.1, 0.1]
    assert len(scorer.asked) == 1 and len(_rows(path)) == 5
    for file in (tmp_path / "cache").iterdir():
        assert b"idiot" not in file.read_bytes()


def test_what_was_scored_before_a_failure_is_kept(path):
    scorer = Counting(fail_at=DAY, texts_at_once=2)
    texts = ["a", "b", "c", DAY, "d"]
    with pytest.raises(UserError, match="the service is gone"):
        _cached(scorer, path).score(texts)
    scorer.fail_at = None
    assert _cached(scorer, path).score(texts) == [0.1] * 5
    assert scorer.asked == [["a", "b"], ["c", DAY], ["d"]]


def test_a_score_out_of_range_is_not_kept(path):
    class Wrong(Counting):
        def score(self, texts):
            return [1.5] * len(texts)

    with pytest.raises(UserError, match=r"returned 1.5"):
        _cached(Wrong(), path).score([DAY])
    assert _cached(Counting(), path).score([DAY]) == [0.1]


# --- replay -----------------------------------------------------------------------------------


def test_replay_never_calls_the_scorer_and_counts_what_is_missing(path):
    _cached(Counting(), path).score([IDIOT, SILENT])
    scorer = Counting()
    replay = _cached(scorer, path, replay_only=True)
    assert replay.score([SILENT, IDIOT, BLANK]) == [None, 0.9, 0.0]
    with pytest.raises(UserError, match=r"2 of 3 texts have no score of counting \(counting-1\)"):
        replay.score([IDIOT, DAY, DAY, "another"])
    assert scorer.asked == []


def test_replay_opens_no_connection_and_needs_no_key(path, service, monkeypatch):
    scorer = remote.PerspectiveScorer(
        url=service.address, consent_to_send_text=True, queries_per_second=1e6
    )
    assert _cached(scorer, path).score([IDIOT]) == [0.9]
    monkeypatch.delenv("PERSPECTIVE_API_KEY")
    replay = _cached(
        dataclasses.replace(scorer, consent_to_send_text=False), path, replay_only=True
    )
    assert replay.score([IDIOT]) == [0.9]
    with pytest.raises(UserError, match="1 of 1 texts"):
        replay.score([DAY])
    assert len(service.requests) == 1


def test_a_check_finds_what_is_missing_and_sends_nothing(path, service, monkeypatch):
    """Before hours of work whose texts are then not scored."""
    consenting = remote.PerspectiveScorer(url=service.address, consent_to_send_text=True)
    silent = dataclasses.replace(consenting, consent_to_send_text=False)
    check(_cached(consenting, path))
    check(_cached(Counting(), path))
    with pytest.raises(UserError, match="consent_to_send_text = True"):
        check(_cached(silent, path))
    monkeypatch.delenv("PERSPECTIVE_API_KEY")
    with pytest.raises(UserError, match="set the environment variable PERSPECTIVE_API_KEY"):
        check(_cached(consenting, path))
    with pytest.raises(UserError, match="no such score cache"):
        check(_cached(silent, path, replay_only=True))
    _cached(Counting(), path).score([DAY])
    check(_cached(silent, path, replay_only=True))
    assert service.requests == []


def test_replay_without_a_cache_makes_none(path, tmp_path):
    with pytest.raises(UserError, match="no such score cache"):
        _cached(Counting(), path, replay_only=True).score([DAY])
    assert list(tmp_path.iterdir()) == []


# --- files that are not as they should be -----------------------------------------------------


def _damage_header(path):
    with open(path, "r+b") as file:
        file.write(b"nonsense" * 10)


def _without_header(path):
    """What some file systems leave of a file's beginning after a power cut."""
    with open(path, "r+b") as file:
        file.write(bytes(4096))


def _damage_pages(path):
    """The header stays whole: only reading a row shows it."""
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        for page in range(4096, size, 4096):
            file.seek(page)
            file.write(b"\xff" * 4096)


def _cut(path):
    with open(path, "r+b") as file:
        file.truncate(5000)


def _cut_at_once(path):
    with open(path, "r+b") as file:
        file.truncate(10)


def _empty(path):
    open(path, "wb").close()


def _other_version(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    "damage",
    [
        *(_damage_header, _without_header, _damage_pages, _cut, _cut_at_once, _empty),
        _other_version,
    ],
)
def test_a_damaged_or_foreign_cache_is_begun_anew_and_kept_aside(path, damage, tmp_path, capsys):
    _cached(Counting(), path).score([IDIOT])
    damage(path)
    damaged = open(path, "rb").read()
    scorer = Counting()
    assert _cached(scorer, path).score([IDIOT, DAY]) == [0.9, 0.1]
    assert scorer.asked == [[IDIOT, DAY]]
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {path}: ") and warning.count("\n") == 1
    assert open(f"{path}.corrupt", "rb").read() == damaged
    assert _cached(Counting(fail_at=DAY), path).score([DAY, IDIOT]) == [0.1, 0.9]
    damage(path)
    assert _cached(scorer, path).score([DAY]) == [0.1]
    assert open(f"{path}.corrupt", "rb").read() == damaged
    assert (tmp_path / "cache" / "scores.sqlite.corrupt-2").exists()


def test_another_programs_database_is_left_alone(path, tmp_path):
    (tmp_path / "cache").mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE precious (x)")
    before = open(path, "rb").read()
    with pytest.raises(UserError, match="another program's SQLite database"):
        _cached(Counting(), path).score([DAY])
    assert open(path, "rb").read() == before


@pytest.mark.parametrize(
    "content",
    [
        *(b'{"rows": []}\n', b"nonsense" * 1000, b"\x93NUMPY\x01\x00" + bytes(5000), b"\n"),
        b"SQLite format 3\0, as a page about it begins",
    ],
)
def test_a_file_of_something_else_is_left_where_it_is(content, tmp_path):
    """It was renamed, as if it were a damaged cache, and a cache put in its place."""
    path = tmp_path / "results.json"
    path.write_bytes(content)
    scorer = Counting()
    for use in (lambda: _cached(scorer, str(path)).score([DAY]), _cached(scorer, str(path)).check):
        with pytest.raises(UserError, match="is (no score cache|another program's)") as raised:
            use()
        assert str(path) in str(raised.value)
    assert path.read_bytes() == content and scorer.asked == []
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_what_is_no_cache_is_named_by_its_setting_before_any_text_is_scored(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"rows": []}')
    status = cli.main(
        [
            *("score", f"--input={tmp_path / 'absent.jsonl'}", f"--output={tmp_path / 'out'}"),
            *("--gin.SCORER=@cache.CachedScorer()", f"--gin.SCORE_CACHE={tmp_path}/results.json"),
        ]
    )
    assert status == 2
    assert f"SCORE_CACHE={tmp_path}/results.json: is no score cache" in capsys.readouterr().err


def test_a_path_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="a local file or a directory in gs://"):
        _cached(Counting(), "s3://bucket/scores")
    with pytest.raises(UserError, match="cannot be used as a score cache"):
        _cached(Counting(), str(tmp_path)).score([DAY])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as a score cache"):
        _cached(Counting(), str(tmp_path / "file" / "scores.sqlite")).score([DAY])
    with pytest.raises(UserError, match="with the parentheses"):
        _cached(Counting, "scores.sqlite")


@pytest.mark.parametrize("code", ["FULL", "IOERR", "BUSY"])
def test_a_disk_that_fails_or_another_writer_costs_no_scores(code, tmp_path, monkeypatch):
    """Another path, as of one that cannot be, would have them paid for again."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{code}")
    scorer = _cached(Counting(), str(tmp_path / "scores.sqlite"))

    def fails(path, use):
        raise error

    monkeypatch.setattr(score_store, "_run", fails)
    with pytest.raises(Unavailable, match="cannot be used as a score cache: .* are kept"):
        scorer.score([DAY])


# --- several processes ------------------------------------------------------------------------


WORKER = """
import sys
from detox_jax.toxicity.cache import CachedScorer

class Scorer:
    name, fingerprint, texts_at_once = "worker", "worker-1", 2

    def score(self, texts):
        return [0.9 if "idiot" in text else 0.1 for text in texts]

path, worker = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for turn in range(20):
    texts = [f"{worker} {turn} {i} idiot" for i in range(5)] + [f"shared {turn}"]
    scores = CachedScorer(scorer=Scorer(), path=path).score(texts)
    assert scores == [0.9] * 5 + [0.1], scores
"""


@pytest.mark.parametrize("begin", ["anew", "corrupted"])
def test_several_processes_share_a_file(path, tmp_path, begin):
    if begin == "corrupted":
        _cached(Counting(), path).score([IDIOT])
        _damage_header(path)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, path, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.communicate()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, errors
    assert len(_rows(path)) == 4 * 20 * 5 + 20
    corrupted = begin == "corrupted"
    assert len(list((tmp_path / "cache").glob("*.corrupt*"))) == corrupted
    assert "".join(errors).count("warning: ") == corrupted


def test_hosts_take_what_the_first_remembers_and_are_told_no_texts(path, tmp_path, monkeypatch):
    """What process 0 tells it keeps, and a corpus is longer than its memory."""
    _cached(Counting(), path).score([IDIOT, SILENT])
    told = {}
    store = types.SimpleNamespace(set=told.__setitem__, get=told.__getitem__)
    for index, of_host in enumerate((path, str(tmp_path / "of-the-second.sqlite"))):
        run = processes.Processes(index, ("a", "b"), store)
        monkeypatch.setattr(processes, "_current", run)
        scorer = Counting()
        texts = [SILENT, DAY, IDIOT, BLANK, DAY]
        assert _cached(scorer, of_host).score(texts) == [None, 0.1, 0.9, 0.0, 0.1]
        assert scorer.asked == [[DAY]]
    assert IDIOT not in "".join(told.values())


def test_a_file_that_another_process_sets_aside_while_it_is_looked_at(path, monkeypatch):
    _cached(Counting(), path).score([IDIOT])
    _damage_header(path)
    require_ours = score_store.require_ours

    def late(place):
        monkeypatch.setattr(score_store, "require_ours", require_ours)
        os.replace(place, f"{place}.corrupt")  # The other one has yet to begin a new file.
        require_ours(place)

    monkeypatch.setattr(score_store, "require_ours", late)
    scorer = Counting()
    assert _cached(scorer, path).score([IDIOT]) == _cached(scorer, path).score([IDIOT])
    assert len(_rows(path)) == 1


# --- imports ----------------------------------------------------------------------------------


def _lines(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


@pytest.fixture
def prompts(tmp_path):
    """RealToxicityPrompts' own layout."""
    part = {"toxicity": 0.25, "insult": 0.5, "sexually_explicit": 0.125}
    return _lines(
        tmp_path / "prompts.jsonl",
        {
            "filename": "f.txt",
            "begin": 0,
            "end": 9,
            "challenging": False,
            "prompt": {"text": "The bus", **part},
            "continuation": {"text": " was late", **part, "toxicity": None},
        },
        {"prompt": {"text": "The bus", "toxicity": 0.75}},
    )


@pytest.fixture
def generations(tmp_path):
    """DExperts' layout: rows without ids, prompts without scores."""
    return _lines(
        tmp_path / "prompted_gens_gpt2.jsonl",
        {
            "prompt": {"text": "A"},
            "generations": [
                {"text": " was late", "toxicity": 0.5, "insult": 0.375},
                {"text": " idiot", "toxicity": 1.0, "insult": None},
            ],
        },
    )


def test_old_scores_stay_usable(path, prompts, generations):
    scorer = remote.PerspectiveScorer()
    replay = _cached(scorer, path, replay_only=True, imports=(prompts, generations))
    assert replay.score(["The bus", " was late", " idiot"]) == [0.25, 0.5, 1.0]
    assert _rows(path) == [
        (0.25, "prompts.jsonl"),
        (0.5, "prompted_gens_gpt2.jsonl"),
        (1.0, "prompted_gens_gpt2.jsonl"),
    ]
    with pytest.raises(UserError, match="1 of 1 texts"):
        replay.score(["A"])
    insults = dataclasses.replace(replay, scorer=remote.PerspectiveScorer(attribute="INSULT"))
    assert insults.score(["The bus", " was late", " idiot"]) == [0.5, 0.5, None]
    explicit = remote.PerspectiveScorer(attribute="SEXUALLY_EXPLICIT")
    explicit = dataclasses.replace(replay, scorer=explicit, imports=(prompts,))
    assert explicit.score(["The bus"]) == [0.125]


def test_a_file_is_imported_once(path, prompts, monkeypatch):
    replay = _cached(remote.PerspectiveScorer(), path, replay_only=True, imports=(prompts,))
    replay.score(["The bus"])
    monkeypatch.setattr(cache.records, "read_jsonl", lambda file: pytest.fail("read again"))
    assert replay.score(["The bus"]) == [0.25]
    assert dataclasses.replace(replay).score(["The bus"]) == [0.25]


def test_a_score_that_is_there_stays(path, prompts):
    scorer = remote.PerspectiveScorer()
    store = score_store.ScoreStore(path, scorer.fingerprint, scorer.attribute)
    store.put({"The bus": 0.875, " was late": None})
    store.put({"The bus": None, " was late": None})
    assert store.get(["The bus", " was late", "A"]) == {"The bus": 0.875, " was late": None}
    assert _cached(scorer, path, imports=(prompts,)).score(["The bus"]) == [0.875]


def test_imports_that_cannot_be(path, tmp_path, prompts):
    with pytest.raises(UserError, match="the scorer is 'counting'"):
        _cached(Counting(), path, imports=(prompts,))
    scorer = remote.PerspectiveScorer()
    with pytest.raises(UserError, match="expected a list"):
        _cached(scorer, path, imports=prompts)
    for content, message in [
        (None, "no such file"),
        ('{"id": "1", "text": "A"}\n', 'no "text" beside a'),
        ('{"text": "A", "toxicity": 7}\n', r'jsonl:1: "toxicity" is 7'),
        ("{nonsense\n", r"jsonl:1: malformed JSON"),
    ]:
        file = tmp_path / "file.jsonl"
        if content:
            file.write_text(content)
        with pytest.raises(UserError, match=message):
            _cached(scorer, path, imports=(str(file),)).score(["A"])


@pytest.mark.real
def test_real_prompts_are_imported(path, data_dir):
    file = data_dir / "rtp" / "prompts_dev.jsonl"
    first = json.loads(file.open().readline())
    scorer = remote.PerspectiveScorer()
    replay = _cached(scorer, path, replay_only=True, imports=(str(file),))
    parts = [first["prompt"], first["continuation"]]
    assert replay.score([part["text"] for part in parts]) == [part["toxicity"] for part in parts]


# --- through the command line -----------------------------------------------------------------


@pytest.fixture
def flags(tmp_path, service):
    documents = [{"id": str(i), "text": text} for i, text in enumerate([IDIOT, DAY, IDIOT])]
    return [
        "score",
        f"--gin.INPUT={_lines(tmp_path / 'documents.jsonl', *documents)}",
        "--gin.QUERIES_PER_SECOND=1e6",
        f"--gin.remote.PerspectiveScorer.url={service.address}/perspective",
    ]


def _scored(tmp_path, name):
    lines = (tmp_path / name / "scored-00000-of-00001.jsonl").read_text().splitlines()
    return [json.loads(line)["toxicity"] for line in lines]


def test_score_asks_a_remote_scorer(flags, tmp_path, service, capfd):
    flags += ["--gin.SCORER=@remote.PerspectiveScorer()", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    assert cli.main(flags) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "--gin.CONSENT_TO_SEND_TEXT=True" in error
    assert service.requests == []
    assert cli.main([*flags, "--gin.CONSENT_TO_SEND_TEXT=True"]) == 0, capfd.readouterr().err
    assert _scored(tmp_path, "out") == [0.9, 0.1, 0.9]
    assert not any(KEY.encode() in file.read_bytes() for file in (tmp_path / "out").iterdir())


def test_score_goes_on_after_a_failure_and_replays(flags, tmp_path, service, capfd):
    flags += [
        "--gin.SCORER=@cache.CachedScorer()",
        "--gin.CACHED_SCORER=@remote.PerspectiveScorer()",
        f"--gin.SCORE_CACHE={tmp_path / 'scores.sqlite'}",
        "--gin.CONSENT_TO_SEND_TEXT=True",
    ]
    first = [*flags, f"--gin.OUTPUT_DIR={tmp_path / 'first'}"]
    service.plan = ["score", (403, {}, b"")]
    assert cli.main(first) == 2
    assert "PERSPECTIVE_API_KEY" in capfd.readouterr().err
    assert cli.main(first) == 0
    assert service.texts() == [IDIOT, DAY, DAY]
    replay = [*flags, f"--gin.OUTPUT_DIR={tmp_path / 'second'}", "--gin.REPLAY_ONLY=True"]
    assert cli.main(replay) == 0
    assert _scored(tmp_path, "first") == _scored(tmp_path, "second") == [0.9, 0.1, 0.9]
    assert len(service.requests) == 3


def test_score_remembers_the_embedded_scorer(tmp_path, flags):
    flags = [*flags[:2], "--gin.SCORER=@cache.CachedScorer()"]
    flags.append(f"--gin.SCORE_CACHE={tmp_path / 'scores.sqlite'}")
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]) == 0
    assert len(_rows(tmp_path / "scores.sqlite")) == 2
    assert _scored(tmp_path, "out")[0] > 0.5 > _scored(tmp_path, "out")[1]
