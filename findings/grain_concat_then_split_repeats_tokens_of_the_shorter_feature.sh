#!/usr/bin/env bash
# grain's concat-then-split packing repeats tokens of whichever feature of a text is the shorter one.
#
# Guess: ConcatThenSplitIterDataset of inputs and targets packs every token once: where a text does not fit, "the last
#   element ... will be split. The remainder of the split stays in the buffer."
# Seen (grain 0.2.18, numpy 2.4.6): right for one feature, and for features of one length. Where a text has been split
#   once and must be split again because of its longer feature, the shorter one is cut at its remaining length, counted
#   from its beginning. An answer of 10 tokens beside a prompt of 30, in rows of 8, comes as tokens 1 to 8, none,
#   3 to 8, 9 and 10. Of 2,000 pairs whose prompts have 10 to 100 tokens and whose answers have 5 to 50, in rows of 32,
#   a quarter of the answers' tokens come two or three times. Where the answers are the longer ones, the prompts are
#   repeated in the same way. No token is missing, and rows, segment ids and positions look as they should.
# Hurt: a sequence-to-sequence model (text to its clean paraphrase, prompt to answer) is trained and measured on pieces
#   of answers that begin anew within themselves; long prompts, whose answers are hit, count for more than others. Cut
#   such pairs to the rows' length before, and pack them whole (FirstFitPackIterDataset).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet grain==0.2.18 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib.metadata import version

import grain
import numpy as np
from grain.experimental import ConcatThenSplitIterDataset

print(*(f"{name} {version(name)}" for name in ("grain", "numpy")))


def packed(texts, length):
    source = grain.MapDataset.source(texts).to_iter_dataset()
    return list(ConcatThenSplitIterDataset(source, length_struct=dict.fromkeys(texts[0], length)))


def tokens(rows, feature):
    return np.concatenate([row[feature][row[f"{feature}_segment_ids"] > 0] for row in rows])


def counts(lengths, length):
    """How often each token of each feature is in the rows; all tokens are different numbers."""
    starts = {feature: np.cumsum([0, *sizes]) for feature, sizes in lengths.items()}
    texts = [
        {feature: np.arange(starts[feature][row], starts[feature][row + 1]) for feature in lengths}
        for row in range(len(starts["inputs"]) - 1)
    ]
    rows = packed(texts, length)
    return {feature: np.bincount(tokens(rows, feature), minlength=starts[feature][-1]) for feature in lengths}


one = {"inputs": np.arange(1, 31), "targets": np.arange(1, 11)}
pieces = [row["targets"][row["targets_segment_ids"] > 0].tolist() for row in packed([one], 8)]
print("an answer of 10 tokens beside a prompt of 30, in rows of 8:", pieces)
assert pieces == [[1, 2, 3, 4, 5, 6, 7, 8], [], [3, 4, 5, 6, 7, 8], [9, 10]], "no longer so"

draw = np.random.default_rng(0)
prompts, answers = draw.integers(10, 101, 2000), draw.integers(5, 51, 2000)
for name, lengths in (
    ("prompts alone", {"inputs": prompts}),
    ("answers as long as their prompts", {"inputs": prompts, "targets": prompts}),
    ("shorter answers", {"inputs": prompts, "targets": answers}),
    ("shorter prompts", {"inputs": answers, "targets": prompts}),
):
    seen = counts(lengths, 32)
    print(
        f"{name}:",
        *(
            f"{(times > 1).mean():.1%} of {feature} more than once, up to {times.max()} times;"
            for feature, times in seen.items()
        ),
    )
    assert all(times.min() == 1 for times in seen.values())
    if "shorter" in name:
        hit = seen["targets" if name == "shorter answers" else "inputs"]
        assert (hit > 1).mean() > 0.2 and hit.max() > 2, "no longer so"
    else:
        assert all((times == 1).all() for times in seen.values())
P
