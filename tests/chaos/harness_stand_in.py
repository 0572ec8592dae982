"""A stand-in for lm-evaluation-harness where it is not installed: it asks the model the same kinds.

Kills, full disks and second runs are about what `lm_eval` writes between the harness's answers, for
which two requests a task do. Its tasks are the files `NAME.yaml` of INCLUDE_PATH; what they say is
the harness's own, and not read here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

_VERSION = "stand-in"


def install() -> None:
    """Puts it into this process, where the harness is not installed."""
    if "lm_eval" in sys.modules or importlib.util.find_spec("lm_eval") is not None:
        return
    harness, api, model, tasks = (
        types.ModuleType(name)
        for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model", "lm_eval.tasks")
    )
    model.__dict__["TemplateLM"] = _Model
    tasks.__dict__["TaskManager"] = _Tasks
    api.__dict__["model"] = model
    harness.__dict__.update(api=api, tasks=tasks, simple_evaluate=_evaluate)
    sys.modules.update({module.__name__: module for module in (harness, api, model, tasks)})
    real = importlib.metadata.version
    importlib.metadata.version = lambda name: _VERSION if name == "lm_eval" else real(name)


class _Model:
    def __init__(self):
        self.cache_hook = types.SimpleNamespace(add_partial=lambda *_: None)


class _Tasks:
    def __init__(self, include_path: str | None = None, include_defaults: bool = True):
        del include_defaults
        self.all_tasks = [path.stem for path in sorted(Path(include_path or "").glob("*.yaml"))]

    def load(self, names: list[str]) -> None:
        assert set(names) <= set(self.all_tasks)


def _evaluate(model: Any, tasks: list[str], log_samples: bool = False, **_: Any) -> dict[str, Any]:
    """Results in the harness's form: a likelihood and an answer of each task."""
    (task,) = tasks
    asked = [types.SimpleNamespace(args=("The bus was", f" {task}"))]
    ((likelihood, is_greedy),) = model.loglikelihood(asked)
    options = {"until": ["."], "max_gen_toks": 4}
    answers = model.generate_until([types.SimpleNamespace(args=("The bus was", options))])
    found = {"alias": task, "acc,none": float(is_greedy), "likelihood,none": likelihood}
    samples = [{"resps": answers, "likelihood": likelihood}]
    return {"results": {task: found}} | ({"samples": {task: samples}} if log_samples else {})
