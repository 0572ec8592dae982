"""Damage of every file of the newest step, and of shards: the right bytes, or one line."""

import random
import shutil
import time

import pytest

from tests.chaos import trees
from tests.chaos.counts import wanted

pytestmark = pytest.mark.chaos

STEPS = 6
# How many of all pairs of a file and a damage; all by default.
DAMAGES = wanted("CHAOS_DAMAGES", 1_000_000)
STEP_CLASS = "train: a damaged file of the newest step"
UNFINISHED_CLASS = "generate: a damaged shard of an unfinished output"
FINISHED_CLASS = "score: a damaged shard of the finished output that it reads"


def _flip(content, chance):
    place = chance.randrange(len(content)) if content else 0
    flipped = bytes([content[place] ^ 1 << chance.randrange(8)]) if content else b"x"
    return content[:place] + flipped + content[place + 1 :]


CHANGES = {
    "emptied": lambda content, chance: b"",
    "cut": lambda content, chance: content[: chance.randrange(max(len(content), 1))],
    "zeroed": lambda content, chance: bytes(len(content)),
    "a bit flipped": _flip,
    "deleted": None,
}


def _damage(file, how, chance):
    """Whether the file is another one now."""
    change, content = CHANGES[how], file.read_bytes()
    if change is None:
        file.unlink()
        return True
    file.write_bytes(change(content, chance))
    return file.read_bytes() != content


def _pairs(files, chance):
    pairs = [(file, how) for file in sorted(files) for how in CHANGES]
    chance.shuffle(pairs)
    return pairs[:DAMAGES]


def _stopped_when(forks, flags, condition):
    child = forks.start(flags)
    while child.is_running() and not condition():
        time.sleep(0.001)
    child.signal()
    assert child.wait().status == -9


def test_damage_of_the_newest_step_ends_as_if_undisturbed(forks, train_flags, counts, tmp_path):
    chance = random.Random(0)
    flags = [*train_flags, f"--gin.TRAIN_STEPS={STEPS}"]

    def to(model):
        return [*flags, f"--gin.MODEL_DIR={model}"]

    def left(model):
        record = (model / "checkpoints" / str(STEPS) / "record" / "metadata").read_bytes()
        return {"record": record, "metrics": (model / "metrics.jsonl").read_bytes()}

    assert forks.run(to(tmp_path / "undisturbed")).status == 0
    expected = left(tmp_path / "undisturbed")
    stopped = tmp_path / "stopped"
    newest = stopped / "checkpoints" / "4"
    _stopped_when(forks, to(stopped), newest.exists)
    newest = max((stopped / "checkpoints").glob("[0-9]"))
    files = [path.relative_to(stopped) for path in newest.rglob("*") if path.is_file()]
    counts.begin(STEP_CLASS, len(files) * len(CHANGES), "files damaged")
    wrong = []
    for number, (file, how) in enumerate(_pairs(files, chance)):
        model = tmp_path / "model"
        shutil.copytree(stopped, model)
        if _damage(model / file, how, chance):
            ended = forks.run(to(model))
            is_whole = ended.status == 0 and left(model) == expected
            counts.add(STEP_CLASS, 1, is_whole)
            if not is_whole:
                wrong.append(f"{number}: {file} {how}: exit {ended.status}: {ended.errors}")
        shutil.rmtree(model)
    assert not wrong


def test_damaged_shards_of_an_unfinished_output_are_made_again(forks, verbs, counts, tmp_path):
    chance = random.Random(0)
    expected = trees.files_of(verbs.undisturbed("generate").output)
    stopped = tmp_path / "stopped" / "output"
    flags = verbs.flags("generate", stopped)
    _stopped_when(forks, flags, lambda: len(list(stopped.glob("*.jsonl"))) >= 5)
    files = [path.relative_to(stopped) for path in stopped.glob("*.jsonl")]
    counts.begin(UNFINISHED_CLASS, len(files) * len(CHANGES), "shards damaged")
    wrong = []
    for file, how in _pairs(files, chance):
        output = tmp_path / "output"
        shutil.copytree(stopped, output)
        if _damage(output / file, how, chance):
            ended = forks.run(verbs.flags("generate", output))
            differing = trees.differences(trees.files_of(output), expected)
            counts.add(UNFINISHED_CLASS, 1, not ended.status and not differing)
            if ended.status or differing:
                wrong.append(f"{file} {how}: {differing}, exit {ended.status}: {ended.errors}")
        shutil.rmtree(output)
    assert not wrong


def test_damaged_shards_of_a_finished_output_are_named(forks, verbs, counts, tmp_path):
    chance = random.Random(0)
    finished = verbs.undisturbed("generate").output
    files = [path.relative_to(finished) for path in finished.glob("*.jsonl")]
    counts.begin(FINISHED_CLASS, len(files) * len(CHANGES), "shards damaged")
    wrong = []
    for number, (file, how) in enumerate(_pairs(files, chance)):
        source = tmp_path / "source"
        shutil.copytree(finished, source)
        if _damage(source / file, how, chance):
            scored = tmp_path / f"scored-{number}"
            ended = forks.run(["score", f"--gin.INPUT={source}", f"--gin.OUTPUT_DIR={scored}"])
            is_named = ended.status == 2 and "Traceback" not in ended.errors
            is_named = is_named and str(source) in ended.errors
            counts.add(FINISHED_CLASS, 1, is_named)
            if not is_named:
                wrong.append(f"{file} {how}: exit {ended.status}: {ended.errors}")
        shutil.rmtree(source)
    assert not wrong
