"""Marks that tests share."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(kept: Collection[Any], every: Iterable[Any]) -> list[Any]:
    """Parameters of which those that are not kept run in `make test-slow` alone.

    Args:
      kept: that run everywhere, among `every`.
      every: all of them; a tuple where a test has several arguments.
    """
    every = list(every)
    assert all(one in every for one in kept), f"{kept} are not among {every}"
    slow = [
        pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.slow)
        for one in every
    ]
    return [one if one in kept else marked for one, marked in zip(every, slow, strict=True)]
