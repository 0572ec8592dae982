"""The reference model of preference pairs: how probable it finds texts behind their prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detox_jax import preview
from detox_jax.checkpoints import identity
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.kinds import Count, Dtype
from detox_jax.models.transformer import TransformerLM
from detox_jax.output_settings import NOT_YET
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import Vocabulary
from detox_jax.zero_shot.likelihood import LikelihoodReader


@dataclasses.dataclass(frozen=True)
class Reference:
    """A checkpoint that reads pairs for the verb `pair`.

    Attributes:
      checkpoint_path: the model that training is going to start from.
      dtype: of activations; the checkpoint's own, as in training, where None.
      batch_size: rows read at once; changes speed and memory alone.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      strict: refuse a damaged newest step, in place of taking the one before and saying so.
      counts_spare_rows: whether rows beyond the vocabulary share in the probability, as they do in
        the loss that pairs are compared with.
    """

    checkpoint_path: str
    dtype: Dtype | None = None
    batch_size: Count = 64
    mesh_shape: Mapping[str, int] | None = None
    strict: bool = False
    counts_spare_rows: bool = True

    def check(self) -> None:
        """Looks whether the checkpoint is there.

        Raises:
          UserError: naming what is missing.
        """
        meshes.create_mesh(self.mesh_shape)
        if not isinstance(self.checkpoint_path, preview.Coming):
            checkpoints.resolve(self.checkpoint_path)

    def load(self) -> Reading:
        """Loads the checkpoint.

        Raises:
          UserError: if it is missing, damaged or inconsistent.
        """
        mesh = meshes.create_mesh(self.mesh_shape)
        loaded = checkpoints.load_model(self.checkpoint_path, mesh, self.dtype, self.strict)
        module, config = loaded.module, loaded.module.config
        if self.counts_spare_rows:
            module = TransformerLM(config, module.adaptation)
        reader = LikelihoodReader(module, loaded.params, mesh, self.batch_size, config.max_length)
        return Reading(self.checkpoint_path, loaded.fingerprint, loaded.vocabulary, reader)

    def describe(self, fingerprint: Any) -> dict[str, Any]:
        """What decides the likelihoods.

        Args:
          fingerprint: of what is loaded; `NOT_YET` in a check.
        """
        if fingerprint is NOT_YET:
            fingerprint = identity.fingerprint_ahead(self.checkpoint_path)
        named = identity.described(self.checkpoint_path, fingerprint)
        described = {**named, "dtype": self.dtype}
        return described if self.counts_spare_rows else {**described, "counts_spare_rows": False}


@dataclasses.dataclass(frozen=True)
class Reading:
    """A reference model that is loaded.

    Attributes:
      path: of its checkpoint, for errors.
      fingerprint: of its parameters.
      vocabulary: text to ids.
      reader: of ids.
    """

    path: str
    fingerprint: str
    vocabulary: Vocabulary
    reader: LikelihoodReader

    def likelihoods(self, texts: Sequence[tuple[str, str, bool]]) -> list[tuple[float, int] | None]:
        """Summed log-likelihood, in nats, and number of tokens of texts behind their prompts.

        The start token stands before the prompt, as in training; prompt and text are encoded apart,
        as `generate` wrote them.

        Args:
          texts: prompt, text, and whether end-of-text follows and counts.

        Returns:
          One for each text; None where prompt and text are longer than the context, or the text
          has no token.

        Raises:
          UserError: if a likelihood is not finite.
        """
        prompts = self.vocabulary.encode_batch([prompt for prompt, _, _ in texts])
        written = self.vocabulary.encode_continuations(
            [prompt for prompt, _, _ in texts], [text for _, text, _ in texts]
        )
        ids = [
            ([self.vocabulary.bos_id, *prompt], [*text, *([self.vocabulary.eos_id] * ends)])
            for prompt, text, (_, _, ends) in zip(prompts, written, texts, strict=True)
        ]
        # The last token is predicted and not read.
        fits = [bool(text) and len(p) + len(text) <= self.reader.max_length + 1 for p, text in ids]
        found = iter(self.reader([pair for pair, fit in zip(ids, fits, strict=True) if fit]))
        likelihoods: list[tuple[float, int] | None] = []
        for (_, text), fit in zip(ids, fits, strict=True):
            likelihoods.append((next(found).log_probability, len(text)) if fit else None)
        if not np.isfinite([total for total, _ in filter(None, likelihoods)]).all():
            raise UserError(f"{self.path}: a likelihood is not finite; a broken checkpoint")
        return likelihoods
