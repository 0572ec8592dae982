"""Which files are which split: as `datasets` 5.2.0 resolved each of these directories."""

import pytest

from detox_jax.errors import UserError
from detox_jax.formats import data_layout

NAMES = [
    (["train.jsonl", "test.jsonl"], {"train": ["train.jsonl"], "test": ["test.jsonl"]}),
    (
        ["data/train-00000-of-00001.parquet", "data/heldout-00000-of-00001-ab.parquet"],
        {
            "heldout": ["data/heldout-00000-of-00001-ab.parquet"],
            "train": ["data/train-00000-of-00001.parquet"],
        },
    ),
    (["data/train-00000-of-00001.csv", "x/test.csv"], {"train": ["data/train-00000-of-00001.csv"]}),
    (["train/x.csv", "dev/y.csv"], {"train": ["train/x.csv"], "validation": ["dev/y.csv"]}),
    # Directories go before names of files.
    (["train/b.csv", "train/test.csv"], {"train": ["train/b.csv", "train/test.csv"]}),
    (["test/train.csv", "x.csv"], {"test": ["test/train.csv"]}),
    (["x.csv", "y.csv"], {"train": ["x.csv", "y.csv"]}),
    (
        ["my_train_file.csv", "valid.csv"],
        {"train": ["my_train_file.csv"], "validation": ["valid.csv"]},
    ),
    (["sub/trainer.csv", "sub/testing2.csv"], {"test": ["sub/testing2.csv"]}),
    (["contest.csv", "train2.csv"], {"train": ["train2.csv"]}),
    (["TRAIN.csv", "test.csv"], {"test": ["test.csv"]}),
    (["a/__x/train.csv", ".h/train.csv", "_y/test.csv", "z.csv"], {"test": ["_y/test.csv"]}),
    (["train.csv.gz", "test.csv"], {"train": ["train.csv.gz"], "test": ["test.csv"]}),
    (["README.md", "LICENSE.txt", "prompts.jsonl"], {"train": ["prompts.jsonl"]}),
]


@pytest.mark.parametrize(("names", "splits"), NAMES)
def test_names_say_the_split(names, splits):
    assert data_layout.splits(names, "", None, "d") == splits
    assert data_layout.splits(names[::-1], "# No head\n", "default", "d") == splits


def _head(configs):
    return f"---\nlicense: mit\nconfigs:\n{configs}---\n# Words\n"


TWO = _head(
    "- config_name: en\n  data_files:\n  - split: train\n    path: en/*.csv\n"
    "- config_name: de\n  data_files: de/x.csv\n"
)


@pytest.mark.parametrize(
    ("readme", "config", "names", "splits"),
    [
        (TWO, "en", ["en/a.csv", "en/b.csv", "en/c/d.csv"], {"train": ["en/a.csv", "en/b.csv"]}),
        (TWO, "de", ["de/x.csv"], {"train": ["de/x.csv"]}),
        (
            TWO.replace("config_name: de", "default: true\n  config_name: de"),
            None,
            ["de/x.csv"],
            {"train": ["de/x.csv"]},
        ),
        (
            _head("- config_name: default\n  data_dir: sub\n"),
            None,
            ["a.csv", "sub/test.csv", "sub/train.csv"],
            {"train": ["sub/train.csv"], "test": ["sub/test.csv"]},
        ),
        (
            _head("- data_files:\n  - split: foo\n    path: ['**/*.csv']\n"),
            None,
            ["a.csv", "b/c/d.csv"],
            {"foo": ["a.csv", "b/c/d.csv"]},
        ),
        (
            _head("- data_files: 'a[0-1].csv'\n  config_name: x\n"),
            None,
            ["a0.csv", "a1.csv", "a2.csv"],
            {"train": ["a0.csv", "a1.csv"]},
        ),
        # The branch of Parquet that the hub makes of every data set.
        (
            "",
            None,
            ["default/test/0000.parquet", "default/train/0000.parquet"],
            {"test": ["default/test/0000.parquet"], "train": ["default/train/0000.parquet"]},
        ),
        (
            "",
            "b",
            ["a/train/0000.parquet", "b/train/0000.parquet", "b/train/0001.parquet"],
            {"train": ["b/train/0000.parquet", "b/train/0001.parquet"]},
        ),
    ],
)
def test_a_readme_and_converted_parquet_say_it(readme, config, names, splits):
    assert data_layout.splits(names, readme, config, "d") == splits


@pytest.mark.parametrize(
    ("names", "readme", "config", "message"),
    [
        (["script.py", "README.md"], "", None, "d: holds no data that can be read (JSON Lines, "),
        (["a.csv"], "", "en", "d: no configuration 'en'; its README.md declares none"),
        (["en/a.csv"], TWO, None, "d: has several configurations; name one of en, de with #config"),
        (["en/a.csv"], TWO, "fr", "d: no configuration 'fr'; name one of en, de"),
        (["x.csv"], TWO, "de", "d: README.md names files for the split 'train' that are not there"),
        (["a.csv"], "---\nconfigs: [\n---\n", None, "d: README.md: the YAML at its head is"),
        (
            ["data/train-00001-of-00003.csv", "data/train-00002-of-00003.csv"],
            "",
            None,
            "d: data/train-00000-of-00003 is missing",
        ),
    ],
)
def test_what_names_no_files_is_one_line(names, readme, config, message):
    with pytest.raises(UserError) as error:
        data_layout.splits(names, readme, config, "d")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_name_is_itself_before_it_is_a_pattern():
    names = ["d[1].jsonl", "d1.jsonl"]
    assert data_layout.matching(names, "d[1].jsonl") == ["d[1].jsonl"]
    assert data_layout.matching(names[1:], "d[1].jsonl") == ["d1.jsonl"]
