"""The notebooks: that they run, and what is stored of them."""

import ast
import glob
import importlib.util
import inspect
import json
import re
import shutil
from pathlib import Path

import pytest

import detox_jax as dj
from detox_jax.api import keywords, verbs
from tests.notebooks import executed

ROOT = Path(dj.__file__).parent.parent


def read(name):
    return json.loads((executed.NOTEBOOKS / f"{name}.ipynb").read_text())


def code(name):
    """The code cells as Python; a line of pip's magic is none."""
    cells = [c for c in read(name)["cells"] if c["cell_type"] == "code"]
    return [re.sub(r"^( *)%.*", r"\1pass", "".join(c["source"]), flags=re.M) for c in cells]


def test_no_notebook_is_left_out():
    assert sorted(path.stem for path in executed.NOTEBOOKS.glob("*.ipynb")) == [*executed.NAMES]


@pytest.mark.parametrize("name", executed.NAMES)
def test_what_is_called_is_there(name):
    taken = {
        **{call: getattr(verbs, call) for call in ("score", "evaluate", "sgeat")},
        **{call: getattr(dj.Model, call) for call in ("generate", "perplexity", "train")},
    }
    more = {"sgeat": keywords.SgeatSettings, "evaluate": keywords.EvaluateSettings}
    more["train"] = keywords.TrainSettings
    called = set()
    for node in ast.walk(ast.parse("\n".join(code(name)))):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "dj":
            assert hasattr(dj, node.attr), node.attr
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in taken:
            call = node.func.attr
            named = {*inspect.signature(taken[call]).parameters}
            named |= set(more[call].__annotations__ if call in more else ())
            assert {keyword.arg for keyword in node.keywords} <= named
            called.add(call)
    assert {"sgeat", "score", "generate"} <= called


def test_both_begin_with_the_same_run():
    """So the second finds what the first one left."""
    runs = [
        ast.dump(node)
        for name in executed.NAMES
        for node in ast.walk(ast.parse("\n".join(code(name))))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "sgeat"
    ]
    assert len(runs) == 2 and len(set(runs)) == 1


@pytest.mark.parametrize("name", executed.NAMES)
def test_what_is_stored_is_small_and_of_no_machine(name):
    text = (executed.NOTEBOOKS / f"{name}.ipynb").read_text()
    assert len(text) < 300_000
    assert not re.search(r"/(home|root|work|Users)/|site-packages", text)
    outputs = [o for c in read(name)["cells"] for o in c.get("outputs", [])]
    assert outputs and not [o for o in outputs if o["output_type"] == "error"]
    shown = [o["data"] for o in outputs if "data" in o]
    assert any("image/png" in data for data in shown) and any("text/html" in d for d in shown)
    for data in shown:
        html = "".join(data.get("text/html", []))
        for row in re.findall(r"<tr>(.*?)</tr>", html, flags=re.S):
            rating = re.search(r">(\d\.\d{3})</td>$", row)
            if rating and float(rating[1]) >= 0.5 and "continuation" in html:
                assert "<details>" in row, row


@pytest.mark.parametrize(
    "device, extras", [("", ["train"]), ("gpu", ["train", "cuda"]), ("tpu", ["train", "tpu"])]
)
def test_colab_installs_what_trains_on_its_device(device, extras, monkeypatch):
    first = "".join(read("detoxify")["cells"][1]["source"])
    first = re.sub(r"%pip install --quiet (.+)", r"asked = f\1", first)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: name if device == "gpu" else None)
    monkeypatch.setattr(glob, "glob", lambda name: [name] if device == "tpu" else [])
    names = {}
    exec(first, names)
    assert re.fullmatch(r"detox-jax\[(.*)\] ", names["asked"])[1].split(",") == extras
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for extra in extras)
    assert read("detoxify")["metadata"]["accelerator"] == "GPU"


@pytest.mark.slow
def test_they_run(tmp_path, monkeypatch):
    """In one directory, in their order; what they show is of the kind that is stored."""
    pytest.importorskip("nbclient")
    monkeypatch.delenv("XLA_FLAGS")  # the tests' own, which compile fast what then runs slowly
    for name in executed.NAMES:
        ran, kept = executed.execute(name, tmp_path), read(name)
        for cell, before in zip(ran.cells, kept["cells"], strict=True):
            outputs = [output for output in before.get("outputs", []) if "data" in output]
            shown = [output for output in cell.get("outputs", []) if "data" in output]
            assert [{*o["data"]} for o in outputs] == [{*o["data"]} for o in shown]
