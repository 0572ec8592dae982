"""Verb `pair`: preference pairs of scored text, with a reference model's likelihoods in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from detox_jax import output_settings, outputs, preview, records
from detox_jax.errors import UserError
from detox_jax.preview import Step
from detox_jax.toxicity import pairing as pairings
from detox_jax.toxicity.pairing import Extremes, Pairing
from detox_jax.toxicity.preferences import Likelihood, Pair

SHARD_NAME = "pairs"
FREE = ("output_dir", "check_only")  # see `output_settings`
_SHARD_SIZE = 10_000
# Of a prompt and a text behind it: both, and whether end-of-text follows.
Text = tuple[str, str, bool]


class Reading(Protocol):
    """A reference model that is loaded.

    Attributes:
      fingerprint: of its parameters.
    """

    fingerprint: str

    def likelihoods(self, texts: Sequence[Text]) -> list[tuple[float, int] | None]:
        """Log-likelihood and tokens of each text behind its prompt; None where it is too long."""
        ...


class Reference(Protocol):
    """The model that training is going to start from: what it finds probable is written down."""

    def check(self) -> None:
        """Refuses what can be refused without loading.

        Raises:
          UserError: naming what is missing.
        """
        ...

    def load(self) -> Reading:
        """The model, loaded."""
        ...

    def describe(self, fingerprint: str) -> Mapping[str, Any]:
        """What decides its likelihoods, for the manifest.

        Args:
          fingerprint: of what is loaded; `output_settings.NOT_YET` in a check.
        """
        ...


def pair(
    input: str,
    output_dir: str,
    pairing: Pairing | None = None,
    reference: Reference | None = None,
    check_only: bool = False,
) -> list[Step] | None:
    """Mines pairs of a mild and a toxic text, or imports pairs, and writes them in TRL's layout.

    Args:
      input: what the pairing reads: file, glob or directory.
      output_dir: where the pairs go.
      pairing: how pairs are made; the least against the most toxic continuation where None.
      reference: the model whose log-likelihoods of both sides are written with each pair, so that
        `train` needs no second model; None leaves them out, which objectives without a reference
        do not miss. Pairs that are longer than its context are left out.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for input that cannot be read, or that makes no pair.
    """
    arguments = locals()
    pairing = pairing or Extremes()

    def settings(fingerprint: Any) -> dict[str, Any]:
        """What decides the output; by the reference's fingerprint."""
        made_by = output_settings.describe(pairing, "pair.pairing")
        described = None if reference is None else reference.describe(fingerprint)
        return output_settings.of_verb(
            pair,
            arguments,
            free=FREE,
            instead={
                "input": {"input": records.describe_input(input)},
                "pairing": {"pairing": {**made_by, **pairing.inputs()}},
                "reference": {"reference": described},
            },
        )

    if check_only:
        preview.checked_output(output_dir)
        if outputs.check(output_dir, "pair", lambda: settings(output_settings.NOT_YET)):
            return [Step("pair", output_dir)]
        return [_preview(input, output_dir, pairing, reference)]
    reading = None if reference is None else reference.load()
    fingerprint = None if reading is None else reading.fingerprint
    output = outputs.OutputDirectory(output_dir, "pair", settings(fingerprint))
    if output.complete:
        return None

    # --- pairs, and how probable the reference finds them --------------------------------------
    mined = _mined(input, pairing)
    pairs = mined.pairs if reading is None else _with_likelihoods(mined.pairs, reading)
    if not pairs:
        raise UserError(
            f"{input}: each of its {len(mined.pairs)} pairs is longer than the reference's context"
        )
    count = -(-len(pairs) // _SHARD_SIZE)
    for index in range(count):
        part = pairs[index * _SHARD_SIZE : (index + 1) * _SHARD_SIZE]
        output.write_shard(SHARD_NAME, index, count, part)

    # --- what they are like --------------------------------------------------------------------
    counts = {**mined.counts, "too_long": len(mined.pairs) - len(pairs), "pairs": len(pairs)}
    figures = _figures(pairs)
    output.finish(counts=counts, scored_by=_scorer_of(input, pairing), **figures)
    left_out = ", ".join(f"{name} {n}" for name, n in counts.items() if n and name != "pairs")
    print(f"{output_dir}: {len(pairs)} pairs ({left_out}){_said(figures)}")
    return None


def _preview(input: str, output_dir: str, pairing: Pairing, reference: Reference | None) -> Step:
    """What there is to pair."""
    if reference is not None:
        reference.check()
    if isinstance(input, preview.Coming):
        return Step("pair", output_dir)
    mined = _mined(input, pairing)
    size = preview.total_size(records.resolve_files(input))
    return Step("pair", output_dir, {"pairs": len(mined.pairs)}, size)


def _mined(input: str, pairing: Pairing) -> pairings.Mined:
    """The pairs, of which there is at least one."""
    mined = pairing.mine(input)
    if not mined.pairs:
        counts = ", ".join(f"{name} {count}" for name, count in mined.counts.items())
        raise UserError(f"{input}: makes no pair ({counts}); lower MARGIN, or generate more")
    return mined


def _with_likelihoods(pairs: Sequence[Pair], reading: Reading) -> list[Pair]:
    """The pairs that the reference can read, with what it finds of both sides."""
    sides = [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]
    found = reading.likelihoods([(prompt, side.text, side.ends) for prompt, side in sides])
    read = []
    for pair, of_chosen, of_rejected in zip(pairs, found[::2], found[1::2], strict=True):
        if of_chosen is not None and of_rejected is not None:
            chosen = dataclasses.replace(pair.chosen, reference=Likelihood(*of_chosen))
            rejected = dataclasses.replace(pair.rejected, reference=Likelihood(*of_rejected))
            read.append(
                dataclasses.replace(
                    pair, chosen=chosen, rejected=rejected, model=reading.fingerprint
                )
            )
    return read


def _figures(pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Means over the pairs, of each side, as far as they are known."""
    figures: dict[str, dict[str, float]] = {}
    for name in ("chosen", "rejected"):
        sides = [getattr(pair, name) for pair in pairs]
        known = {
            "mean_toxicity": [side.toxicity for side in sides if side.toxicity is not None],
            "mean_characters": [len(side.text) for side in sides],
            "mean_tokens": [side.reference.tokens for side in sides if side.reference],
            "mean_log_likelihood": [
                side.reference.log_likelihood for side in sides if side.reference
            ],
        }
        figures[name] = {key: sum(x) / len(x) for key, x in known.items() if x}
    return figures


def _said(figures: Mapping[str, Mapping[str, float]]) -> str:
    """`; mean toxicity 0.050 against 0.812`, where it is known."""
    chosen, rejected = figures["chosen"], figures["rejected"]
    if "mean_toxicity" not in chosen or "mean_toxicity" not in rejected:
        return ""
    return (
        f"; mean toxicity {chosen['mean_toxicity']:.3f} against {rejected['mean_toxicity']:.3f}, "
        f"mean length {chosen['mean_characters']:.0f} against {rejected['mean_characters']:.0f} "
        "characters"
    )


def _scorer_of(input: str, pairing: Pairing) -> Any:
    """The scorer by whose scores sides are told apart: of DOCUMENTS, where there are any."""
    documents = getattr(pairing, "documents", None)
    return (documents and records.scorer_of(documents)) or records.scorer_of(input)
