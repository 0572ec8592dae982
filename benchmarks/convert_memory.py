"""Peak memory of `convert`, in and out, on a random LLaMA.

    python benchmarks/convert_memory.py --megabytes=1000

Anonymous memory is what a conversion needs; pages of files mapped to memory come on top as far as
there is room, and the system takes them back when there is none. Linux only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from etils import epath

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints.streamed import Checkpoint, nested
from detox_jax.interop import huggingface
from detox_jax.interop.huggingface import FAMILIES
from detox_jax.interop.safetensors_io import TensorWriter
from detox_jax.vocabulary import Vocabulary

FIELDS = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 2816,
    "max_position_embeddings": 2048,
}
MEGABYTES_A_LAYER = 51


def make(directory: Path, megabytes: int) -> None:
    """Writes random weights of about that size in float32."""
    fields = {**FIELDS, "num_hidden_layers": max(1, megabytes // MEGABYTES_A_LAYER)}
    (directory / "config.json").write_text(json.dumps(fields))
    family = FAMILIES["llama"]
    config = huggingface.config_from(family, fields, "config.json")
    tensors, shapes = huggingface.active_map(family, config)
    plan = {
        foreign: (tensor.layout.foreign_shape(huggingface.layer_shapes(tensor, shapes)), "F32")
        for name, tensor in tensors.items()
        for foreign in huggingface.foreign_names(name, tensor, config.num_layers)
    }
    writer = TensorWriter(epath.Path(directory), plan, 10**12)
    noise = np.random.default_rng(0)
    for name, (shape, _) in plan.items():
        writer.write(name, noise.standard_normal(shape, np.float32))
    writer.finish()


class Watch:
    """The largest anonymous memory of this process while it is open, in MB."""

    def __enter__(self) -> Watch:
        self.start, self.peak, self._open = self._now(), 0.0, True
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._open = False
        self._thread.join()

    def _look(self) -> None:
        while self._open:
            self.peak = max(self.peak, self._now() - self.start)
            time.sleep(0.02)

    @staticmethod
    def _now() -> float:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("RssAnon"))


def main() -> None:
    """Prints one line for the import and one for the export."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=1000)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root)
        make(directory, megabytes)
        size = (directory / "model.safetensors").stat().st_size / 1e6
        vocabulary = Vocabulary.train(["some text"], 300)
        model = epath.Path(directory / "model")
        model.mkdir()
        with Watch() as watch:
            source = huggingface.open_source(epath.Path(directory))
            arrays = huggingface.read_parameters(source, epath.Path(directory / "scratch"))
            reading = watch.peak
            spec = checkpoints.ModelSpec(source.config, None, None, vocabulary.fingerprint)
            checkpoints.save_model(model, nested(arrays), spec, vocabulary)
        print(f"import of {size:.0f} MB: {reading:.0f} MB reading, {watch.peak:.0f} MB with Orbax")
        del arrays
        out = epath.Path(directory / "out")
        out.mkdir()
        with Watch() as watch:
            huggingface.write_model(
                Checkpoint.open(str(model)), out, source.fields, "float32", 10**12
            )
        print(f"export of {size:.0f} MB: {watch.peak:.0f} MB")


if __name__ == "__main__":
    main()
