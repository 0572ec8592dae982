"""Long runs: memory, descriptors and threads do not grow over their last two thirds."""

import json
import os
import threading
import time

import numpy as np
import pytest

from tests.chaos.counts import wanted
from tests.conftest import SENTENCES

pytestmark = pytest.mark.chaos

# Per cent of 2,000 steps, 200,000 texts, 20,000 continuations.
SHARE = wanted("CHAOS_SOAK_SHARE", 100)
# Growth over the last two thirds, by a straight line through what was seen there.
MOST = {"rss_mib": 64.0, "descriptors": 4.0, "threads": 4.0}


def _sizes(pid):
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return {
        "rss_mib": int(status["VmRSS"].split()[0]) / 1024,
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
    }


def _watched(child):
    """Sizes of a child from its start to its end, and how it ended."""
    seen = []
    while child.is_running():
        try:
            seen.append((time.monotonic(), _sizes(child.pid)))
        except (OSError, KeyError):  # It ended meanwhile.
            break
        time.sleep(0.1)
    return seen, child.wait(7200)


def _growth(seen):
    times = np.array([when for when, _ in seen])
    start = times[0] + (times[-1] - times[0]) / 3
    late = times >= start
    grown = {}
    for name in MOST:
        values = np.array([sizes[name] for _, sizes in seen])[late]
        slope = np.polyfit(times[late] - start, values, 1)[0]
        grown[name] = round(float(slope * (times[-1] - start)), 1)
    return grown


def _check(counts, name, unit, size, seen, ended):
    counts.begin(name, 1, "runs")
    grown = _growth(seen)
    is_whole = ended.status == 0 and all(grown[name] <= most for name, most in MOST.items())
    counts.add(name, 1, is_whole)
    counts.note(name, size=f"{size:,} {unit}", share=SHARE, growth=grown, bound=MOST)
    assert is_whole, (grown, ended.status, ended.errors[-2000:])


def test_training(forks, train_flags, counts, tmp_path):
    steps = 2000 * SHARE // 100
    flags = [flag for flag in train_flags if "CHECKPOINT_PERIOD" not in flag]
    flags += ["--gin.CHECKPOINT_PERIOD=20", f"--gin.TRAIN_STEPS={steps}"]
    seen, ended = _watched(forks.start([*flags, f"--gin.MODEL_DIR={tmp_path / 'model'}"]))
    _check(counts, "soak: train", "steps, a save every 20", steps, seen, ended)


def test_scoring(forks, counts, tmp_path):
    texts = 200_000 * SHARE // 100
    source = tmp_path / "documents"
    source.mkdir()
    for shard in range(20):
        lines = (
            json.dumps({"id": str(i), "text": f"{SENTENCES[i % 6]} {i} {SENTENCES[i % 5]}"}) + "\n"
            for i in range(shard * texts // 20, (shard + 1) * texts // 20)
        )
        (source / f"documents-{shard:05d}-of-00020.jsonl").write_text("".join(lines))
    flags = ["score", f"--gin.INPUT={source}", f"--gin.OUTPUT_DIR={tmp_path / 'scored'}"]
    seen, ended = _watched(forks.start(flags))
    _check(counts, "soak: score", "texts", texts, seen, ended)


def test_generating(forks, verbs, counts, tmp_path):
    prompts = 1000 * SHARE // 100
    rows = [
        {"id": str(i), "prompt": {"text": SENTENCES[i % 6][: 8 + i % 9]}} for i in range(prompts)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [
        "generate",
        f"--gin.INPUT={tmp_path / 'prompts.jsonl'}",
        f"--gin.CHECKPOINT_PATH={verbs.base()}",
        "--gin.NUM_SAMPLES=20",
        "--gin.MAX_NEW_TOKENS=20",
        "--gin.generate.generate.shard_size=50",
        f"--gin.OUTPUT_DIR={tmp_path / 'generated'}",
    ]
    seen, ended = _watched(forks.start(flags))
    _check(counts, "soak: generate", "continuations", prompts * 20, seen, ended)


@pytest.mark.parametrize("leak", MOST)
def test_a_leak_that_is_put_in_exceeds_the_bound(forks, leak):
    """Small ones: 20 MiB a second, two descriptors a second, two threads a second."""
    held = []

    def act():
        # The files, threads and memory of a child that does nothing else, for eight seconds.
        for _ in range(80):
            held.append(bytearray(os.urandom(1 << 20)) * 2 if leak == "rss_mib" else None)
            if leak == "descriptors" and len(held) % 5 == 0:
                held.append(open(os.devnull))
            if leak == "threads" and len(held) % 5 == 0:
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            time.sleep(0.1)

    seen, ended = _watched(forks.start(act))
    assert ended.status == 0, ended.errors
    grown = _growth(seen)
    assert [name for name, most in MOST.items() if grown[name] > most] == [leak]
