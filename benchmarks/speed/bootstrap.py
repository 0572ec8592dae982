"""Row: the interval of a mean over prompts, beside scipy's bootstrap."""

from __future__ import annotations

import numpy as np

from benchmarks.speed.sides import Row, Side, Work, main

PROMPTS, DRAWS = 20_000, 10_000


def _values() -> np.ndarray:
    return np.random.default_rng(0).random(PROMPTS)


def _ours() -> Work:
    from detox_jax.evaluation import statistics

    values = _values()

    def work() -> float:
        statistics.bootstrap_mean(values, DRAWS)
        return float(DRAWS)

    return work


def _theirs() -> Work:
    from scipy import stats

    values = _values()

    def work() -> float:
        stats.bootstrap(
            (values,), np.mean, n_resamples=DRAWS, method="percentile", batch=100, vectorized=True
        )
        return float(DRAWS)

    return work


ROW = Row(
    f"percentile bootstrap of a mean, {PROMPTS:,} prompts, {DRAWS:,} draws",
    "draws",
    {"ours": Side(_ours), "scipy": Side(_theirs)},
)

if __name__ == "__main__":
    main(ROW)
