"""Labelled texts that a tiny model can tell apart, and a verb that trains on them."""

import json

from detox_jax import cli

TEXTS = ("You are an idiot", "Thanks for that")
SCORES = (1.0, 0.0)


def write(file):
    """40 documents, half of them toxic."""
    rows = [
        {"id": f"d{n}", "text": f"{TEXTS[n % 2]} {n}", "toxicity": SCORES[n % 2]} for n in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(verb, model_dir, directory, *flags, **settings):
    """Runs the verb on labelled texts beside its output; its exit status."""
    return cli.main(command(verb, model_dir, directory, *flags, **settings))


def command(verb, model_dir, directory, *flags, **settings):
    """The arguments of `train`, whose texts are written."""
    file = directory.parent / "labelled.jsonl"
    write(file)
    settings = {
        "CHECKPOINT_PATH": model_dir,
        "INPUT": file,
        "OUTPUT_DIR": directory,
        "TRAIN_STEPS": 30,
        "LENGTH": 16,
        "BATCH_SIZE": 8,
        "EVAL_PERIOD": 15,
        **settings,
    }
    return [verb, *(f"--gin.{k}={v}" for k, v in settings.items()), *flags]
