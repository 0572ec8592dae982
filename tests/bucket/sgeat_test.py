"""The whole method with all that it writes in gs://."""

import json
import re
from pathlib import Path

import pytest

from tests import sgeat_made
from tests.bucket.conftest import finish, start, succeed
from tests.bucket.verbs_test import QUICKLY, in_bucket, on_disk

pytestmark = pytest.mark.bucket
RUN = Path(__file__).with_name("sgeat_run.py")
# The page holds how long each step took.
TIMED = re.compile(r"times\.json$|report\.html$|report/manifest\.json$")


def untimed(files: dict[str, bytes]) -> dict[str, bytes]:
    kept = {name.removeprefix("run/"): content for name, content in files.items()}
    return {name: content for name, content in kept.items() if not TIMED.search(name)}


def test_sgeat_is_killed_twice_and_writes_what_it_writes_on_a_disk(storage, tmp_path):
    (tmp_path / "small.gin").write_text(sgeat_made.IMPORTS + sgeat_made.CONFIG)
    sgeat_made.write_questions(tmp_path)
    with (tmp_path / "small.gin").open("a") as file:
        file.write(f"DOWNSTREAM_DIR = '{tmp_path}'\n")
    more = (tmp_path / "small.gin", json.dumps(sgeat_made.DEMO_CORPUS))
    local = start(storage, RUN, tmp_path / "disk" / "run", *more)
    for moment in (r"name=run/corpora/standard/scored/", r"upload.*run/models/sgeat-adapter/"):
        process = start(storage, RUN, "gs://bkt/run", *more, **QUICKLY)
        storage.on_first(moment, process.kill)
        status, _, errors = finish(process)
        assert status < 0, errors
    succeed(start(storage, RUN, "gs://bkt/run", *more, **QUICKLY))
    succeed(local)
    written, expected = untimed(in_bucket(storage)), untimed(on_disk(tmp_path / "disk"))
    assert written.keys() == expected.keys()
    different = {n: (written[n], expected[n]) for n in expected if written[n] != expected[n]}
    assert different == {}
    assert any(name.startswith("choices/") for name in expected)
    before = len(storage.requests)
    succeed(start(storage, RUN, "gs://bkt/run", *more, **QUICKLY))
    again = storage.requests[before:]
    print(len(again), "requests of a rerun")  # for docs/RELIABILITY.md: pytest -s
    uploads = [line for line in again if "/upload/" in line]
    anew = re.compile(r"name=run/(config\.gin|results\.json|report\.html|times\.json)|[.]lock")
    assert [line for line in uploads if not anew.search(line)] == []
