"""Data sets of the hub by name: huggingface_hub itself, against a stand-in on loopback."""

import io
import json
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from detox_jax.errors import UserError
from detox_jax.formats import hub_data
from tests.formats import hub_stand_in
from tests.formats.hub_stand_in import COMMIT

RTP = "allenai/real-toxicity-prompts"
RECORDS = [
    {
        "filename": f"{i:07d}.txt",
        "begin": 340,
        "end": 564,
        "challenging": bool(i),
        "prompt": {"text": f"So I'm starting {i}", "toxicity": 0.1 * i, "profanity": None},
        "continuation": {"text": " to think", "toxicity": None, "profanity": 0.2},
    }
    for i in range(3)
]


def _parquet(**columns):
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


# The hub's own layout of RealToxicityPrompts: one file of JSON Lines, which is the split train.
REPOSITORIES = {
    RTP: {
        ".gitattributes": b"*.jsonl filter=lfs\n",
        "README.md": b"---\nlicense: apache-2.0\npretty_name: Real Toxicity Prompts\n---\n",
        "prompts.jsonl": b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS),
    },
    "owner/parquet": {
        "README.md": b"",
        "data/train-00000-of-00002.parquet": _parquet(content=["a", "b"]),
        "data/train-00001-of-00002.parquet": _parquet(content=["c"]),
        "data/test-00000-of-00001.parquet": _parquet(content=["d"]),
    },
    "owner/script": {"README.md": b"", "script.py": b""},
}
PROGRAM = """
import json, sys
from detox_jax import errors, records
for source in sys.argv[1:]:
    try:
        said = records.describe_input(source)
        found = [[r.id, r.text] for r in records.read_records(source)]
        print(json.dumps([said["path"], said.get("fields"), found]))
    except errors.UserError as error:
        print(json.dumps(str(error)))
"""


def _run(sources, cache, **variables):
    """In a process of its own: the hub's library reads its variables when it is imported."""
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), **variables}
    environment |= {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ["PYTHONPATH"]])}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *sources], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What reading each source said: with the hub, then without it from the cache."""
    cache = tmp_path_factory.mktemp("hub")
    sources = [
        f"{RTP}#split=train",
        f"{RTP}@v1",
        f"hf://datasets/{RTP}@{COMMIT}/*.jsonl",
        "owner/parquet#split=train,text=content",
        "owner/parquet#text=content",
        f"{RTP}@nope",
        "owner/nosuch",
        "owner/script",
        f"hf://datasets/{RTP}/other.jsonl",
    ]
    with hub_stand_in.serving(REPOSITORIES) as (address, asked):
        online = _run(sources, cache, HF_ENDPOINT=address)
    offline = _run(
        [*sources[:3], "owner/parquet#split=test", "owner/nosuch"], cache, HF_HUB_OFFLINE="1"
    )
    gone = _run(sources[:1], cache, HF_ENDPOINT=address)
    return online, offline, gone, asked


PROMPTS = [[f"{i:07d}.txt-340-564", f"So I'm starting {i}"] for i in range(3)]


def test_prompts_by_their_published_name_are_pinned_to_a_commit(said):
    online, _, _, asked = said
    whole = f"hf://datasets/{RTP}@{COMMIT}"
    assert online[0] == [f"{whole}#split=train", None, PROMPTS]
    assert online[1] == [whole, None, PROMPTS]
    assert online[2] == [f"{whole}/*.jsonl", None, PROMPTS]
    # What is no part of the data is not fetched, and nothing is fetched twice.
    fetched = [line for line in asked if line.startswith("GET /datasets/")]
    assert len(fetched) == len(set(fetched)) and not any("gitattributes" in f for f in fetched)


def test_a_split_of_parquet_is_read_in_the_order_of_its_shards(said):
    path, fields, found = said[0][3]
    assert path == f"hf://datasets/owner/parquet@{COMMIT}#split=train,text=content"
    assert fields == {"text": "content"} and [text for _, text in found] == ["a", "b", "c"]
    assert not any("test-00000" in line for line in said[3])


def test_refusals_are_one_line(said):
    several, revision, unknown, script, file = said[0][4:]
    assert several == (
        "owner/parquet#text=content: has several splits; name one of test, train with #split=NAME"
    )
    assert revision == f"{RTP} at revision 'nope': the hub has no such revision"
    assert unknown.startswith("owner/nosuch: neither a file here nor a data set of the hub")
    assert script.startswith("owner/script: holds no data that can be read")
    assert file.endswith("other.jsonl: the data set holds no such file")


def test_without_the_hub_the_cache_is_read(said):
    online, offline, gone, _ = said
    assert offline[:3] == online[:3] and gone == online[:1]
    # Of the cache's half of a data set, the other half is missing, not empty.
    assert "no split 'test'" in offline[3]
    assert offline[4].startswith("owner/nosuch: neither a file here nor in the hub's cache")


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("owner/name", hub_data.Address("owner/name", None, "")),
        ("owner/name@v1.0", hub_data.Address("owner/name", "v1.0", "")),
        (
            "owner/name@refs/convert/parquet",
            hub_data.Address("owner/name", "refs/convert/parquet", ""),
        ),
        ("hf://datasets/imdb", hub_data.Address("imdb", None, "")),
        (
            "hf://datasets/o/n@refs%2Fpr%2F7/a/b.csv",
            hub_data.Address("o/n", "refs/pr/7", "a/b.csv"),
        ),
        ("hf://datasets/o/n/a/*.csv", hub_data.Address("o/n", None, "a/*.csv")),
        ("imdb", None),
        ("./owner/name", None),
        ("/owner/name", None),
        ("a/b/c", None),
        ("tests/nosuch", None),  # A directory of that name is here.
        ("owner/*.jsonl", None),
        ("gs://owner/name", None),
    ],
)
def test_what_names_a_data_set(source, address):
    assert hub_data.address(source) == address


@pytest.mark.parametrize("source", ["hf://models/o/n", "hf://o/n", "hf:o/n", "hf://datasets/"])
def test_other_addresses_of_the_hub_are_refused(source):
    with pytest.raises(UserError, match="expected hf://datasets/OWNER/NAME"):
        hub_data.address(source)
