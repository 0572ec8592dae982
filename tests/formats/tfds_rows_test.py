"""TFDS: what it prepared, by directory and by name, read without TensorFlow."""

import json
import os
import struct
import subprocess
import sys

import google_crc32c
import pytest
from etils import epath

from detox_jax import sources
from detox_jax.errors import UserError
from detox_jax.formats import tfds_rows

EXAMPLES = [
    {
        "filename": f"{i}.txt",
        "begin": 3,
        "end": 9,
        "prompt": {"text": f"é {i}", "toxicity": 0.5 if i else float("nan")},
        "label": i % 2,
        "tags": ["x"] * i,
    }
    for i in range(3)
]


def _checksum(content):
    value = google_crc32c.value(content)
    rotated = ((value >> 15) | (value << 17)) + 0xA282EAD8
    return struct.pack("<I", rotated & 0xFFFFFFFF)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set of one shard a split, as TFDS 4.9 lays it out."""
    import numpy as np
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    path = root / "made" / "1.0.0"
    path.mkdir(parents=True)
    text = tfds.features.Text()
    features = tfds.features.FeaturesDict(
        {
            **{"filename": text, "begin": np.int32, "end": np.int32},
            "prompt": {"text": text, "toxicity": np.float32},
            "label": tfds.features.ClassLabel(names=["calm", "rude"]),
            "tags": tfds.features.Sequence(text),
        }
    )
    features.save_config(path)
    splits = []
    for split, examples in [("train", EXAMPLES), ("test", EXAMPLES[:1])]:
        contents = [features.serialize_example(features.encode_example(e)) for e in examples]
        parts = []
        for content in contents:
            length = struct.pack("<Q", len(content))
            parts += [length, _checksum(length), content, _checksum(content)]
        (path / f"made-{split}.tfrecord-00000-of-00001").write_bytes(b"".join(parts))
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        lengths = {"shardLengths": [str(len(examples))], "numBytes": "1"}
        splits.append({"name": split, "filepathTemplate": template, **lengths})
    info = {"fileFormat": "tfrecord", "name": "made", "splits": splits, "version": "1.0.0"}
    (path / "dataset_info.json").write_text(json.dumps(info))
    return path


def _rows(source):
    opened = sources.resolve(source)
    return [row for file in opened.files for _, row in opened.rows(file)]


def test_examples_are_read_as_json_has_them(prepared):
    rows = _rows(f"{prepared}#split=train")
    assert [row["prompt"] for row in rows] == [
        {"text": "é 0", "toxicity": None},
        {"text": "é 1", "toxicity": 0.5},
        {"text": "é 2", "toxicity": 0.5},
    ]
    assert [row["label"] for row in rows] == ["calm", "rude", "calm"]
    assert [row["tags"] for row in rows] == [[], ["x"], ["x", "x"]]
    assert json.loads(json.dumps(rows)) == rows
    with pytest.raises(UserError, match="several splits; name one of train, test with #split=NAME"):
        _rows(str(prepared))


def test_a_name_means_its_prepared_version_and_loads_no_tensorflow(prepared):
    program = (
        "import sys\nfrom detox_jax import errors, records\n"
        "said = records.describe_input('tfds://made#split=test')\n"
        "print(said['path'], [r.id for r in records.read_prompts('tfds://made#split=test')])\n"
        "try:\n    records.resolve_files('tfds://made:2.0.0')\n"
        "except errors.UserError as error:\n    print(error)\n"
        "print('tensorflow' in sys.modules)\n"
    )
    environment = {**os.environ, "TFDS_DATA_DIR": str(prepared.parents[1])}
    environment |= {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ["PYTHONPATH"]])}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.stdout.splitlines() == [
        "tfds://made/1.0.0#split=test ['0.txt-3-9']",
        "tfds://made:2.0.0: TFDS does not give it: Dataset made not found.",
        "False",
    ], ended.stderr


def test_a_damaged_file_is_named_by_its_example(prepared, tmp_path):
    for name in ("features.json", "label.labels.txt"):
        (tmp_path / name).write_bytes((prepared / name).read_bytes())
    whole = (prepared / "made-train.tfrecord-00000-of-00001").read_bytes()
    file = epath.Path(tmp_path / "d.tfrecord")
    (first,) = struct.unpack_from("<Q", whole)
    for content, number in [
        (whole[:-1], 3),
        (whole[: first + 20], 2),
        (whole[:20] + b"\0" + whole[21:], 1),
        (b"\xff" + whole[1:], 1),
    ]:
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"d.tfrecord:{number}: damaged or cut short"):
            list(tfds_rows.rows(file))


def test_another_format_of_tfds_is_refused(prepared, tmp_path):
    info = json.loads((prepared / "dataset_info.json").read_text())
    (tmp_path / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "array_record"}))
    (tmp_path / "features.json").write_bytes((prepared / "features.json").read_bytes())
    (tmp_path / "label.labels.txt").write_bytes((prepared / "label.labels.txt").read_bytes())
    with pytest.raises(UserError, match="only TFDS's format tfrecord is read"):
        tfds_rows.splits(epath.Path(tmp_path))


def test_tfds_finds_what_it_needs_to_prepare_a_data_set():
    """It imports importlib_resources for that, and asks for it on Pythons below 3.9 alone."""
    tfds = pytest.importorskip("tensorflow_datasets")
    assert str(tfds.builder_cls("piqa").code_path).endswith("piqa_dataset_builder.py")
