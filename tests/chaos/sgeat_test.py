"""The whole method, killed again and again, ends with every file of an undisturbed run."""

import random
import time

import pytest

from tasks import demo_corpus
from tests import sgeat_made
from tests.chaos import killed_runs, trees
from tests.chaos.counts import wanted

pytestmark = pytest.mark.chaos

CLASS = "sgeat: kill -9 anywhere"
KILLS = wanted("CHAOS_SGEAT_KILLS", 40)
KILLS_A_RUN = 10
CONFIG = f"""{sgeat_made.IMPORTS}
from detox_jax.toxicity import lexicon
{sgeat_made.CONFIG}
loop.Periods.checkpoint = 1
JUDGES = {{'ngram': @ngram/score.score, 'lexicon': @lexicon/score.score}}
lexicon/score.score.scorer = @lexicon.LexiconScorer()
"""


def _before():
    for name, value in sgeat_made.DEMO_CORPUS.items():
        setattr(demo_corpus, name, value)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    root = tmp_path_factory.mktemp("sgeat")
    (root / "small.gin").write_text(CONFIG)
    sgeat_made.write_questions(root)
    return ["sgeat", f"--gin_file={root / 'small.gin'}", f"--gin.DOWNSTREAM_DIR={root}"]


def _left(forks, output):
    return {**trees.files_of(output, but=trees.TIMES), **trees.arrays_of(forks, output)}


def test_the_whole_method_killed_ends_as_if_undisturbed(forks, flags, counts, tmp_path):
    counts.begin(CLASS, 40, "kills")
    output = tmp_path / "run"  # The same for all: its name is in what results.json hashes.
    command = [*flags, f"--gin.OUTPUT_DIR={output}"]
    start = time.monotonic()
    ended = forks.run(command, before=_before, watched=output)
    assert ended.status == 0, ended.errors
    seconds, operations = time.monotonic() - start, ended.operations
    chance = random.Random(0)

    def begin(_):
        # Each start does a part of the whole: what it may do before its end is a part too.
        if chance.random() < 0.5:
            at = 1 + int(operations * chance.random() * 2 / KILLS_A_RUN)
            return forks.run(command, before=_before, watched=output, kill_at=at)
        child = forks.start(command, before=_before)
        time.sleep(chance.random() * seconds * 2 / KILLS_A_RUN)
        child.signal()
        return child.wait()

    assert not killed_runs.differences(
        CLASS,
        counts,
        output,
        begin,
        finish=lambda: forks.run(command, before=_before),
        left=lambda: _left(forks, output),
        kills=KILLS,
        kills_a_run=KILLS_A_RUN,
    )
