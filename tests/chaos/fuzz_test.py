"""Files that hypothesis draws: success, or one line.

Each reader is given CHAOS_FUZZ_SECONDS of the processor, with CHAOS_GO_ON=1 what it lacks of them.
"""

import math
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
LONGEST_S = 120  # of the processor, for a file; a reader that takes so long hangs
BUSY = 50  # times as long as its processor time is a reader waited for
LARGEST = 4 << 30  # bytes; a reader that takes so many would take all that a machine has


def _fuzz(reader, seconds, count_file):
    """Reads until the time is over; how many files, and in how long, is left in `count_file`."""
    read = 0
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + LARGEST
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    begun = time.process_time()
    latest = math.ceil(begun + seconds) + LONGEST_S
    resource.setrlimit(resource.RLIMIT_CPU, (latest, latest))

    @hypothesis.seed(int.from_bytes(os.urandom(4)))
    @hypothesis.settings(damage.PROFILE, max_examples=200, derandomize=False, database=None)
    @given(reader.contents)
    def check(content):
        nonlocal read
        with tempfile.TemporaryDirectory() as made:
            reader.succeeds_or_says_why_not(content, Path(made))
        read += 1

    while time.process_time() - begun < seconds:
        check()
        count_file.write_text(f"{read} {time.process_time() - begun}")


@pytest.mark.parametrize("name", READERS)
def test_no_file_is_a_traceback(forks, counts, tmp_path, name):
    counts.begin(CLASS, None, "files", full_seconds=600, readers=len(READERS))
    done = counts.read()[CLASS].get("seconds", {})
    if (seconds := SECONDS - done.get(name, 0)) <= 0:
        pytest.skip(f"{name}: read for as long by the round that this one goes on with")
    count_file = tmp_path / "count"
    child = forks.start(lambda: _fuzz(READERS[name], seconds, count_file))
    ended = child.wait(BUSY * (seconds + LONGEST_S))
    failed = ended.status != 0
    read, spent = count_file.read_text().split() if count_file.exists() else ("0", "0")
    counts.add(CLASS, int(read) + failed, int(read))
    counts.note(CLASS, seconds={**done, name: round(done.get(name, 0) + float(spent))})
    assert not failed, f"exit {ended.status}: {ended.errors[-4000:]}"
