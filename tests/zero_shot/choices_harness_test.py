"""Zero-shot accuracy against lm-evaluation-harness itself: prompts, likelihoods, accuracies."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from detox_jax import cli
from tasks import downstream
from tests.tasks.downstream_test import CASES

lm_eval = pytest.importorskip("lm_eval", reason="compares with lm-evaluation-harness")
pytestmark = pytest.mark.interop

from lm_eval import utils  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402

HARNESS = Path(lm_eval.__file__).parent / "tasks"
YAML = {
    "anli_r2": "anli/anli_r1.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "lambada": "lambada/lambada_openai.yaml",
    "piqa": "piqa/piqa.yaml",
    "race_h": "race/race.yaml",
    "wic": "super_glue/wic/default.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
}
LIMIT = 60  # questions of each task


def harness_config(name):
    """The harness's own file, its functions loaded."""
    import yaml

    file = HARNESS / YAML[name]

    class Loader(yaml.SafeLoader):
        pass

    def function(loader, node):
        module, _, attribute = node.value.rpartition(".")
        spec = importlib.util.spec_from_file_location(module, file.parent / f"{module}.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, attribute)

    Loader.add_constructor("!function", function)
    return yaml.load(file.read_text(), Loader)


def as_hub(name, record):
    """A record as the harness's hub dataset has it."""
    record = dict(record)
    if name == "anli_r2":
        return {"premise": record["context"], **record, "label": "enc".index(record["label"])}
    if name == "boolq":
        return {**record, "label": int(record["label"] == "true")}
    if name == "wic":
        return {**record, "label": int(record["label"])}
    if name == "race_h":
        keys = {"question": "questions", "options": "options", "answer": "answers"}
        rows = zip(*(record[key] for key in keys.values()), strict=True)
        problems = [dict(zip(keys, row, strict=True)) for row in rows]
        return {"article": record["article"], "problems": repr(problems)}
    if name == "arc_easy":
        choices = record["question"]["choices"]
        columns = {key: [choice[key] for choice in choices] for key in ("text", "label")}
        return {**record, "question": record["question"]["stem"], "choices": columns}
    return record


def resolve(field, doc):
    """A field of a task's file for one record, as `ConfigurableTask` reads it."""
    import ast

    if callable(field):
        return field(doc)
    if isinstance(field, list):
        return field
    if field in doc:
        return doc[field]
    text = utils.apply_template(field, doc)
    return ast.literal_eval(text) if text.startswith("[") else text


def harness_pairs(name, record):
    """What the harness asks of a record."""
    config, doc = harness_config(name), as_hub(name, record)
    if "process_docs" in config:
        import datasets

        (doc,) = config["process_docs"](datasets.Dataset.from_list([doc]))
        doc["label"] = doc["gold"]
    text, target = (resolve(config[f"doc_to_{key}"], doc) for key in ("text", "target"))
    if config["output_type"] == "loglikelihood":
        return [(text, target)], 0
    choices = resolve(config["doc_to_choice"], doc)
    if isinstance(text, int):  # WinoGrande: the answer, and contexts in the place of choices
        return [(choice, f" {target}") for choice in choices], text
    answer = choices.index(target) if target in choices else int(target)
    return [(text, f" {choice}") for choice in choices], answer


@pytest.mark.parametrize("name", YAML)
def test_questions_are_the_harnesss_own(name):
    record = CASES[name][0]
    question = downstream.BENCHMARKS[name].ask(record)
    pairs = list(zip(question.inputs, question.targets, strict=True))
    assert (pairs, question.answer) == harness_pairs(name, record)


# --- likelihoods and accuracies -----------------------------------------------------------------


@pytest.fixture(scope="module")
def files(data_dir, tmp_path_factory):
    """The first questions of the real files."""
    directory = tmp_path_factory.mktemp("tasks")
    for name in ("lambada.jsonl", "piqa.jsonl", "piqa_labels.lst", "boolq.jsonl", "arc_easy.jsonl"):
        lines = (data_dir / "tasks" / name).read_text().splitlines(keepends=True)
        (directory / name).write_text("".join(lines[:LIMIT]))
    return directory


def gpt2(directory, data_dir):
    """A GPT-2 made by transformers, with the real tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = transformers.GPT2Config(vocab_size=50257, initializer_range=0.3, **sizes)
    transformers.GPT2LMHeadModel(config).save_pretrained(directory)
    files = [str(data_dir / "tokenizers" / "gpt2" / name) for name in ("vocab.json", "merges.txt")]
    transformers.GPT2Tokenizer(*files).save_pretrained(directory)
    return directory


@pytest.mark.real
@pytest.mark.parametrize("made", ["gpt2", "stories260k"])
def test_likelihoods_and_accuracies_are_the_harnesss(made, files, data_dir, tmp_path):
    from lm_eval.models.huggingface import HFLM

    directory = data_dir / "models" / made
    if made == "gpt2":
        directory = gpt2(tmp_path / "hf", data_dir)
    assert cli.main(["convert", f"--from_hf={directory}", f"--to={tmp_path / 'ours'}"]) == 0
    names = ("lambada", "piqa", "boolq", "arc_easy")
    flags = [f"--gin.CHECKPOINT_PATH={tmp_path / 'ours'}", f"--gin.TASKS_DIR={files}"]
    flags += [f"--gin.OUTPUT_DIR={tmp_path / 'out'}", f"--gin.TASKS={names}"]
    assert cli.main(["choices", *flags]) == 0
    accuracies = json.loads((tmp_path / "out" / "accuracies.json").read_text())["tasks"]

    harness = HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=8)
    labels = (files / "piqa_labels.lst").read_text().split()
    for name in names:
        records = [json.loads(line) for line in (files / f"{name}.jsonl").open()]
        if name == "piqa":
            pairs_labels = zip(records, labels, strict=True)
            records = [{**record, "label": label} for record, label in pairs_labels]
        asked = [harness_pairs(name, record) for record in records]
        pairs = [pair for own, _ in asked for pair in own]
        requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        theirs = iter(harness.loglikelihood(requests, disable_tqdm=True))
        rows = [json.loads(x) for x in (tmp_path / "out" / f"{name}-00000-of-00001.jsonl").open()]
        right, right_norm = [], []
        for row, (own, answer) in zip(rows, asked, strict=True):
            found = [next(theirs) for _ in own]
            values = np.array([value for value, _ in found])
            np.testing.assert_allclose(row["log_likelihoods"], values, atol=1e-3)
            assert row["greedy"] == [greedy for _, greedy in found]
            lengths = [len(target) - 1 for _, target in own]
            alone = len(own) == 1
            right.append(found[0][1] if alone else values.argmax() == answer)
            right_norm.append(found[0][1] if alone else (values / lengths).argmax() == answer)
        assert accuracies[name]["accuracy"]["value"] == pytest.approx(np.mean(right))
        assert accuracies[name]["accuracy_norm"]["value"] == pytest.approx(np.mean(right_norm))
