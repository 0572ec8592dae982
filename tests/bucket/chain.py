"""Runs verbs one after the other with all that they read and write below a root, in one process.

    python tests/bucket/chain.py ROOT MODEL.gin [VERB ...]

Prints a verb's name when it has ended, for who counts its requests; ends with the first status that
is not 0.
"""

import sys

from detox_jax import cli


def commands(root: str, model_file: str) -> dict[str, list[str]]:
    """Arguments by verb, in their order."""
    return {
        "train": [
            f"--gin_file={model_file}",
            f"--gin.INPUT={root}/documents.jsonl",
            f"--gin.VOCABULARY_PATH={root}/vocabulary",
            "--gin.TASK_FEATURE_LENGTHS={'targets': 32}",
            "--gin.BATCH_SIZE=8",
            "--gin.LEARNING_RATE=1e-2",
            "--gin.TRAIN_STEPS=4",
            "--gin.CHECKPOINT_PERIOD=2",
            f"--gin.MODEL_DIR={root}/model",
        ],
        "generate": [
            f"--gin.CHECKPOINT_PATH={root}/model",
            f"--gin.INPUT={root}/prompts.jsonl",
            "--gin.NUM_SAMPLES=2",
            "--gin.MAX_NEW_TOKENS=6",
            f"--gin.OUTPUT_DIR={root}/generations",
        ],
        "score": [f"--gin.INPUT={root}/generations", f"--gin.OUTPUT_DIR={root}/scored"],
        "filter": [
            f"--gin.INPUT={root}/scored_documents.jsonl",
            f"--gin.OUTPUT_DIR={root}/filtered",
        ],
        "evaluate": [
            f"--gin.METHODS={{'base': '{root}/scored'}}",
            f"--gin.REFERENCE={root}/model",
            "--gin.BOOTSTRAP_DRAWS=100",
            f"--gin.OUTPUT_DIR={root}/evaluation",
        ],
        "report": [f"--gin.RESULTS={root}/evaluation", f"--gin.OUTPUT_DIR={root}/report"],
        "train_vocabulary": [
            f"--gin.INPUT={root}/documents.jsonl",
            "--gin.VOCAB_SIZE=300",
            f"--gin.OUTPUT_DIR={root}/new_vocabulary",
        ],
    }


def main() -> int:
    """Runs the verbs that are named, or all."""
    root, model_file, *verbs = sys.argv[1:]
    chain = commands(root, model_file)
    for verb in verbs or chain:
        if status := cli.main([verb, *chain[verb]]):
            return status
        print(f"done {verb}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
