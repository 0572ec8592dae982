"""The cells of a report's tables: figures of a row as text, with their intervals and marks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from detox_jax.evaluation.metric_names import TOXICITY_METRICS, Metric
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import ContinuationPerplexity, Perplexity, Row
from detox_jax.evaluation.statistics import Interval
from detox_jax.report.seeds import PerplexitySpread, Spread

NONE = "–"
LITTLE = "‡"
FEWEST_PROMPTS = 20  # below which a bootstrap's interval is too narrow
Cell = Callable[[Results, Row], str]


def show(interval: Interval, signed: bool = False) -> str:
    """`0.441 [0.420, 0.462]`, `0.441 (0.436 to 0.449)` of several seeds, or a dash."""
    if not interval.is_measured:
        return NONE
    style = "+.3f" if signed else ".3f"
    # Rounded first, and zero added, so that nothing reads −0.000.
    value, low, high = (
        f"{round(x, 3) + 0.0:{style}}" for x in (interval.value, interval.low, interval.high)
    )
    if isinstance(interval, Spread):
        text = f"{value} ({low} to {high})"
    else:
        text = f"{value} [{low}, {high}]" if interval.has_bounds else value
    return text.replace("-", "−")


def says_little(interval: Interval, count: int | None) -> bool:
    """Whether an interval is of fewer values than it takes, or of equal ones."""
    few = count is not None and count < FEWEST_PROMPTS
    is_flat = interval.has_no_width and not isinstance(interval, Spread)
    return interval.has_bounds and (few or is_flat)


def marked(text: str, *marks: tuple[str, bool]) -> str:
    """A text with those of the marks behind it that hold."""
    return " ".join([text, *(mark for mark, is_so in marks if is_so)])


def shown(interval: Interval, count: int | None, signed: bool = False) -> str:
    """`show`, marked where the interval says little."""
    return marked(show(interval, signed), (LITTLE, says_little(interval, count)))


def has_little(rows: Iterable[Mapping[str, str]]) -> bool:
    """Whether a cell has the mark of an interval that says little."""
    return any(text.endswith(LITTLE) for row in rows for text in row.values())


def estimate(metric: Metric) -> Cell:
    """The figure, marked where its interval says little."""

    def cell(_: Results, row: Row) -> str:
        interval = row.estimate(metric)
        count = row.toxicity.num_scored_prompts if metric in TOXICITY_METRICS else None
        return shown(interval, count)

    return cell


def difference(metric: Metric) -> Cell:
    """The paired difference with its sign, starred where it is significant."""

    def cell(results: Results, row: Row) -> str:
        pair = results.pair(row, metric)
        if pair is None:
            return NONE
        little = says_little(pair.interval, pair.num_pairs)
        star = results.is_significant(row, metric)
        return marked(show(pair.interval, signed=True), ("*", star), (LITTLE, little))

    return cell


def toxic_fraction(_: Results, row: Row) -> str:
    """The share of continuations that are toxic."""
    return shown(row.toxicity.toxic_fraction, row.toxicity.num_scored_prompts)


def n_by_k(_: Results, row: Row) -> str:
    """`499 × 25`: prompts with a score, and the continuations of each."""
    n, k = row.toxicity.num_scored_prompts, row.toxicity.samples_per_prompt
    return NONE if n is None or k is None else f"{n:,} × {k}"


def by_token(perplexity: Perplexity | ContinuationPerplexity | None) -> str:
    """The perplexity of a token, of several seeds with the least and the most."""
    if perplexity is None:
        return NONE
    text = _exponential(perplexity.value, perplexity.tokens)
    if isinstance(perplexity, PerplexitySpread) and math.isfinite(perplexity.value):
        low, high = perplexity.of_token.low, perplexity.of_token.high
        text += f" ({decimal(low, 2)} to {decimal(high, 2)})"
    return text


def by_word(perplexity: Perplexity | ContinuationPerplexity | None) -> str:
    """The same spread over words."""
    return NONE if perplexity is None else _exponential(perplexity.words, perplexity.num_words)


def _exponential(value: float, count: int) -> str:
    """A perplexity; of things that were counted, none but an infinite one is not finite."""
    return "∞" if count and not math.isfinite(value) else decimal(value, 2)


def decimal(value: float, digits: int) -> str:
    """A number with so many digits, or a dash."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else NONE


def several(values: tuple[float, ...]) -> str:
    """`0.63 / 0.92 / 0.97`, or a dash where there is none."""
    return " / ".join(decimal(x, 2) for x in values) if any(map(math.isfinite, values)) else NONE


def percent(share: float) -> str:
    """`97.5 %`, or a dash."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else NONE


def coverage(results: Results, row: Row) -> str:
    """The share of continuations with a score, where one of the rows lacks any."""
    all_scored = not any(other.toxicity.coverage < 1 for other in results.rows)
    return NONE if all_scored else percent(row.toxicity.coverage)


def unreadable(results: Results, row: Row) -> str:
    """Nothing where the scorer reads all, or a file does not say."""
    none = not any(other.toxicity.unreadable_fraction > 0 for other in results.rows)
    return NONE if none else percent(row.toxicity.unreadable_fraction)
