"""TASK_FEATURE_LENGTHS of T5X's scripts, beside what a model and a decoding take; needs no T5X."""

from __future__ import annotations

from collections.abc import Mapping

from detox_jax.errors import UserError


def check(
    lengths: Mapping[str, int] | None, max_length: int, max_new_tokens: int | None = None
) -> None:
    """Refuses rows that are longer than a model's, or too short for what is to be decoded.

    Args:
      lengths: tokens of each feature, which T5X puts into one row; None where T5X finds them.
      max_length: of the model.
      max_new_tokens: of a continuation; None where nothing, or the rest of a row, is decoded.

    Raises:
      UserError: naming TASK_FEATURE_LENGTHS.
    """
    row = sum(length or 0 for length in (lengths or {}).values())
    if row > max_length:
        hint = "lower them" if max_new_tokens is None else "lower inputs, or MAX_NEW_TOKENS"
        raise UserError(
            f"TASK_FEATURE_LENGTHS: {' and '.join(lengths or ())} of {row} are beyond the model's "
            f"max_length {max_length}; {hint}"
        )
    room = (lengths or {}).get("targets")
    if max_new_tokens is not None and room is not None and max_new_tokens > room:
        raise UserError(
            f"MAX_NEW_TOKENS is {max_new_tokens}, but TASK_FEATURE_LENGTHS has targets of {room}: "
            "how many a prompt gets would depend on its length; give targets at least as many"
        )
