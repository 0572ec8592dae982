"""Records that cannot be read: refused, or set aside, counted and bounded."""

import json
import threading

import pytest
import seqio
from etils import epath

from detox_jax import atomic_files, bad_records, cli, manifests, output_settings, records
from detox_jax.errors import UserError
from detox_jax.formats import foreign_files
from detox_jax.generation.prompts import PromptFile
from tasks import corpora
from tasks.text_source import TextSource, read_jsonl_documents
from tests.parallel.processes_test import on_all, threads_as_processes

GOOD = [b'{"id": "%d", "text": "Good day number %d.", "toxicity": 0.5}' % (i, i) for i in range(20)]
BAD = {
    "no JSON": b"{",
    "no UTF-8": b'{"text": "\xff"}',
    "deep": b'{"text": "x", "a": ' + b"[" * 100_000,
    "digits": b'{"text": "x", "n": ' + b"9" * 5000 + b"}",
    "twice": b'{"text": "x", "text": "y"}',
    "no object": b"[1]",
    "no text": b'{"id": "x"}',
    "a score beyond 1": b'{"text": "x", "toxicity": 7}',
    "half a character as id": b'{"id": "\\ud83d", "text": "x"}',
    "a sample of no prompt": b'{"generated_text": "x"}',
}


def _aside(tmp_path, most=1.0):
    return bad_records.opened(bad_records.SetAside(str(tmp_path / "bad.jsonl"), most))


def _set_aside(tmp_path):
    lines = (tmp_path / "bad.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_cannot_be_read_is_refused_or_left_out_as_it_was(tmp_path, name):
    file = tmp_path / "d.jsonl"
    file.write_bytes(b"\n".join([*GOOD[:3], BAD[name], *GOOD[3:]]) + b"\n")
    with pytest.raises(UserError, match="d.jsonl:4: ") as refused:
        list(records.read_documents(str(file)))
    aside = _aside(tmp_path)
    documents = list(records.read_documents(str(file), aside))
    assert [document.id for document in documents] == [str(i) for i in range(20)]
    assert aside.counts() == {"bad_records": {"records": 21, "set_aside": 1}}
    (line,) = _set_aside(tmp_path)
    assert (line["file"], line["line"]) == (str(file), 4)
    assert f"{file}:4: {line['reason']}" == str(refused.value)
    assert line["raw"].encode("utf-8", "surrogateescape") == BAD[name]


def test_more_than_the_share_is_refused_and_still_written(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_bytes(b"\n".join([*GOOD, b"{", b"["]))
    assert len(list(records.read_records(str(file), _aside(tmp_path, most=2 / 22)))) == 20
    with pytest.raises(UserError, match=r"2 of 22 records cannot be read, .*d.jsonl:21: mal"):
        list(records.read_records(str(file), _aside(tmp_path, most=0.05)))
    assert [line["line"] for line in _set_aside(tmp_path)] == [21, 22]
    with pytest.raises(UserError, match="of 22 records cannot be read"):
        default = bad_records.SetAside(str(tmp_path / "bad.jsonl"))
        list(records.read_records(str(file), bad_records.opened(default)))


def test_what_the_whole_source_is_at_fault_for_is_refused(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_bytes(b"\n".join([*GOOD, GOOD[0]]))
    with pytest.raises(UserError, match="d.jsonl:21: duplicate id '0'"):
        list(records.read_records(str(file), _aside(tmp_path)))


def test_a_file_that_is_read_again_is_counted_once_and_its_lines_are_replaced(tmp_path):
    for name, lines in (("a", [*GOOD, b"{"]), ("b", [b"["])):
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(lines))
    aside = _aside(tmp_path)
    for _ in range(2):
        for name in "ab":
            list(records.read_records(str(tmp_path / f"{name}.jsonl"), aside))
    assert aside.counts() == {"bad_records": {"records": 22, "set_aside": 2}}
    assert [line["raw"] for line in _set_aside(tmp_path)] == ["{", "["]
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "mended"}')
    list(records.read_records(str(tmp_path / "b.jsonl"), _aside(tmp_path)))
    assert [line["raw"] for line in _set_aside(tmp_path)] == ["{"]


def test_what_a_killed_run_left_beside_the_file_goes(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b"\n".join([*GOOD, b"{"]))
    (tmp_path / ".bad.jsonl.0123abcd.partial").write_text("half")
    list(records.read_records(str(tmp_path / "d.jsonl"), _aside(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {"d.jsonl", "bad.jsonl"}


def test_two_verbs_at_once_lose_no_line_of_each_other(tmp_path, monkeypatch):
    """What the second one keeps, it reads behind the first one's write."""
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join([*GOOD, b"{"]))

    def read(name):
        list(records.read_records(str(tmp_path / f"{name}.jsonl"), _aside(tmp_path)))

    read("a")
    written, write = threading.Event(), atomic_files.write_bytes
    second = threading.Thread(target=read, args=("c",))

    def slowly(*arguments, **settings):
        if threading.current_thread() is second:
            write(*arguments, **settings)
            written.set()
            return
        second.start()
        written.wait(0.5)  # in which the second one is through, if nothing holds it
        write(*arguments, **settings)

    monkeypatch.setattr(atomic_files, "write_bytes", slowly)
    read("b")
    second.join(60)
    assert [line["file"][-7:] for line in _set_aside(tmp_path)] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_nothing_set_aside_leaves_no_file(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b"\n".join(GOOD))
    assert len(list(records.read_records(str(tmp_path / "d.jsonl"), _aside(tmp_path)))) == 20
    assert not (tmp_path / "bad.jsonl").exists()


def test_answers_of_a_batch_are_no_bad_records(tmp_path):
    request = {"custom_id": "r", "body": {"prompt": "The bus"}}
    answer = {"custom_id": "r", "response": {"body": {"choices": [{"text": " is late"}]}}}
    bad = {"custom_id": "r", "response": {"body": {"choices": [5]}}}
    lines = "\n".join(map(json.dumps, [request, bad, answer]))
    (tmp_path / "d.jsonl").write_text(lines)
    (prompt,) = records.read_prompts(str(tmp_path / "d.jsonl"), _aside(tmp_path))
    assert [generation.text for generation in prompt.generations] == [" is late"]
    assert [line["line"] for line in _set_aside(tmp_path)] == [2]
    assert foreign_files.row_alone(answer, "x:1") is None


@pytest.mark.parametrize("percent", [1, 29, 57])
def test_the_share_itself_is_let_pass_and_one_record_more_is_not(tmp_path, percent):
    aside = _aside(tmp_path, percent / 100)
    aside.begin("d")
    aside.count("d", 100)
    for line in range(percent):
        aside.put("d", line, b"{", UserError("bad"))
    aside.finish("d", ["d"])
    aside.put("d", percent, b"{", UserError("bad"))
    with pytest.raises(UserError, match=f"{percent + 1} of 100 records cannot be read, more than"):
        aside.finish("d", ["d"])


@pytest.mark.parametrize("most", [-0.1, 1.5, "x", True])
def test_a_share_is_from_0_to_1(most):
    with pytest.raises(UserError, match="SetAside.most is"):
        bad_records.SetAside("x", most)
    with pytest.raises(UserError, match="BAD_RECORDS is 'skip'"):
        bad_records.opened("skip")


# --- verbs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("score", []),
        ("filter", []),
        ("train_vocabulary", ["--gin.VOCAB_SIZE=300"]),
    ],
)
def test_a_verb_counts_in_its_manifest_and_the_policy_decides(tmp_path, verb, more, capsys):
    (tmp_path / "d.jsonl").write_bytes(b"\n".join([*GOOD, b"{"]))
    flags = [verb, f"--gin.INPUT={tmp_path / 'd.jsonl'}", *more]
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'refused'}"]) == 2
    assert "d.jsonl:21: malformed JSON" in capsys.readouterr().err
    setting = ["--gin.BAD_RECORDS=@bad_records.SetAside()", "--gin.bad_records.SetAside.most=0.1"]
    flags += [*setting, f"--gin.bad_records.SetAside.path={tmp_path / 'bad.jsonl'}"]
    flags += [f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    assert cli.main(flags) == 0, capsys.readouterr().err
    manifest = manifests.read_manifest(epath.Path(tmp_path / "out"))
    assert manifest["bad_records"] == {"records": 21, "set_aside": 1}
    assert manifest["settings"]["bad_records"]["most"] == 0.1
    assert len(_set_aside(tmp_path)) == 1
    assert cli.main(flags) == 0
    assert cli.main([flag.replace("most=0.1", "most=0.2") for flag in flags]) == 2
    assert "bad_records.most: 0.1 there, 0.2 now" in capsys.readouterr().err


@pytest.mark.parametrize("is_scored", [False, True])
def test_documents_of_a_corpus_of_sgeat_are_set_aside(model_dir, tmp_path, is_scored, capsys):
    """They are scored, or filtered by the scores that they have, before any task reads them."""
    (tmp_path / "d.jsonl").write_bytes(b"\n".join([*GOOD, b"{"]))
    (tmp_path / "p.jsonl").write_bytes(b'{"id": "1", "prompt": {"text": "So"}}\n')
    (tmp_path / "h.jsonl").write_bytes(GOOD[0])
    (tmp_path / "corpus.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom detox_jax import sgeat\n"
        "CORPORA = {'mine': @mine/sgeat.Corpus()}\nMETHODS = {'mine': {'corpus': 'mine'}}\n"
        f"mine/sgeat.Corpus.documents = '{tmp_path / 'd.jsonl'}'\n"
        f"mine/sgeat.Corpus.is_scored = {is_scored}\n"
    )
    flags = ["sgeat", f"--gin_file={tmp_path / 'corpus.gin'}", f"--checkpoint={model_dir}"]
    flags += [f"--input={tmp_path / 'p.jsonl'}", f"--gin.HELDOUT={tmp_path / 'h.jsonl'}"]
    flags += [f"--output={tmp_path / 'out'}", "--gin.TASK_FEATURE_LENGTHS={'targets': 16}"]
    assert cli.main([*flags, "--dry_run"]) == 2
    assert "d.jsonl:21: malformed JSON" in capsys.readouterr().err
    flags += ["--gin.BAD_RECORDS=@bad_records.SetAside()", "--gin.bad_records.SetAside.most=0.1"]
    flags += [f"--gin.bad_records.SetAside.path={tmp_path / 'bad.jsonl'}"]
    assert cli.main([*flags, "--dry_run"]) == 0, capsys.readouterr().err


def test_the_default_leaves_no_trace_in_settings(tmp_path, capsys):
    (tmp_path / "d.jsonl").write_bytes(b"\n".join(GOOD))
    flags = [f"--gin.INPUT={tmp_path / 'd.jsonl'}", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    assert cli.main(["score", *flags]) == 0, capsys.readouterr().err
    manifest = manifests.read_manifest(epath.Path(tmp_path / "out"))
    assert "bad_records" not in manifest and "bad_records" not in manifest["settings"]


def test_prompts_are_set_aside_and_counted(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": {"text": "The bus"}}\n{"prompt": 5}\n')
    policy = bad_records.SetAside(str(tmp_path / "bad.jsonl"), 0.5)
    prompts = PromptFile(str(tmp_path / "p.jsonl"), bad_records=policy)
    assert [request.text for request in prompts.requests()] == ["The bus"]
    assert prompts.describe()["bad_records"] | {"path": ""} == {
        "method": "SetAside",
        "path": "",
        "most": 0.5,
        "records": 2,
        "set_aside": 1,
    }
    assert "bad_records" not in PromptFile(str(tmp_path / "p.jsonl")).describe()


def test_documents_to_train_on_are_set_aside_and_counted(tmp_path, vocabulary):
    vocabulary.save(str(tmp_path / "vocabulary"))
    (tmp_path / "d.jsonl").write_bytes(b"\n".join([*GOOD, b"{"]))
    policy = bad_records.SetAside(str(tmp_path / "bad.jsonl"), 0.1)
    arguments = str(tmp_path / "d.jsonl"), str(tmp_path / "vocabulary")
    task = corpora.documents_task(*arguments, bad_records=policy)
    assert isinstance(task, seqio.Task)
    described = task.source.describe("train")
    assert described["bad_records"]["set_aside"] == 1
    assert len(list(task.source.all_examples("train"))) == 20
    with pytest.raises(UserError, match="d.jsonl:21: malformed"):
        corpora.documents_task(*arguments).source.all_examples("train")
    assert "bad_records" not in corpora.documents_task(*arguments).source.describe("train")


def test_what_process_0_has_read_before_the_others_read_without_it(tmp_path, monkeypatch):
    """As `train` asks of a finished output on process 0 alone; documents are read once and kept."""
    (tmp_path / "d.jsonl").write_bytes(b"\n".join([*GOOD, b"{"]))
    files, policy = {"train": str(tmp_path / "d.jsonl")}, tmp_path / "bad.jsonl"

    def work(run, index):
        aside = bad_records.SetAside(str(policy), 0.1)
        source = TextSource(files, read_jsonl_documents, "NONE", aside)

        def ask():
            with output_settings.ahead():
                source.describe("train")

        run.first_does(ask)
        assert source.describe("train")["bad_records"]["set_aside"] == 1
        again = TextSource(files, read_jsonl_documents, "NONE", aside)
        return again.count("train"), run.first_decides(lambda: "what comes next")

    told = on_all(threads_as_processes(monkeypatch)(work), count=2)
    assert told == [(20, "what comes next")] * 2
    assert [line["line"] for line in _set_aside(tmp_path)] == [21]
