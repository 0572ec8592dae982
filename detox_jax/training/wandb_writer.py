"""A training's scalars in Weights & Biases, where the environment asks for it (extra `wandb`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping

from etils import epath

from detox_jax.errors import UserError, in_one_line

# The project; what else wandb reads from its environment (WANDB_MODE, WANDB_DIR) is its own.
PROJECT_VARIABLE = "DETOX_JAX_WANDB"


def check() -> None:
    """Fails early where the environment asks for a library that is not there.

    Raises:
      UserError: if so.
    """
    if not os.environ.get(PROJECT_VARIABLE):
        return
    spec = importlib.util.find_spec("wandb")
    # The directory `wandb`, which its runs leave, is importable too, and has no file.
    if spec is None or spec.origin is None:
        raise UserError(f"{PROJECT_VARIABLE} needs wandb: pip install 'detox-jax[wandb]'")


class WandbWriter:
    """A run of W&B with clu's interface of a writer.

    A training that resumes is a further run of its group, from the step where it resumes: a run of
    W&B cannot forget steps, as going back to a saved one needs.
    """

    def __init__(self, project: str, model_dir: epath.Path, resume_step: int):
        """Starts a run.

        Args:
          project: of W&B.
          model_dir: names the group.
          resume_step: the step that the training goes on from.

        Raises:
          UserError: if wandb is missing, or refuses to start.
        """
        check()
        import wandb  # pyright: ignore[reportMissingImports]  # of the extra

        try:
            self._run = wandb.init(
                project=project,
                group=str(model_dir),
                name=f"{model_dir.name} from step {resume_step}",
                reinit="create_new",  # sgeat trains several models in one process.
                settings=wandb.Settings(console="off", silent=True),
            )
        except (wandb.errors.Error, ValueError) as error:
            raise UserError(
                f"{PROJECT_VARIABLE}={project}: {in_one_line(error)}; `wandb login`, "
                "WANDB_MODE=offline, or unset it"
            ) from None
        # Its own count of steps cannot go back.
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Logs the scalars of one step."""
        self._run.log({"step": step, **scalars})

    def flush(self) -> None:
        """Does nothing: what is logged is another process's to keep."""

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def from_environment(model_dir: epath.Path, resume_step: int) -> list[WandbWriter]:
    """The writer that the environment asks for, or none.

    Args:
      model_dir: names the group.
      resume_step: the step that the training goes on from.

    Raises:
      UserError: if wandb is missing, or refuses to start.
    """
    project = os.environ.get(PROJECT_VARIABLE)
    return [WandbWriter(project, model_dir, resume_step)] if project else []
