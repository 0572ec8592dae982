"""So many calls a second, and no more."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Lets through `rate` calls a second in the long run, and one second's worth at once."""

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Starts with one token, so that the first second is no different from the others."""
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._tokens = 1.0
        self._filled_at = clock()

    def take(self) -> None:
        """Takes one token; sleeps until there is one."""
        now = self._clock()
        self._tokens += (now - self._filled_at) * self._rate
        self._tokens = min(self._tokens, max(1.0, self._rate))
        self._filled_at = now
        self._tokens -= 1
        if self._tokens < 0:
            self._sleep(-self._tokens / self._rate)
