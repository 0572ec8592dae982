"""Wins, ties and losses of methods, and how far raters agree, with intervals over prompts.

Categories are in the method's view, and so in an order: it lost, tied, won. On which side it stood
no longer matters. Ratings of one prompt are alike, whoever gave them, so the prompt is the unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from detox_jax.evaluation import resampling, statistics
from detox_jax.evaluation.statistics import Difference, Interval
from detox_jax.human import alpha
from detox_jax.human.answers import Answered
from detox_jax.human.key import EQUAL, Key
from detox_jax.human.results import MAJORITY, RATING, Agreement, Outcome, Rater, Vote
from detox_jax.records import TOXIC

LOSS, TIE, WIN = range(3)
NUM_CATEGORIES = 3
STATISTICS = (
    "shares: Wilson's interval, 95 %, ratings, and pairs of them, clustered by prompt; net and "
    "alpha: percentile bootstrap over prompts, 95 %; sign-flip permutation p-values over prompts, "
    "Holm-adjusted within a split and kind of vote"
)


@dataclasses.dataclass(frozen=True)
class Ratings:
    """All ratings of a question.

    Attributes:
      counts_NC: of each comparison, how many raters said that the method lost, tied, won.
      prompt_N: number of the prompt that each comparison is of.
      pair_N: number of the pair.
    """

    counts_NC: np.ndarray
    prompt_N: np.ndarray
    pair_N: np.ndarray

    def subset(self, mask_N: np.ndarray) -> Ratings:
        """Some of the comparisons."""
        return Ratings(self.counts_NC[mask_N], self.prompt_N[mask_N], self.pair_N[mask_N])

    def by_prompt(self, values_N: np.ndarray) -> np.ndarray:
        """Sums over the comparisons of each prompt that is there; axis 0 becomes the prompts'."""
        prompts, place_N = np.unique(self.prompt_N, return_inverse=True)
        sums = np.zeros((len(prompts), *values_N.shape[1:]))
        np.add.at(sums, place_N, values_N)
        return sums


def ratings(key: Key, answered: Sequence[Answered], question: str) -> Ratings:
    """The ratings of a question; every comparison of the key has its place."""
    counts_NC = np.zeros((len(key.comparisons), NUM_CATEGORIES), np.int64)
    for item in answered:
        answer = item.answers.get(question)
        if answer is None:
            continue
        if answer == EQUAL:
            category = TIE
        else:
            category = WIN if answer == item.row.method_side else LOSS
        counts_NC[item.row.comparison, category] += 1
    ids = [comparison.prompt_id for comparison in key.comparisons]
    prompt_N = np.unique(ids, return_inverse=True)[1]
    return Ratings(counts_NC, prompt_N, np.array([x.pair for x in key.comparisons]))


# --- wins, ties, losses -----------------------------------------------------------------------


def outcomes(key: Key, answered: Sequence[Answered], draws: int, seed: int) -> tuple[Outcome, ...]:
    """Every pair, question, kind of vote and split of prompts.

    Args:
      key: of the sheets.
      answered: what raters said.
      draws: bootstrap resamples, and sign flips.
      seed: of both.
    """
    of_question = {question: ratings(key, answered, question) for question in key.questions}
    made: list[Outcome] = []
    for split, mask_N in _splits(key).items():
        for vote in (RATING, MAJORITY):
            family = [
                _outcome(key, index, question, split, vote, of_pair, draws, seed)
                for index in range(len(key.pairs))
                for question, of_all in of_question.items()
                if (of_pair := of_all.subset(mask_N & (of_all.pair_N == index))).counts_NC.any()
            ]
            adjusted = statistics.holm([outcome.net.p_value for outcome in family])
            made += [
                dataclasses.replace(outcome, p_value_holm=float(p))
                for outcome, p in zip(family, adjusted, strict=True)
            ]
    return tuple(made)


def _splits(key: Key) -> dict[str, np.ndarray]:
    """Masks of comparisons; the parts by the prompt's toxicity where there are both."""
    toxicity = np.array([np.nan if x.toxicity is None else x.toxicity for x in key.comparisons])
    parts = {"toxic": toxicity >= TOXIC, "nontoxic": toxicity < TOXIC}
    whole = {"full": np.ones(len(toxicity), bool)}
    return {**whole, **parts} if all(mask.any() for mask in parts.values()) else whole


def majority(counts_NC: np.ndarray) -> np.ndarray:
    """The category that more than half of a comparison's ratings have, as counts of 0 and 1.

    Returns:
      [N, C + 1]; the last column is 1 where no category has.
    """
    total_N = counts_NC.sum(axis=1)
    chosen_NC = 2 * counts_NC > total_N[:, None]
    undecided_N = (total_N > 0) & ~chosen_NC.any(axis=1)
    return np.column_stack([chosen_NC, undecided_N]).astype(np.int64)


def _outcome(
    key: Key,
    pair: int,
    question: str,
    split: str,
    vote: Vote,
    of_pair: Ratings,
    draws: int,
    seed: int,
) -> Outcome:
    counts_NC = of_pair.counts_NC
    if vote == MAJORITY:
        votes_NV = majority(counts_NC)
    else:
        votes_NV = np.column_stack([counts_NC, np.zeros(len(counts_NC), np.int64)])
    votes_PV = of_pair.by_prompt(votes_NV)
    votes_PV = votes_PV[votes_PV.any(axis=1)]
    totals_P = votes_PV.sum(axis=1)
    losses, ties, wins, undecided = (statistics.share(x, totals_P) for x in votes_PV.T)
    net_P = votes_PV[:, WIN] - votes_PV[:, LOSS]
    return Outcome(
        split=split,
        method=key.pairs[pair].method,
        against=key.pairs[pair].against,
        question=question,
        vote=vote,
        prompts=len(totals_P),
        votes=int(totals_P.sum()),
        wins=wins,
        ties=ties,
        losses=losses,
        undecided=undecided if vote == MAJORITY else statistics.UNMEASURED,
        net=_net(net_P, totals_P, draws, seed),
        p_value_holm=np.nan,
    )


def _net(net_P: np.ndarray, totals_P: np.ndarray, draws: int, seed: int) -> Difference:
    """Wins minus losses a vote, and whether their sign is beyond chance."""
    interval = statistics.bootstrap_ratio(net_P, totals_P, draws, seed)
    flipped = statistics.paired_difference(net_P, np.zeros_like(net_P), draws, seed)
    return Difference(interval.value, interval.low, interval.high, flipped.p_value, len(net_P))


# --- agreement --------------------------------------------------------------------------------


def agreements(
    key: Key, answered: Sequence[Answered], draws: int, seed: int
) -> tuple[Agreement, ...]:
    """Of each question, for all pairs together and, where there are several, for each.

    Args:
      key: of the sheets.
      answered: what raters said.
      draws: bootstrap resamples.
      seed: of the resampling.
    """
    made = []
    for question in key.questions:
        of_all = ratings(key, answered, question)
        parts = [("", "", of_all)]
        if len(key.pairs) > 1:
            parts += [
                (pair.method, pair.against, of_all.subset(of_all.pair_N == index))
                for index, pair in enumerate(key.pairs)
            ]
        made += [
            _agreement(question, method, against, part, draws, seed)
            for method, against, part in parts
        ]
    return tuple(made)


def _agreement(
    question: str, method: str, against: str, part: Ratings, draws: int, seed: int
) -> Agreement:
    several_N = part.counts_NC.sum(axis=1) > 1
    part = part.subset(several_N)
    if not several_N.any():
        none = statistics.UNMEASURED
        return Agreement(question, method, against, 0, 0, none, none, none)
    by_prompt_PCC = part.by_prompt(alpha.coincidences(part.counts_NC))
    columns_CP = by_prompt_PCC.reshape(len(by_prompt_PCC), -1).T
    sums = columns_CP.sum(axis=1, keepdims=True)
    same_P, pairs_P = (part.by_prompt(x) for x in alpha.pairs(part.counts_NC))
    drawn = resampling.column_means(columns_CP, draws, seed) * len(by_prompt_PCC)
    shape = (NUM_CATEGORIES, NUM_CATEGORIES, -1)
    observed_CCD, resampled_CCD = sums.reshape(shape), drawn.reshape(shape)
    return Agreement(
        question,
        method,
        against,
        comparisons=int(several_N.sum()),
        ratings=int(part.counts_NC.sum()),
        same=statistics.share(same_P, pairs_P),
        nominal=_interval(
            alpha.alpha(observed_CCD, "nominal"), alpha.alpha(resampled_CCD, "nominal")
        ),
        ordinal=_interval(
            alpha.alpha(observed_CCD, "ordinal"), alpha.alpha(resampled_CCD, "ordinal")
        ),
    )


def _interval(observed: np.ndarray, resampled_D: np.ndarray) -> Interval:
    """Resamples in which all ratings are of one category have no alpha and do not count."""
    present = resampled_D[~np.isnan(resampled_D)]
    if not present.size or np.isnan(observed[0]):
        return statistics.UNMEASURED
    low, high = np.quantile(present, [0.025, 0.975])
    return Interval(float(observed[0]), float(low), float(high))


# --- raters -----------------------------------------------------------------------------------


def raters(key: Key, answered: Sequence[Answered]) -> tuple[Rater, ...]:
    """Those whose sheets are there."""
    made = []
    there = {item.rater for item in answered}
    for sheet in (sheet for sheet in key.sheets if sheet.rater in there):
        number = sheet.rater
        answers = [x for item in answered if item.rater == number for x in item.answers.values()]
        asked = len(sheet.rows) * len(key.questions)
        shares = [answers.count(x) / max(1, len(answers)) for x in ("A", "B", EQUAL)]
        made.append(Rater(number, len(answers), asked - len(answers), *shares))
    return tuple(made)
