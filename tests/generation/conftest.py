"""Decoding and steering never mix dtypes by accident, as models do not."""

from tests.models.conftest import strict_dtype_promotion as strict_dtype_promotion
