"""The plan of steps: states, sizes, and a disk without room."""

import dataclasses
import json
import shutil
from collections import namedtuple

import pytest
from etils import epath

from detox_jax import outputs, preview
from detox_jax.errors import UserError
from detox_jax.generation.decoding import Decoding
from detox_jax.generation.steering import steering
from detox_jax.generation.steering.contrast import PrefixContrast
from detox_jax.generation.steering.experts import Experts
from detox_jax.method.corpus import Corpus
from detox_jax.method.method import Method
from detox_jax.method.run_preview import RunPreview
from detox_jax.models.adaptation import LoRAConfig
from detox_jax.preview import Step

Usage = namedtuple("Usage", "total used free")

RUN = epath.Path("run")


def test_states_are_those_of_the_manifest(tmp_path):
    path = str(tmp_path / "out")
    assert Step("score", path).state == preview.TO_DO
    output = outputs.OutputDirectory(path, "score", {"a": 1})
    assert Step("score", path).state == preview.BEGUN and not preview.is_done(path)
    output.finish()
    assert Step("score", path).state == preview.DONE and preview.is_done(path)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (999, "999 B"),
        (1000, "1 KB"),
        (1_536_000, "1.54 MB"),
        (3e12, "3 TB"),
        (999_600, "1 MB"),
        (999_400, "999 KB"),
    ],
)
def test_sizes_are_readable(size, text):
    assert preview.readable(size) == text


def test_the_plan_is_comments(tmp_path):
    steps = [Step("train", str(tmp_path / "a"), {"updates": 2000}, 5000), Step("score", "b")]
    lines = preview.lines(steps).splitlines()
    assert lines[0] == "# plan: 2 steps, 0 of them done, about 5 KB to write"
    assert lines[1].endswith("a  2,000 updates, about 5 KB")
    assert all(line.startswith("#") for line in lines)


def test_a_disk_without_room_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, 1500))
    steps = [Step("train", str(tmp_path / name), needs=1000) for name in ("a", "b")]
    preview.check_room(steps[:1])
    with pytest.raises(UserError, match=r"b: its disk has 1.5 KB free, and checkpoints take 2 KB"):
        preview.check_room(steps)
    preview.check_room([Step("train", "gs://bucket/a", needs=10**15)])
    # A third step beside two, while it is saved; what a step before took for a while it gave back.
    saving = [dataclasses.replace(step, needs=500, needs_a_while=500) for step in steps]
    preview.check_room(saving)
    with pytest.raises(UserError, match=r"a: its disk has 1.5 KB free, and checkpoints take 2 KB"):
        preview.check_room([dataclasses.replace(saving[0], needs_a_while=1500)])
    output = outputs.OutputDirectory(str(tmp_path / "a"), "train", {})
    output.finish()
    preview.check_room(steps)


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for place, said in (
        ("file", "is a file"),
        ("file/below", "cannot be written"),
        ("link", "link: cannot be written: .*/link is a link to nowhere, which is not there; make"),
        ("link/below", "cannot be written: .*/link is a link to nowhere"),
    ):
        with pytest.raises(UserError, match=said):
            preview.checked_output(str(tmp_path / place))
    preview.checked_output(str(tmp_path / "new" / "below"))
    with pytest.raises(UserError, match="the directory to write to is empty"):
        preview.checked_output("")
    for address in ("file:///tmp/out", "s3://bucket/out", "hf://OWNER/NAME", "tfds://x"):
        with pytest.raises(UserError, match=f"^{address}: such an address is neither read nor"):
            preview.checked_output(address)
    preview.checked_output("gs://bucket/out")


def test_an_output_is_not_put_in_the_output_of_another_verb(tmp_path):
    """A model's directory as a run's own, or around another model, passed all checks."""
    model = tmp_path / "base"
    (model / "begun").mkdir(parents=True)
    (model / "begun" / "config.gin").touch()
    (model / "empty").mkdir()
    (tmp_path / "link").symlink_to(model)
    preview.checked_root(str(model))
    manifest = {"schema_version": 1, "verb": "train", "complete": True, "settings": {}}
    (model / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"^{model}: holds the output of `train`; choose another"):
        preview.checked_root(str(model))
    preview.checked_output(str(model))  # of the same verb, which goes on there
    for checked in (preview.checked_root, preview.checked_output):
        for place in ("base/new/run", "base/empty", "link/new"):
            said = f"{place}: lies in {model}, which holds the output of `train`; choose"
            with pytest.raises(UserError, match=said):
                checked(str(tmp_path / place))
        for place in ("base/begun", "base/../run", "run"):
            checked(str(tmp_path / place))


def test_a_large_input_is_checked_in_its_first_records_and_one_that_comes_late_to_its_end(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(preview, "LARGE", 10)
    file = epath.Path(tmp_path / "documents.jsonl")
    file.write_text("x" * 11)
    assert preview.to_check(str(file), [file]) == preview.FIRST
    assert preview.to_check(preview.Late(str(file)), [file]) is None
    file.write_text("x" * 10)
    assert preview.to_check(str(file), [file]) is None


def test_a_users_documents_come_late_in_a_run_of_many_steps(tmp_path):
    run = RunPreview(epath.Path(tmp_path), epath.Path(tmp_path), {}, [], [], {}, {"prepare": None})
    assert isinstance(run._documents(Corpus(documents="comments.jsonl")), preview.Late)


def test_what_steers_a_row_is_there_or_is_made_by_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = {
        "anti": Method(corpus="toxic"),
        "experts": Method(decoding={"steering": [Experts(expert="mine", anti="run/models/anti")]}),
        "less": Method(terms={"anti": -0.5}),
        "sum": Method(decoding={"steering": [Experts(expert="run/models/less")]}),
    }
    given = {"decoding": Decoding(), "prepare": None, "initial_checkpoint_path": "base"}
    run = RunPreview(RUN, RUN, methods, [*methods], [], {}, given)
    [experts] = run._decoding("experts").steering
    assert isinstance(experts.anti, preview.Coming)
    assert run._decoding("base").steering == []
    assert isinstance(run._decoding("sum").steering[0].expert, preview.Coming)
    with pytest.raises(UserError, match="STEERING Experts.expert: mine: no such file"):
        steering.check_files([experts])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.json").write_text("{}")
    steering.check_files([experts])
    with pytest.raises(UserError, match="Experts.anti: run/models/anti: no such file"):
        steering.check_files(methods["experts"].decoding["steering"])


def test_the_base_that_a_run_trains_is_one_of_the_files_to_come(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = {
        "anti": Method(corpus="toxic", adaptation=LoRAConfig()),
        "row": Method(
            corpus="kept",
            decoding={"steering": [Experts(anti="run/models/anti", base="run/base")]},
        ),
        "named": Method(decoding={"steering": [Experts(anti="anti", base="base")]}),
    }
    given = {"decoding": Decoding(), "prepare": print, "initial_checkpoint_path": None}
    run = RunPreview(RUN, RUN, methods, [*methods], [], {}, given)
    [experts] = run._decoding("row").steering
    assert isinstance(experts.base, preview.Coming) and isinstance(experts.anti, preview.Coming)
    assert run._decoding("named").steering == [experts]


@pytest.mark.parametrize(
    ("row", "experts", "message"),
    [
        (Method(), Experts(anti="run/models/anti"), None),
        (Method(start="anti"), Experts(anti="run/models/anti"), None),
        (Method(corpus="kept"), Experts(anti="run/models/anti", base="base"), None),
        (Method(corpus="kept"), Experts(anti="run/models/whole-anti"), None),
        (Method(corpus="kept"), Experts(anti="anti", base="base"), None),
        (
            Method(corpus="kept"),
            Experts(anti="anti"),
            "Experts.anti 'anti' is an adaptation of base, but it is taken for one of run/models",
        ),
        (
            Method(corpus="kept"),
            Experts(anti="run/models/anti"),
            "method 'row': Experts.anti 'anti' is an adaptation of base, but it is taken for one "
            "of run/models/row; set Experts.base to that",
        ),
        (
            Method(),
            Experts(anti="run/models/anti", base="run/models/whole-anti"),
            "is taken for one of run/models/whole-anti",
        ),
        (
            Method(corpus="kept"),
            PrefixContrast(prefix="run/models/anti"),
            "PrefixContrast.prefix 'anti' is an adaptation of base, but it .* run/models/row$",
        ),
    ],
)
def test_an_adaptation_that_the_run_trains_steers_its_own_base(
    row, experts, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    row = dataclasses.replace(row, decoding={"steering": [experts]})
    methods = {
        "anti": Method(corpus="toxic", adaptation=LoRAConfig()),
        "whole-anti": Method(corpus="toxic"),
        "row": row,
    }
    given = {"decoding": Decoding(), "prepare": None, "initial_checkpoint_path": "base"}
    run = RunPreview(RUN, RUN, methods, [*methods], [], {}, given)
    if message is None:
        assert run._decoding("row").steering
    else:
        with pytest.raises(UserError, match=message):
            run._decoding("row")
