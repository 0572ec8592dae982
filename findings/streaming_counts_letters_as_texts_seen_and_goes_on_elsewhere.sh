#!/usr/bin/env bash
# MosaicML's StreamingDataLoader sizes a batch by its first piece: resumed, it leaves texts out or repeats them.
#
# Guess: "it works exactly like a normal PyTorch DataLoader", and state_dict() behind three batches of eight says that
#   24 samples were seen, so that load_state_dict() goes on with the 25th, whatever collate_fn makes of the samples.
# Seen (mosaicml-streaming 0.13.0, torch 2.13.0): a batch's size is the length of its first column, or of its first
#   element where it is no dict. A list of eight texts counts as many samples as its first text has letters: of 64
#   texts of 15 to 19 letters it goes on with the 50th, and 25 never come. (Only past the set's end it refuses.) A list
#   of eight rows counts their columns (3). PyTorch's own collate function is no way out: it turns a column of lists
#   ("json", three labels a text) over, into three tensors of eight, and where that column is the first of the alphabet
#   each batch counts 3: the run goes on at the 10th and sees 15 texts again. The first column a number or a str is
#   right.
# Hurt: a training on text that stops and goes on, once or at each preemption, never sees a part of its texts, sees
#   others twice, and nothing shows it; losses look as before. Look at "sample_in_epoch" in the state behind a batch.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
# Clients of cloud storage, which streaming asks for too, are left out.
"$work/venv/bin/pip" install --quiet numpy==2.1.3 transformers==4.57.6 brotli==1.2.0 python-snappy==0.7.3 \
  xxhash==3.8.2 zstd==1.5.7.2 catalogue==2.0.10 pillow==13.0.0 matplotlib==3.11.2 tqdm==4.70.1
"$work/venv/bin/pip" install --quiet --no-deps mosaicml-streaming==0.13.0
cd "$work"
# Its part for pictures, which is imported with the rest and not used here, needs these two names of torchvision.
mkdir -p torchvision/transforms
touch torchvision/__init__.py torchvision/transforms/__init__.py
echo "class VisionDataset: ..." >torchvision/datasets.py
echo "def to_tensor(picture): ..." >torchvision/transforms/functional.py
PYTHONPATH=. "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

print(*(f"{name} {metadata.version(name)}" for name in ("mosaicml-streaming", "torch")))


def write(out, columns):
    with MDSWriter(out=out, columns=columns) as writer:
        for i in range(64):
            row = {"labels": [0, int(i % 9 == 0), 0], "number": i, "text": f"text number {i:02} {'x' * (i % 5)}"}
            writer.write({name: row[name] for name in columns})


write("texts", {"labels": "json", "number": "int", "text": "str"})
write("numbers", {"number": "int", "text": "str"})


def numbers(batch):
    rows = batch["text"] if isinstance(batch, dict) else batch
    return [int((row["text"] if isinstance(row, dict) else row).split()[2]) for row in rows]


def resumed(out, collate_fn=None):
    """What the state says behind three batches of eight, and the texts that come behind a resumption with it."""
    sets = [StreamingDataset(local=out, batch_size=8, shuffle=False) for _ in range(2)]
    loaders = [StreamingDataLoader(data, batch_size=8, collate_fn=collate_fn) for data in sets]
    seen = []
    for batch in loaders[0]:
        seen += numbers(batch)
        if len(seen) == 24:
            state = loaders[0].state_dict()
            break
    assert seen == list(range(24))
    loaders[1].load_state_dict(state)
    return state["sample_in_epoch"], [number for batch in loaders[1] for number in numbers(batch)]


def only_texts(rows):
    return [row["text"] for row in rows]


results = {
    "columns number, text": resumed("numbers"),
    "columns labels, number, text": resumed("texts"),
    "a list of rows": resumed("texts", list),
    "a list of texts": resumed("texts", only_texts),
}
for name, (count, rest) in results.items():
    again, never = len([i for i in rest if i < 24]), len(set(range(24, 64)) - set(rest))
    print(f"{name}: {count} of 24 samples seen; behind the resumption {again} texts come again, {never} never come")
first, columns, rows, texts = results.values()
assert first == (24, list(range(24, 64)))
assert columns == rows == (9, list(range(9, 64))), "no longer so"
assert texts == (49, list(range(49, 64))), "no longer so"
print("as found")
P
