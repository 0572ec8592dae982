"""Files that hypothesis draws, for as long as CHAOS_FUZZ_SECONDS a reader: success, or one line."""

import json
import os
import resource
import tempfile
import time
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given

from tests.chaos.counts import wanted
from tests.fuzz import damage
from tests.fuzz.readers import READERS

pytestmark = pytest.mark.chaos

CLASS = "files drawn by hypothesis"
SECONDS = wanted("CHAOS_FUZZ_SECONDS", 600)
LONGEST_S = 120  # a file; a reader that takes so long hangs
LARGEST = 4 << 30  # bytes; a reader that takes so many would take all that a machine has


def _fuzz(reader, count_file):
    """Reads until the time is over; leaves in `count_file` how many files were read."""
    read = 0
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + LARGEST
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

    @hypothesis.seed(int.from_bytes(os.urandom(4)))
    @hypothesis.settings(damage.PROFILE, max_examples=200, derandomize=False, database=None)
    @given(reader.contents)
    def check(content):
        nonlocal read
        with tempfile.TemporaryDirectory() as made:
            reader.succeeds_or_says_why_not(content, Path(made))
        read += 1

    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        check()
        count_file.write_text(str(read))


@pytest.mark.parametrize("name", READERS)
def test_no_file_is_a_traceback(forks, counts, tmp_path, name):
    counts.begin(CLASS, None, "files")
    counts.note(CLASS, seconds=SECONDS, full_seconds=600, readers=len(READERS))
    count_file = tmp_path / "count"
    ended = forks.start(lambda: _fuzz(READERS[name], count_file)).wait(SECONDS * 3 + 60 * LONGEST_S)
    read = int(count_file.read_text()) if count_file.exists() else 0
    failed = ended.status != 0
    counts.add(CLASS, read + failed, read)
    counts.note(CLASS, readers_tried=counts.read()[CLASS].get("readers_tried", 0) + 1)
    assert not failed, json.dumps(ended.errors[-4000:])
