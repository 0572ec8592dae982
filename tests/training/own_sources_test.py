"""Sources of the user's own: what decides their examples is in the data's identity."""

import functools

import pytest
import seqio

from detox_jax import output_settings
from detox_jax.errors import Unavailable
from detox_jax.training import own_sources, seqio_tasks
from tasks.vocabularies import SeqioBPEVocabulary


def read(path, split, shuffle_files=False, seed=None, least=0.5):
    raise AssertionError("nothing is read")


def cut(dataset, most):
    return dataset


class Source:
    """Without a `__str__`, so that its address stands in its `repr`."""

    def __init__(self, path, weights=(1, 2)):
        self.path, self.weights, self._rows = path, weights, None

    def list_shards(self, split):
        raise NotImplementedError


def described(source, *steps):
    return own_sources.describe(source, steps, "train")


def function(function):
    return seqio.FunctionDataSource(function, ["train"])


def test_a_function_by_its_arguments():
    def reader(path, split, shuffle_files=False, seed=None):
        return functools.partial(read, path)(split)

    one, other = (function(functools.partial(read, path, least=0.5)) for path in ("a", "b"))
    assert described(one) != described(other)
    said = [f"function={__name__}.read(False, 0.5)('a', least=0.5)"]
    assert described(one)["made_with"] == said
    assert described(function(functools.partial(read, "a", least=0.7))) != described(one)

    def around(path):
        return lambda split, shuffle_files, seed=None: reader(path, split)

    assert described(function(around("a"))) == described(function(around("a")))
    assert described(function(around("a"))) != described(function(around("b")))


def test_a_slice_of_tfds():
    tenth, rest = (
        seqio.TfdsDataSource("a:1.0.0", splits={"train": part})
        for part in ("train[:10%]", "train[10%:]")
    )
    assert str(tenth) == str(rest) and described(tenth) != described(rest)


def test_a_source_without_a_name_is_the_same_in_each_process():
    one = described(Source("a"))
    assert one == described(Source("a")) and " at 0x" not in str(one)
    assert one["made_with"] == ["path='a'", "weights=(1, 2)"]
    for other in (Source("b"), Source("a", (1, 3))):
        assert not output_settings.agree(one, described(other))
    read_since = Source("a")
    read_since._rows = ["a text"] * 1000
    assert described(read_since) == one


def test_preprocessors_with_their_arguments():
    steps = [functools.partial(cut, most=most) for most in (5, 6)]
    first, second = (described(Source("a"), step) for step in steps)
    assert first["preprocessors"] == [f"{__name__}.cut(most=5)"] and first != second


def test_files_by_their_content(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.write_text("one\n")
    sources = [
        function(functools.partial(read, str(file))),
        seqio.TextLineDataSource({"train": f"{tmp_path}/*.txt", "validation": "none"}),
        Source([file]),
    ]
    before = [described(source) for source in sources]
    assert [(one["files"], one["bytes"]) for one in before] == [(1, 4)] * 3
    file.write_text("two\n")
    for source, one in zip(sources, before, strict=True):
        assert described(source) == {**one, "sha256": described(source)["sha256"]} != one
    monkeypatch.setattr(own_sources, "_HASHED", 3)  # Of more, the size alone.
    assert "sha256" not in described(sources[0]) and described(sources[0])["bytes"] == 4
    for name in ("https://host/a.txt", "a\0", "a" * 2000, "", f"{tmp_path}/none/*.txt"):
        assert "files" not in described(Source(name))


def test_files_in_directories_below(tmp_path):
    for name in ("a.txt", "one/b.txt", "one/two/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\n")
    for pattern, files in (("**/*.txt", 3), ("**", 3), ("*/b.txt", 1), ("*/*/*.txt", 1)):
        source = function(functools.partial(read, f"{tmp_path}/{pattern}"))
        assert described(source)["files"] == files, pattern
    assert "files" not in described(Source("gs://bucket/**/*.txt"))  # Which is not asked.


@pytest.mark.parametrize("text", ["*.txt", "./*.txt", "**", "**/*.txt", "/*", "**Question** {q}"])
def test_a_pattern_without_a_directory_is_of_no_files(text, tmp_path, monkeypatch):
    """Where a run begins lies its own log."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.txt").write_text("step 1\n")
    assert "files" not in described(Source(text))


def test_where_the_storage_fails_is_said(monkeypatch):
    def fails(self, split):
        raise Unavailable("gs://bucket: no answer")

    monkeypatch.setattr(Source, "list_shards", fails)
    with pytest.raises(Unavailable):
        described(Source("a"))


def test_a_source_may_say_it_itself(vocabulary_path):
    source = function(functools.partial(read, "a"))
    ids = seqio.Feature(SeqioBPEVocabulary(vocabulary_path))
    task = seqio.Task("t", source, {"targets": ids}, [cut])
    assert seqio_tasks.describe_source(task, "train") == described(source, cut)
    source.describe = lambda split: {"version": 3}
    assert seqio_tasks.describe_source(task, "train") == {"version": 3}
