"""A checkpoint under lm-evaluation-harness's own command, as its model `detox_jax`.

The package names `DetoxJax` by the entry point `lm_eval.models`, which the harness reads from the
version after 0.4.13 on:

    lm_eval run --model detox_jax --model_args pretrained=DIR --tasks piqa

Up to 0.4.13 it knows its own models alone; this module is then the same command:

    python -m detox_jax.zero_shot.harness_plugin run --model detox_jax --model_args ...
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from detox_jax.errors import UserError
from detox_jax.zero_shot.harness_model import HarnessModel, import_harness

NAME = "detox_jax"
_MODULE = "detox_jax.zero_shot.harness_plugin"  # also where it runs as a command
_BASE: Any = import_harness().api.model.TemplateLM


class DetoxJax(HarnessModel, _BASE):
    """A checkpoint as the harness makes its models: from the text of `--model_args`.

    Args:
      pretrained: the checkpoint, MODEL_DIR or MODEL_DIR/checkpoints/STEP.
      checkpoint_path: another name of the same.
      batch_size: rows at once; `auto` is 32.
      max_batch_size: not used.
      device: not used: JAX has its own.
      **settings: see `HarnessModel`.

    Raises:
      UserError: if no checkpoint is named, or it cannot be used.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        checkpoint_path: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ):
        del max_batch_size, device
        path = pretrained or checkpoint_path
        if path is None:
            raise UserError("--model detox_jax needs --model_args pretrained=DIR, a checkpoint")
        rows = 32 if str(batch_size or "auto").startswith("auto") else int(str(batch_size))
        super().__init__(str(path), batch_size=rows, **settings)


def main() -> None:
    """The harness's command, which knows this model."""
    registry = importlib.import_module("lm_eval.api.registry").model_registry
    if registry.get(NAME, None) is None:
        registry.register(NAME, target=f"{_MODULE}:{DetoxJax.__name__}")
    try:
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except UserError as error:
        sys.exit(f"detox-jax: error: {error}")


if __name__ == "__main__":
    main()
