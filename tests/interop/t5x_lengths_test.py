"""What a row of T5X's may be, without T5X."""

import pytest

from detox_jax.errors import UserError
from detox_jax.interop import t5x_lengths


def test_rows_fit_the_model_and_what_is_decoded():
    for lengths in (None, {"targets": 64}, {"inputs": 44, "targets": 20}):
        t5x_lengths.check(lengths, 64)
    t5x_lengths.check({"inputs": 44, "targets": 20}, 64, 20)
    with pytest.raises(UserError, match="targets of 65 are beyond the model's max_length 64"):
        t5x_lengths.check({"targets": 65}, 64)
    with pytest.raises(UserError, match="inputs and targets of 65 are beyond"):
        t5x_lengths.check({"inputs": 45, "targets": 20}, 64)
    with pytest.raises(UserError, match="MAX_NEW_TOKENS is 21, but .* targets of 20: "):
        t5x_lengths.check({"inputs": 24, "targets": 20}, 64, 21)
