"""Scalars of a training in Weights & Biases: a stand-in, and itself where it is installed."""

import importlib.machinery
import sys
import types

import pytest
from etils import epath

from detox_jax.errors import UserError
from detox_jax.training import wandb_writer
from detox_jax.training.metric_log import MetricLog


class Refusal(Exception):
    """As wandb.errors.Error."""


@pytest.fixture
def runs(monkeypatch, no_tensorboard):
    """Plays wandb; the runs that were started, as lists of what happened to each."""
    started = []

    def init(*, project, group, name, **_):
        if project == "closed":
            raise Refusal("No API key\nconfigured")
        events = [("init", project, group, name)]
        started.append(events)
        return types.SimpleNamespace(
            define_metric=lambda *names, **named: events.append(("define", *names, named)),
            log=lambda values: events.append(("log", values)),
            finish=lambda: events.append(("finish",)),
        )

    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="stand-in")
    module.init, module.Settings = init, lambda **_: None
    module.errors = types.SimpleNamespace(Error=Refusal)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return started


def test_scalars_go_where_the_environment_says(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("DETOX_JAX_WANDB", "detox")
    log = MetricLog(epath.Path(tmp_path), 10)
    log.write(20, {"loss": 2.5, "bad": float("nan")})
    log.forget_after(10)
    log.write(20, {"loss": 2.0})
    log.close()
    assert runs == [
        [
            ("init", "detox", str(tmp_path), f"{tmp_path.name} from step 10"),
            ("define", "*", {"step_metric": "step"}),
            ("log", {"step": 20, "loss": 2.5}),
            ("log", {"step": 20, "loss": 2.0}),
            ("finish",),
        ]
    ]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 20, "loss": 2.0}\n'


def test_nothing_is_sent_unasked(runs, tmp_path, monkeypatch):
    monkeypatch.delenv("DETOX_JAX_WANDB", raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "another")
    log = MetricLog(epath.Path(tmp_path), 0)
    log.write(1, {"loss": 2.5})
    log.close()
    assert runs == []


def test_a_refusal_is_a_line(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("DETOX_JAX_WANDB", "closed")
    with pytest.raises(UserError, match="DETOX_JAX_WANDB=closed: No API key configured; `wandb"):
        MetricLog(epath.Path(tmp_path), 0)


def test_a_missing_library_is_a_line(monkeypatch):
    monkeypatch.setenv("DETOX_JAX_WANDB", "detox")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"needs wandb: pip install 'detox-jax\[wandb\]'"):
        wandb_writer.check()


def test_the_directory_of_its_runs_is_not_the_library(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("DETOX_JAX_WANDB", "detox")
    with pytest.raises(UserError, match="needs wandb"):
        wandb_writer.check()


def test_an_offline_run_is_read_back(tmp_path, monkeypatch, no_tensorboard):
    wandb = pytest.importorskip("wandb", reason="pip install 'detox-jax[wandb]'")
    from wandb.proto import wandb_internal_pb2

    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("DETOX_JAX_WANDB", "detox")
    log = MetricLog(epath.Path(tmp_path / "model"), 0)
    log._writers = log._writers[:1]
    (tmp_path / "model").mkdir()
    log.write(10, {"loss": 2.5})
    log.write(20, {"loss": 2.0})
    log.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows = []
    for data in _records(file.read_bytes()):
        items = wandb_internal_pb2.Record.FromString(data).history.item
        if items:
            rows.append({item.key or ".".join(item.nested_key): item.value_json for item in items})
    assert [(row["step"], row["loss"]) for row in rows] == [("10", "2.5"), ("20", "2")]
    assert wandb.run is None


def _records(data):
    """The records of a short `.wandb` file: one block of LevelDB's log behind seven bytes."""
    offset = 7
    while offset + 7 < len(data):
        length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        assert kind == 1, "a record in parts: the file is longer than a block"
        yield data[offset + 7 : offset + 7 + length]
        offset += 7 + length
