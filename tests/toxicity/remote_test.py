"""Services that answer, refuse, stall and lie, on this machine."""

import builtins
import dataclasses
import email.utils
import logging
import random
import socket

import pytest

from detox_jax.errors import Unavailable, UserError
from detox_jax.toxicity import http_service, rate_limit, remote
from detox_jax.toxicity.scorer import identity
from tests.toxicity.conftest import KEY, LIMIT, google_error

FAST = {
    "consent_to_send_text": True,
    "queries_per_second": 1e6,
    "first_wait_s": 0.001,
    "longest_wait_s": 2.0,
    "attempts": 3,
}
TEXTS = ["You idiot.", "Good day.", "What an idiot."]


@pytest.fixture
def perspective(service):
    return remote.PerspectiveScorer(url=f"{service.address}/perspective", **FAST)


@pytest.fixture
def moderation(service):
    return remote.ModerationScorer(
        url=f"{service.address}/moderation", categories=("harassment", "hate"), **FAST
    )


@pytest.fixture
def naps(monkeypatch):
    """Sleeps are noted, not slept."""
    seconds = []
    monkeypatch.setattr(http_service.time, "sleep", seconds.append)
    return seconds


def test_perspective_asks_as_documented(perspective, service):
    scorer = dataclasses.replace(perspective, attribute="INSULT", languages=("en",))
    assert scorer.score(["You idiot.", "  ", "Good day."]) == [0.9, 0.0, 0.1]
    path, headers, body = service.requests[0]
    assert path == "/perspective" and headers["x-goog-api-key"] == KEY
    assert body == {
        "comment": {"text": "You idiot."},
        "requestedAttributes": {"INSULT": {}},
        "languages": ["en"],
        "doNotStore": True,
    }
    assert service.texts() == ["You idiot.", "Good day."]


def test_moderation_asks_for_many_texts_at_once(moderation, service):
    scorer = dataclasses.replace(moderation, batch_size=2)
    assert scorer.score(TEXTS) == [0.9, 0.1, 0.9]
    path, headers, body = service.requests[0]
    assert path == "/moderation" and headers["authorization"] == f"Bearer {KEY}"
    assert body == {"model": scorer.model, "input": TEXTS[:2]}
    assert len(service.requests) == 2


def test_what_changes_a_score_changes_the_fingerprint():
    scorer = remote.PerspectiveScorer()
    assert identity(scorer)["fingerprint"] == "perspective-v1alpha1-TOXICITY"
    other_url = dataclasses.replace(scorer, url="https://example.org/analyze")
    perspectives = {
        scorer.fingerprint,
        other_url.fingerprint,
        dataclasses.replace(scorer, attribute="INSULT").fingerprint,
        dataclasses.replace(scorer, languages=("en",)).fingerprint,
    }
    assert len(perspectives) == 4
    assert dataclasses.replace(scorer, attempts=2).fingerprint == scorer.fingerprint
    moderation = remote.ModerationScorer()
    assert dataclasses.replace(moderation, categories=("hate",)).fingerprint != (
        moderation.fingerprint
    )


# --- failures that pass -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        (429, {}, google_error("RESOURCE_EXHAUSTED")),
        (403, {}, google_error("PERMISSION_DENIED", reason="rateLimitExceeded")),
        (408, {}, b""),
        (500, {}, b"<html>oops</html>"),
        (503, {"retry-after": "soon"}, b""),
        (200, {}, b'{"attributeSc'),
        (200, {}, {"attributeScores": {"INSULT": {"summaryScore": {"value": 0.5}}}}),
        (200, {}, {"attributeScores": {"TOXICITY": {"summaryScore": {"value": 1.5}}}}),
        (200, {}, []),
        (200, {"content-encoding": "gzip"}, b"not gzip"),
        "reset",
    ],
    ids=str,
)
def test_a_passing_failure_is_asked_again(perspective, service, step, capsys):
    service.plan = [step, "score", step, step, "score"]
    assert perspective.score(["You idiot.", "Good day."]) == [0.9, 0.1]
    assert service.texts() == ["You idiot."] * 2 + ["Good day."] * 3
    assert capsys.readouterr().err.count("perspective: ") == 3


@pytest.mark.parametrize("step", ["slow", "hang"])
def test_a_service_that_stalls_is_asked_again(perspective, service, step, capsys):
    """It stalls for two minutes; on a busy machine it may seem to more than once."""
    service.plan = [step]
    scorer = dataclasses.replace(perspective, timeout_s=0.4, attempts=100)
    assert scorer.score(["You idiot."]) == [0.9]
    notes = capsys.readouterr().err.splitlines()
    assert len(service.requests) >= 2 and notes
    assert all(f"no answer from {scorer.host} in 0.4 s" in note for note in notes)


def test_retry_after_is_respected_in_seconds_and_as_a_date(perspective, service, naps, monkeypatch):
    now = 1_700_000_000.0
    monkeypatch.setattr(http_service.time, "time", lambda: now)
    date, past = (email.utils.formatdate(now + s, usegmt=True) for s in (20, -20))
    service.plan = [(429, {"retry-after": value}, b"") for value in ("7", date, past)]
    scorer = dataclasses.replace(perspective, attempts=4, longest_wait_s=30.0)
    assert scorer.score(["Good day."]) == [0.1]
    assert naps == [7, 20, 0]


def test_without_retry_after_the_wait_doubles_and_has_jitter(perspective, service, naps):
    random.seed(1)
    service.plan = [(429, {}, b"")] * 7
    scorer = dataclasses.replace(perspective, attempts=8, first_wait_s=1.0, longest_wait_s=20.0)
    assert scorer.score(["Good day."]) == [0.1]
    lowest = [1, 2, 4, 8, 16, 20, 20]
    assert len(naps) == 7
    assert all(low <= nap <= min(low + 1, 20) for low, nap in zip(lowest, naps, strict=True))
    # Below the longest wait, each has a part of its own.
    assert len({round(nap - low, 6) for low, nap in zip(lowest[:5], naps, strict=False)}) == 5


def test_a_wait_that_is_too_long_stops_the_run(perspective, service, naps):
    service.plan = [(429, {"retry-after": "86400"}, b"")]
    with pytest.raises(Unavailable, match=r"429 asks to wait 86400 s.* rerun the same command"):
        perspective.score(["Good day."])
    assert naps == [] and len(service.requests) == 1


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ((503, {}, b""), "HTTP 503, 3 times"),
        ((200, {}, b"nonsense"), "answered without a score of perspective, 3 times"),
        ((200, {}, {"attributeScores": {}}), "answered without a score of perspective, 3 times"),
        ("reset", r"cannot be reached \(\w+\), 3 times"),
    ],
    ids=str,
)
def test_a_failure_that_stays_stops_the_run(perspective, service, step, message):
    service.plan = [step] * 9
    with pytest.raises(Unavailable, match=message):
        perspective.score(["Good day."])
    assert len(service.requests) == 3


@pytest.mark.parametrize("status", [200, 400, 503])
def test_an_answer_that_is_nested_too_deeply_is_asked_for_again(perspective, service, status):
    service.plan = [(status, {}, b"[" * 100_000)]
    if status == 400:  # A mistake of ours is no better the second time.
        with pytest.raises(UserError, match="refuses the request"):
            perspective.score(["Good day."])
        return
    assert None not in perspective.score(TEXTS)
    assert len(service.requests) == len(TEXTS) + 1


def test_no_network(perspective):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    scorer = dataclasses.replace(perspective, url=f"http://127.0.0.1:{port}/perspective")
    with pytest.raises(Unavailable, match=rf"127.0.0.1:{port} cannot be reached \(ConnectError\)"):
        scorer.score(["Good day."])


# --- failures that stay -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE", "COMMENT_TOO_LONG", "LANGUAGE_DETECTION_FAILED"]
)
def test_a_text_that_is_refused_has_no_score(perspective, service, code):
    service.plan = [(400, {}, google_error("INVALID_ARGUMENT", code))]
    assert perspective.score(TEXTS) == [None, 0.1, 0.9]
    assert len(service.requests) == 3


def _message(text):
    return (
        400,
        {},
        {"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}},
    )


def test_a_language_that_is_refused_in_prose_alone_is_no_score_and_no_stop(perspective, service):
    """As the service was seen to answer, without `details`; short texts are often "und"."""
    service.plan = [
        _message("Attribute TOXICITY does not support request languages: und"),
        "score",
        _message("Attribute SEVERE_TOXICITY does not support request languages: zh-Hant, tl"),
    ]
    assert perspective.score(TEXTS) == [None, 0.1, None]


@pytest.mark.parametrize(
    "step",
    [
        _message("Requested attribute TOXICITY does not exist"),
        _message("No: Attribute TOXICITY does not support request languages: und"),
        _message("Attribute TOXICITY does not support request languages: und. Also, no."),
        _message(["Attribute TOXICITY does not support request languages: und"]),
        (404, *_message("Attribute TOXICITY does not support request languages: und")[1:]),
    ],
    ids=str,
)
def test_another_refusal_in_prose_stops_the_run(perspective, service, step):
    service.plan = [step]
    with pytest.raises(UserError, match="refuses the request"):
        perspective.score(TEXTS)


def test_a_refused_text_leaves_the_others_of_its_request_their_scores(moderation, service):
    refused = (400, {}, {"error": {"code": "string_above_max_length", "type": "invalid"}})
    service.plan = [refused, "score", refused]
    assert moderation.score(TEXTS) == [0.9, None, 0.9]


def test_a_text_is_cut_before_it_is_too_long(perspective, service):
    long = "x" + "é" * LIMIT
    assert perspective.score([long, "lone \ud800 idiot"]) == [0.1, 0.9]
    (first, second) = service.texts()
    assert first == "x" + "é" * ((LIMIT - 1) // 2) and second == "lone ? idiot"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ((403, {}, google_error("PERMISSION_DENIED", reason="SERVICE_DISABLED")), "SERVICE_DISAB"),
        ((401, {}, b""), "HTTP 401"),
        ((400, {}, google_error("INVALID_ARGUMENT", reason="API_KEY_INVALID")), "API_KEY_INVALID"),
        ((403, {}, google_error(KEY)), "HTTP 403"),
    ],
    ids=str,
)
def test_a_refused_key_is_named_by_its_variable(perspective, service, step, message):
    service.plan = [step]
    with pytest.raises(UserError, match=message) as caught:
        perspective.score(TEXTS)
    assert "PERSPECTIVE_API_KEY" in str(caught.value) and KEY not in str(caught.value)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ((404, {}, b""), "refuses the request .HTTP 404.*whether the service still exists"),
        ((400, {}, google_error("INVALID_ARGUMENT", "INVALID_REQUEST")), "INVALID_REQUEST"),
        ((302, {"location": "http://example.org/"}, b""), "HTTP 302"),
        ((429, {}, {"error": {"code": "insufficient_quota"}}), "the quota is spent"),
        ((400, {}, {"error": "prose"}), "HTTP 400"),
    ],
    ids=str,
)
def test_a_refused_request_stops_the_run_at_once(perspective, service, step, message):
    service.plan = [step]
    kind = Unavailable if "quota" in message else UserError  # A quota comes back by itself.
    with pytest.raises(kind, match=message):
        perspective.score(TEXTS)
    assert len(service.requests) == 1


# --- consent, key, settings -------------------------------------------------------------------


def test_nothing_is_sent_without_consent_or_key(perspective, service, monkeypatch):
    silent = dataclasses.replace(perspective, consent_to_send_text=False)
    with pytest.raises(UserError, match="PerspectiveScorer.consent_to_send_text = True"):
        silent.score(["Good day."])
    for key in ("", " ", "two words", "ключ", "new\nline"):
        monkeypatch.setenv("PERSPECTIVE_API_KEY", key)
        with pytest.raises(UserError, match="environment variable PERSPECTIVE_API_KEY") as caught:
            perspective.score(["Good day."])
        assert not key.strip() or key not in str(caught.value)
    monkeypatch.delenv("PERSPECTIVE_API_KEY")
    with pytest.raises(UserError, match="set the environment variable PERSPECTIVE_API_KEY"):
        perspective.score(["Good day."])
    assert service.requests == []


def test_without_the_extra_the_remedy_is_named(perspective, monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **keywords):
        if name in ("httpx", "tenacity"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'detox-jax\[remote\]'"):
        perspective.score(["Good day."])


def test_the_key_is_nowhere_but_in_its_header(perspective, service, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    service.plan = [(500, {}, google_error("INTERNAL", reason=KEY)), "reset", "score"]
    assert perspective.score(["Good day."]) == [0.1]
    service.plan = [(403, {}, google_error(KEY, reason=KEY))]
    with pytest.raises(UserError) as caught:
        perspective.score(["Good day."])
    assert caught.value.__cause__ is None
    seen = [caplog.text, *capfd.readouterr(), repr(perspective), str(caught.value)]
    seen += [
        str(identity(perspective)),
        str(vars(perspective)),
        str(dataclasses.asdict(perspective)),
    ]
    for path, headers, body in service.requests:
        assert headers.pop("x-goog-api-key") == KEY
        seen += [path, str(headers), str(body)]
    assert "perspective: " in " ".join(seen) and "HTTP Request" in caplog.text
    assert not any(KEY in each or "Good day" in each for each in seen[:4])
    assert not any(KEY in each for each in seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": f"https://example.org/?key={KEY}"}, "must be an address alone"),
        ({"url": f"https://{KEY}@example.org/"}, "must be an address alone"),
        ({"url": "example.org"}, "must be an address alone"),
        ({"url": "http://example.org/"}, "must begin with https://"),
        ({"queries_per_second": 0}, "queries_per_second is 0"),
        ({"attempts": -1}, "attempts is -1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        remote.PerspectiveScorer(**settings)
    assert KEY not in str(caught.value)


def test_categories_that_cannot_be():
    with pytest.raises(UserError, match="categories 'hate'"):
        remote.ModerationScorer(categories="hate")


# --- rate limit -------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_the_bucket_keeps_the_rate():
    clock = Clock()
    bucket = rate_limit.TokenBucket(4.0, clock, clock.sleep)
    for _ in range(9):
        bucket.take()
    assert clock.now == pytest.approx(102.0)
    clock.now += 60  # A pause earns one second's worth of calls, no more.
    start = clock.now
    for _ in range(4):
        bucket.take()
    assert clock.now == start
    bucket.take()
    assert clock.now == pytest.approx(start + 0.25)


def test_a_slow_rate_still_lets_calls_through():
    clock = Clock()
    bucket = rate_limit.TokenBucket(0.5, clock, clock.sleep)
    bucket.take()
    bucket.take()
    assert clock.now == pytest.approx(102.0)


def test_retries_count_against_the_rate(perspective, service, monkeypatch):
    taken = []
    monkeypatch.setattr(
        rate_limit.TokenBucket, "take", lambda self: taken.append(len(service.requests))
    )
    service.plan = [(500, {}, b"")]
    assert perspective.score(["Good day.", "You idiot."]) == [0.1, 0.9]
    assert taken == [0, 1, 2]  # One before every request, the repeated one too.
