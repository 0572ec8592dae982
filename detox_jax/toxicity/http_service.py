"""What every scorer behind an HTTP service does alike: consent, key, rate limit, retries, errors.

Needs the extra `remote`. Neither the key nor a text is ever part of a URL or of a message.
"""

from __future__ import annotations

import abc
import dataclasses
import email.utils
import functools
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from detox_jax.errors import Unavailable, UserError
from detox_jax.toxicity.rate_limit import TokenBucket
from detox_jax.toxicity.scorer import EMPTY_SCORE, prepare

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_CODE = re.compile(r"[A-Za-z0-9_.\-]{1,60}")
_BAD_KEYS = {"API_KEY_INVALID", "invalid_api_key"}
_RATE_LIMITS = {"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"}
_SPENT = {"insufficient_quota"}


class TransientError(Exception):
    """What may succeed when it is asked again.

    Attributes:
      retry_after_s: how long the service asked to wait; None where it did not say.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None):
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class TextRefusedError(Exception):
    """The service has no score for one of the texts that it was given, and never will."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HttpScorer(abc.ABC):
    """A scorer that asks an HTTP service; a subclass knows the service's own words.

    Attributes:
      url: of the service, without a key or a query; https, or http on this machine.
      key_variable: the environment variable that holds the key.
      consent_to_send_text: must be True before any text leaves this machine.
      queries_per_second: at most; the service's quota.
      timeout_s: to connect, and between two parts of an answer.
      attempts: at one request, before the run stops.
      first_wait_s: after the first failure; it doubles with each, and has jitter.
      longest_wait_s: between two attempts; a service that asks for more stops the run.
    """

    url: str
    key_variable: str
    consent_to_send_text: bool = False
    queries_per_second: float = 1.0
    timeout_s: float = 30.0
    attempts: int = 8
    first_wait_s: float = 1.0
    longest_wait_s: float = 120.0

    name: ClassVar[str]
    # The service's codes for a text that it will never score.
    text_errors: ClassVar[frozenset[str]]
    # What it says of such a text where it sends no code; the whole message must be this.
    text_message: ClassVar[re.Pattern[str] | None] = None

    def __post_init__(self):
        positive = ("queries_per_second", "timeout_s", "attempts", "first_wait_s", "longest_wait_s")
        for field in positive:
            if not getattr(self, field) > 0:
                raise UserError(
                    f"{type(self).__name__}.{field} is {getattr(self, field)!r}; "
                    "expected a number above 0"
                )
        parts = urlsplit(self.url)
        if parts.query or parts.username or parts.password or not parts.hostname:
            raise UserError(
                f"{type(self).__name__}.url must be an address alone: the key is read from "
                f"{self.key_variable}"
            )
        secure = parts.scheme == "https"
        if not secure and not (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS):
            raise UserError(f"{type(self).__name__}.url must begin with https://, got {self.url}")

    @property
    def host(self) -> str:
        """The service, as messages name it."""
        return urlsplit(self.url).netloc

    @abc.abstractmethod
    def headers(self, key: str) -> dict[str, str]:
        """The headers that carry the key."""

    @abc.abstractmethod
    def body(self, texts: Sequence[str]) -> Mapping[str, Any]:
        """What is asked for these texts."""

    @abc.abstractmethod
    def read(self, reply: Any, count: int) -> list[float]:
        """The scores in a reply.

        Raises:
          LookupError, TypeError, ValueError: if a score is not where it should be.
        """

    @property
    @abc.abstractmethod
    def texts_at_once(self) -> int:
        """How many texts a request holds."""

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """See `ToxicityScorer`; None for a text that the service refuses, which no blank one is.

        Raises:
          UserError: without consent, key or the extra; if the service refuses the key or the
            request.
          Unavailable: if it gives no usable answer in `attempts` attempts, or its quota is spent.
        """
        sendable = [_sendable(text) for text in texts]
        scores: list[float | None] = [EMPTY_SCORE] * len(texts)
        asked = [index for index, text in enumerate(sendable) if text.strip()]
        for first in range(0, len(asked), self.texts_at_once):
            group = asked[first : first + self.texts_at_once]
            answers = self._answer([sendable[index] for index in group])
            for index, answer in zip(group, answers, strict=True):
                scores[index] = answer
        return scores

    def check(self) -> None:
        """Raises a `UserError` without consent, key or the extra; sends nothing."""
        self._key()
        _ = self._session

    def _answer(self, texts: list[str]) -> list[float | None]:
        try:
            return list(self._ask(texts))
        except TextRefusedError:
            # The service does not say which; alone, every text but the culprit is answered.
            return [None] if len(texts) == 1 else [self._answer([text])[0] for text in texts]

    def _ask(self, texts: list[str]) -> list[float]:
        """One request, repeated while the failure is transient."""
        headers = self.headers(self._key())
        client, bucket = self._session
        import tenacity

        backoff = tenacity.wait_exponential_jitter(
            self.first_wait_s, self.longest_wait_s, jitter=self.first_wait_s
        )

        def wait(state: tenacity.RetryCallState) -> float:
            error = _failure(state)
            if error.retry_after_s is None:
                return min(backoff(state), self.longest_wait_s)
            if error.retry_after_s > self.longest_wait_s:
                raise self._stopped(f"{error} asks to wait {error.retry_after_s:.0f} s")
            return error.retry_after_s

        def note(state: tenacity.RetryCallState) -> None:
            print(
                f"{self.name}: {_failure(state)}; attempt {state.attempt_number} of "
                f"{self.attempts}, the next in {state.upcoming_sleep:.1f} s",
                file=sys.stderr,
            )

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=wait,
            before_sleep=note,
            sleep=lambda seconds: time.sleep(seconds),
            reraise=True,
        )
        try:
            return retrying(self._ask_once, client, bucket, headers, texts)
        except TransientError as error:
            raise self._stopped(f"{error}, {self.attempts} times") from None

    def _ask_once(
        self, client: Any, bucket: TokenBucket, headers: dict[str, str], texts: list[str]
    ) -> list[float]:
        import httpx

        bucket.take()
        try:
            response = client.post(self.url, headers=headers, json=self.body(texts))
        except httpx.TimeoutException:
            raise TransientError(f"no answer from {self.host} in {self.timeout_s:g} s") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            kind = type(error).__name__
            raise TransientError(f"{self.host} cannot be reached ({kind})") from None
        if response.status_code != 200:
            raise self._failure_of(response, headers)
        try:
            return self.read(response.json(), len(texts))
        except (LookupError, TypeError, ValueError, RecursionError):
            # Proxies cut answers short, so it is asked again; a default would hide it.
            raise TransientError(f"{self.host} answered without a score of {self.name}") from None

    def _failure_of(self, response: Any, headers: Mapping[str, str]) -> Exception:
        """What an answer other than 200 means."""
        status = response.status_code
        secrets = [header.rpartition(" ")[2] for header in headers.values()]
        codes = {code for code in _codes(response) if not any(each in code for each in secrets)}
        named = " ".join([f"HTTP {status}", *sorted(codes)])
        if codes & _SPENT:
            return self._stopped(f"{self.host}: the quota is spent ({named})")
        if status in (408, 429) or status >= 500 or codes & _RATE_LIMITS:
            return TransientError(f"{self.host}: {named}", _retry_after(response))
        if status in (401, 403) or codes & _BAD_KEYS:
            return UserError(
                f"{self.name}: {self.host} refuses the key ({named}); check the environment "
                f"variable {self.key_variable} and what the key is enabled for"
            )
        if status == 413 or codes & self.text_errors or self._refuses_text(status, response):
            return TextRefusedError(named)
        return UserError(
            f"{self.name}: {self.host} refuses the request ({named}); check the url and settings "
            f"of {type(self).__name__}, and whether the service still exists"
        )

    def _refuses_text(self, status: int, response: Any) -> bool:
        """Whether the prose of an answer, which is shown nowhere, is about the text alone."""
        if status != 400 or self.text_message is None:
            return False
        try:
            message = response.json()["error"]["message"]
        except (LookupError, TypeError, ValueError, RecursionError):
            return False
        return isinstance(message, str) and self.text_message.fullmatch(message) is not None

    def _stopped(self, reason: str) -> Unavailable:
        return Unavailable(
            f"{self.name}: {reason}; check the network and the service's quota, then rerun the "
            "same command (a CachedScorer keeps what was scored)"
        )

    def _key(self) -> str:
        """The key, once text may be sent at all."""
        if self.consent_to_send_text is not True:
            raise UserError(
                f"{self.name} sends every text that it scores to {self.host}, whose terms then "
                f"apply; agree with --gin.CONSENT_TO_SEND_TEXT=True, or "
                f"{type(self).__name__}.consent_to_send_text = True in a gin file"
            )
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise UserError(
                f"{self.name} needs a key: set the environment variable {self.key_variable}"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(
                f"the environment variable {self.key_variable} holds no key: it has characters "
                "that a key cannot have"
            )
        return key

    @functools.cached_property
    def _session(self) -> tuple[Any, TokenBucket]:
        """One client and one rate limit, for as long as the scorer lives."""
        try:
            import httpx
            import tenacity  # noqa: F401
        except ImportError:
            raise UserError(
                f"{self.name} needs httpx and tenacity: pip install 'detox-jax[remote]'"
            ) from None
        return httpx.Client(timeout=self.timeout_s), TokenBucket(self.queries_per_second)


def _sendable(text: str) -> str:
    """The prepared text; a lone surrogate, which UTF-8 does not have, becomes a question mark."""
    return prepare(text).encode("utf-8", "replace").decode("utf-8")


def _failure(state: Any) -> TransientError:
    error = state.outcome.exception()
    assert isinstance(error, TransientError)
    return error


def _retry_after(response: Any) -> float | None:
    """Seconds, from a Retry-After in seconds or as a date; None where there is none."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (OverflowError, TypeError, ValueError):
        return None


def _codes(response: Any) -> set[str]:
    """The machine-readable codes of an error; its prose may quote the key or the text."""
    try:
        error = response.json()["error"]
        parts = [error, *error.get("details", []), *error.get("errors", [])]
        names = ("status", "code", "type", "reason", "errorType")
        values = [part.get(name) for part in parts for name in names]
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return set()
    return {value for value in values if isinstance(value, str) and _CODE.fullmatch(value)}
