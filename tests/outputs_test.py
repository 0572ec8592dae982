"""Output directories: resumed to the same bytes, refused to whoever they do not belong to."""

import json
import math

import pytest
from etils import epath

from detox_jax import outputs, records
from detox_jax.errors import UserError


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(tmp_path):
    def run(path, stop_after=None):
        output = outputs.OutputDirectory(str(path), "score", {"seed": 1})
        if output.complete:
            return
        for index in range(3):
            if not output.has_shard("d", index, 3):
                output.write_shard("d", index, 3, [records.Document(str(index), "x")])
            if index == stop_after:
                return
        output.finish(count=3)

    run(tmp_path / "whole")
    run(tmp_path / "killed", stop_after=0)
    assert not outputs.read_manifest(epath.Path(tmp_path / "killed"))["complete"]
    run(tmp_path / "killed")
    run(tmp_path / "killed")
    whole, killed = [
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
        for name in ("whole", "killed")
    ]
    assert whole == killed and len(whole) == 5


def test_an_output_directory_of_another_verb_or_of_nobody_is_refused(tmp_path):
    outputs.OutputDirectory(str(tmp_path / "o"), "score", {}).finish()
    with pytest.raises(UserError, match="output of `score`"):
        outputs.OutputDirectory(str(tmp_path / "o"), "filter", {})
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "d.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="did not write"):
        outputs.OutputDirectory(str(tmp_path / "p"), "filter", {})


def test_damaged_manifest(tmp_path):
    outputs.OutputDirectory(str(tmp_path), "score", {})
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not a manifest"):
        outputs.OutputDirectory(str(tmp_path), "score", {})


def test_what_json_does_not_have_becomes_null():
    value = {"a": [math.nan, 1.5, (math.inf,)], "b": {"c": -math.inf}, "d": "text", "e": True}
    finite = outputs.finite(value)
    assert finite == {"a": [None, 1.5, [None]], "b": {"c": None}, "d": "text", "e": True}
    json.dumps(finite, allow_nan=False)
