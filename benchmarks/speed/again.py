"""Row: `generate` of one document, the second time on a machine and the first."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.speed import gpt2, processes
from benchmarks.speed.sides import Row, Side, Work, main

SIZES = {
    "emb_dim": 256,
    "num_heads": 4,
    "num_layers": 4,
    "mlp_dim": 1024,
    "max_length": 256,
}


def _model(directory: Path) -> str:
    """A small model with random weights, saved."""
    from etils import epath

    from detox_jax.checkpoints import model_dir
    from detox_jax.vocabulary import Vocabulary

    vocabulary = Vocabulary.train(["Some text to train a small vocabulary on."], 300)
    model, _, params = gpt2.ours(vocab_size=vocabulary.vocab_size, **SIZES)
    path = epath.Path(directory / "model")
    path.mkdir()
    spec = model_dir.ModelSpec(model.config, None, None, vocabulary.fingerprint)
    model_dir.save_model(path, params, spec, vocabulary)
    return str(path)


def _work(is_second: bool) -> Work:
    directory = Path(tempfile.mkdtemp())
    model = _model(directory)

    def generate(output: str) -> None:
        flags = [
            f"--gin.CHECKPOINT_PATH={model}",
            f"--gin.OUTPUT_DIR={directory / output}",
            "--gin.PROMPTS=@prompts.Standard()",
            "--gin.NUM_DOCUMENTS=1",
            "--gin.NUM_SAMPLES=1",
        ]
        cache = {"XDG_CACHE_HOME": str(directory / "cache")}
        processes.of_command([sys.executable, "-m", "detox_jax", "generate", *flags], **cache)

    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    if is_second:
        generate("first")

    def work() -> float:
        generate("timed")
        return 1.0

    return work


ROW = Row(
    "`generate` of one document of a small model, whole process",
    "documents",
    {
        "ours, the second time": Side(lambda: _work(True), warm_up=False),
        "ours, the first time": Side(lambda: _work(False), warm_up=False),
    },
)

if __name__ == "__main__":
    main(ROW)
