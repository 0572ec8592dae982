"""How often 95 % intervals of a share hold the truth, where continuations go together by prompt.

    python benchmarks/intervals.py [--prompts=60] [--repeats=400]

Prompts of 25 continuations each; a prompt's own share is drawn from a beta distribution around the
true one, the wider the smaller the concentration. Beside `statistics.share`, Wilson's interval with
the effective number of values, stands the bootstrap over prompts. The seeds are fixed.
"""

from __future__ import annotations

import argparse

import numpy as np

from detox_jax.evaluation import statistics

CONTINUATIONS = 25  # per prompt
SHARES = (0.005, 0.02, 0.1, 0.5)
CONCENTRATIONS = (2, 20)
DRAWS = 1000  # of the bootstrap


def coverages(
    share: float, concentration: float, prompts: int, repeats: int
) -> tuple[float, float]:
    """The part of the repeats in which Wilson's interval, and the bootstrap's, hold `share`."""
    rng = np.random.default_rng(1)
    held = np.zeros(2)
    for _ in range(repeats):
        of_prompts_P = rng.beta(concentration * share, concentration * (1 - share), prompts)
        counts_P = rng.binomial(CONTINUATIONS, of_prompts_P)
        all_P = np.full(prompts, CONTINUATIONS)
        intervals = (
            statistics.share(counts_P, all_P),
            statistics.bootstrap_ratio(counts_P, all_P, DRAWS),
        )
        held += [interval.low <= share <= interval.high for interval in intervals]
    wilson, bootstrap = held / repeats
    return wilson, bootstrap


def main() -> None:
    """Prints a line for every share and concentration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=400)
    flags = parser.parse_args()
    print("share  concentration  Wilson  bootstrap")
    for share in SHARES:
        for concentration in CONCENTRATIONS:
            wilson, bootstrap = coverages(share, concentration, flags.prompts, flags.repeats)
            print(f"{share:<5}  {concentration:<13}  {wilson:<6.3f}  {bootstrap:.3f}")


if __name__ == "__main__":
    main()
