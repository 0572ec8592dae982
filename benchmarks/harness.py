"""Seconds of lm-evaluation-harness with its own `hf` backend and with ours, on one CPU in one run.

    pip install 'detox-jax[hf,lm-eval]'
    python benchmarks/harness.py --data=DIR [--model=stories260k] [--limit=200] [--rounds=3]

DIR is what DETOX_JAX_DATA names; the tasks are those of tasks/lm_eval. `gpt2` is a random GPT-2 of
the size that --width and --layers say, with the real vocabulary. The two sides take turns in every
round, the whole of `simple_evaluate` is timed, and both warm up first; answers are compared too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from detox_jax.interop import importing
from detox_jax.zero_shot.harness_model import harness_model

_TASKS = ("local_lambada", "local_piqa", "local_boolq", "local_arc_easy")
_FOLDER = Path(__file__).resolve().parent.parent / "tasks" / "lm_eval"


def make_gpt2(tokenizer: Path, directory: Path, width: int, layers: int) -> None:
    """A random GPT-2 with GPT-2's tokenizer."""
    import transformers

    config = transformers.GPT2Config(n_embd=width, n_layer=layers, n_head=width // 64)
    transformers.GPT2LMHeadModel(config).save_pretrained(directory)
    files = [str(tokenizer / name) for name in ("vocab.json", "merges.txt")]
    transformers.GPT2Tokenizer(*files).save_pretrained(directory)


def evaluate(model: Any, task: str, limit: int | None) -> tuple[list[Any], float, float, float]:
    """All answers, the accuracy, and the seconds it took: by the clock, and of processors."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(_FOLDER), include_defaults=False)
    wall, processor = time.perf_counter(), time.process_time()
    found = lm_eval.simple_evaluate(
        model=model, tasks=[task], limit=limit, bootstrap_iters=0, task_manager=manager
    )
    spent = time.perf_counter() - wall, time.process_time() - processor
    assert found is not None
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    answers = [answer for sample in samples for (answer,) in sample["resps"]]
    return answers, found["results"][task]["acc,none"], *spent


def compare(models: dict[str, Any], task: str, limit: int | None, rounds: int) -> str:
    """A line of the table: parity, and what one side took divided by what the other took."""
    answers, accuracy, seconds = {}, {}, {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            answers[name], accuracy[name], *spent = evaluate(model, task, limit)
            print(f"{task} {name}: {spent[0]:.1f} s, {spent[1]:.1f} processor seconds", flush=True)
            if turn:
                seconds[name].append(spent)
    ours, theirs = (np.array([a[0] for a in answers[name]]) for name in models)
    greedy = [[a[1] for a in answers[name]] for name in models]
    ratios = np.array(seconds["hf"]) / np.array(seconds["ours"])
    columns = [
        task,
        str(len(ours)),
        f"{np.abs(ours - theirs).max():.1e}",
        "yes" if greedy[0] == greedy[1] else "NO",
        f"{accuracy['ours']:.4f} / {accuracy['hf']:.4f}",
        *(f"{np.median(r):.2f} ({r.min():.2f}-{r.max():.2f})" for r in ratios.T),
    ]
    return f"| {' | '.join(columns)} |"


def main() -> None:
    """Makes both sides and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("DETOX_JAX_DATA"))
    parser.add_argument("--model", choices=("stories260k", "gpt2"), default="stories260k")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tasks", default=",".join(_TASKS))
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["DETOX_JAX_DATA"] = str(arguments.data)
    from lm_eval.models.huggingface import HFLM

    data = Path(arguments.data)
    with tempfile.TemporaryDirectory() as scratch:
        given = data / "models" / "stories260k"
        if arguments.model == "gpt2":
            given = Path(scratch) / "hf"
            make_gpt2(data / "tokenizers" / "gpt2", given, arguments.width, arguments.layers)
        converted = str(Path(scratch) / "ours")
        importing.import_model(str(given), converted, None, "float32", verify=False)
        size = arguments.batch_size
        models = {
            "ours": harness_model(converted, batch_size=size),
            "hf": HFLM(str(given), device="cpu", dtype="float32", batch_size=size),
        }
        lines = [
            compare(models, task, arguments.limit, arguments.rounds)
            for task in arguments.tasks.split(",")
        ]
    print(
        "| task | answers | max difference | greedy | accuracy ours / hf | ratio | of processors |"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
