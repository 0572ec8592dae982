"""Tests of shared_scores: what one machine scored another has, and a kill costs little."""

import contextlib
import json
import sqlite3

import pytest

from detox_jax.toxicity import score_store, shared_scores
from detox_jax.toxicity.score_store import text_key
from detox_jax.toxicity.shared_scores import SharedScores


@pytest.fixture
def on_machine(tmp_path, monkeypatch):
    """Opens the shared directory as a machine with a disk of its own."""

    def open_it(machine: str, fingerprint: str = "scorer-1") -> SharedScores:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        return SharedScores(str(tmp_path / "bucket"), fingerprint, "toxicity")

    # A bucket has no directories that must be made; the disk that stands for it has.
    for fingerprint in ("scorer-1", "scorer-2"):
        open_it("any", fingerprint)._directory.mkdir(parents=True)
    return open_it


def objects(tmp_path):
    return sorted((tmp_path / "bucket").glob("*/*"))


def test_another_machine_has_what_was_scored(on_machine, tmp_path):
    here = on_machine("a")
    here.put({"good": 0.1, "bad": 0.9, "silent": None})
    assert objects(tmp_path) == []
    here.flush()
    here.flush()
    (file,) = objects(tmp_path)
    head, *rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert head == {"schema_version": 1, "fingerprint": "scorer-1", "attribute": "toxicity"}
    keys = {text_key(t).hex(): s for t, s in (("good", 0.1), ("bad", 0.9), ("silent", None))}
    assert {row["text_sha256"]: row["score"] for row in rows} == keys
    asked = ["bad", "silent", "good", "new"]
    assert on_machine("b").get(asked) == {"bad": 0.9, "silent": None, "good": 0.1}
    assert on_machine("b", "scorer-2").get(asked) == {}


def test_what_a_killed_run_had_not_shared_is_shared_by_the_next_on_its_machine(
    on_machine, tmp_path
):
    on_machine("a").put({"good": 0.1})
    assert on_machine("b").get(["good"]) == {}
    on_machine("a")
    assert on_machine("b").get(["good"]) == {"good": 0.1}
    on_machine("a"), on_machine("b")
    assert len(objects(tmp_path)) == 1


def test_many_scores_and_late_ones_are_shared_without_being_asked(
    on_machine, tmp_path, monkeypatch
):
    monkeypatch.setattr(shared_scores, "_MOST_UNSHARED", 3)
    here = on_machine("a")
    here.put({"1": 0.1, "2": 0.2})
    assert objects(tmp_path) == []
    here.put({"3": 0.3})
    assert len(objects(tmp_path)) == 1
    monkeypatch.setattr(shared_scores, "_SHARED_EVERY_S", -1.0)
    here.put({"4": 0.4})
    assert len(objects(tmp_path)) == 2
    assert len(on_machine("b").get("1234")) == 4


@pytest.mark.parametrize("number", [1, 12])
def test_opening_asks_the_file_a_few_times_however_many_objects_it_has(
    on_machine, monkeypatch, number
):
    here = on_machine("a")
    for name in range(number):
        here.put({f"text {name}": 0.1})
        here.flush()
    asked, run = [], score_store._run
    monkeypatch.setattr(score_store, "_run", lambda *given: asked.append(1) or run(*given))
    again = on_machine("a")
    assert len(asked) == 2
    assert len(again.get([f"text {name}" for name in range(number)])) == number


def test_what_is_unshared_is_found_without_all_that_is_shared(on_machine):
    here = on_machine("a")
    here.put({"shared": 0.1})
    here.flush()
    here.put({"x": 0.2})
    assert here._local.unshared() == {text_key("x"): 0.2}
    with contextlib.closing(sqlite3.connect(here._local.path)) as database:
        plan = database.execute(f"EXPLAIN QUERY PLAN {score_store._UNSHARED}", ("f", "a"))
        (steps,) = plan.fetchall()
    assert "USING" in steps[-1] and "INDEX unshared" in steps[-1]


def test_a_score_that_is_there_stays_and_an_answer_takes_the_place_of_none(on_machine):
    for machine, scores in (("a", {"x": 0.1, "y": None}), ("b", {"x": 0.2, "y": 0.5})):
        there = on_machine(machine)
        there.put(scores)
        there.flush()
    assert on_machine("b").get("xy") == {"x": 0.1, "y": 0.5}
    assert on_machine("a").get("xy") == {"x": 0.1, "y": 0.5}


def test_a_damaged_object_is_said_and_left_out(on_machine, tmp_path, capsys):
    here = on_machine("a")
    for text in ("x", "y"):
        here.put({text: 0.1})
        here.flush()
    damaged = objects(tmp_path)[0]
    damaged.write_bytes(damaged.read_bytes().replace(b"0.1", b"0.7"))
    assert list(on_machine("b").get("xy").values()) == [0.1]
    assert f"{damaged}: damaged" in capsys.readouterr().err
