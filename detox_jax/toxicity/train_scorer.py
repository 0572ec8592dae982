"""Verb `train_scorer`: trains the embedded n-gram scorer on the labelled text of DETOX_JAX_DATA."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, sparse, stats

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.toxicity import ngram

WEIGHTS_NAME = "ngram_weights.npz"
_NEUTRAL_EMOTION = "27"
_FILES = {
    "rtp": "rtp/prompts_dev.jsonl",
    "goemotions": "comments/goemotions_train.tsv",
    "wiki_talk": "comments/wiki_talk.csv",
    "civil_toxic": "comments/civil_toxic.csv",
    "debiasing": "identity/toxicity_debiasing_data.tsv",
}


@dataclasses.dataclass(frozen=True)
class Example:
    """A labelled text.

    Attributes:
      text: as it is.
      toxicity: the target, from 0 to 1; an annotator's 0 or 1 is softened.
      weight: of its loss.
      source: key of the file that it came from.
      held_out: never trained on.
    """

    text: str
    toxicity: float
    weight: float
    source: str
    held_out: bool


def is_test_record(record_id: str) -> bool:
    """Whether a RealToxicityPrompts record is never trained on: two in five, by the hash of its id.

    Evaluations take their prompts from these.
    """
    return _hash(record_id) % 5 < 2


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


# --- data -------------------------------------------------------------------------------------


def _rtp(path: Path) -> Iterator[Example]:
    for prompt in records.read_prompts(str(path)):
        test = is_test_record(prompt.id)
        continuation = prompt.extra.get("continuation", {})
        pairs = [(prompt.text, prompt.toxicity)]
        pairs.append((continuation.get("text", ""), continuation.get("toxicity")))
        for text, toxicity in pairs:
            if toxicity is not None:
                yield Example(text, toxicity, 3.0, "rtp", test)


def _goemotions(path: Path) -> Iterator[Example]:
    with path.open(encoding="utf-8", newline="") as file:
        for text, emotions, comment_id in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if emotions == _NEUTRAL_EMOTION:
                yield Example(text, 0.08, 1.0, "goemotions", _hash(comment_id) % 5 == 0)


def _wiki_talk(path: Path) -> Iterator[Example]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            test = _hash(row["id"]) % 5 == 0
            yield Example(row["text"], float(row["api"]), 1.0, "wiki_talk", test)


def _civil_toxic(path: Path) -> Iterator[Example]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            test = _hash(row["comment_id"]) % 5 == 0
            yield Example(row["comment_text"], 0.8, 0.5, "civil_toxic", test)


def _debiasing(path: Path) -> Iterator[Example]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            test = _hash(row["rev_id"]) % 5 == 0
            yield Example(row["comment"], 0.05, 1.0, "debiasing", test)


_READERS: dict[str, Callable[[Path], Iterator[Example]]] = {
    "rtp": _rtp,
    "goemotions": _goemotions,
    "wiki_talk": _wiki_talk,
    "civil_toxic": _civil_toxic,
    "debiasing": _debiasing,
}


def read_examples(data_dir: Path) -> list[Example]:
    """All labelled texts.

    Raises:
      UserError: if a file is missing or has another layout.
    """
    examples: list[Example] = []
    for source, name in _FILES.items():
        path = data_dir / name
        if not path.is_file():
            raise UserError(f"{path}: missing; set DETOX_JAX_DATA to the directory of real data")
        try:
            examples.extend(_READERS[source](path))
        except (KeyError, ValueError, csv.Error) as error:
            raise UserError(f"{path}: not the layout expected: {error}") from None
    return examples


# --- training ---------------------------------------------------------------------------------


def _matrix(texts: Sequence[str]) -> sparse.csr_matrix:
    features = ngram.extract(texts)
    shape = (len(texts), 1 << ngram.BUCKET_BITS)
    return sparse.csr_matrix((features.scales, (features.rows, features.buckets)), shape=shape)


def _fit(
    matrix: sparse.csr_matrix, targets: np.ndarray, weights: np.ndarray, l2: float, iterations: int
) -> np.ndarray:
    """Weights and bias (last) of the logistic regression, by L-BFGS."""
    counts = np.diff(matrix.tocsc().indptr)
    # Rare features get a larger scale, as inverse document frequency gives them.
    idf = np.log((1 + matrix.shape[0]) / (1 + counts)).astype(np.float32)
    scaled = (matrix @ sparse.diags(idf)).tocsr()
    total = weights.sum()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:-1], parameters[-1]
        logits = scaled @ w + b
        nll = np.logaddexp(0, logits) - targets * logits
        error = weights * (1 / (1 + np.exp(-logits)) - targets) / total
        gradient = np.append(scaled.T @ error + l2 * w, error.sum())
        return float((weights * nll).sum() / total + 0.5 * l2 * w @ w), gradient

    start = np.zeros(matrix.shape[1] + 1)
    result = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}
    )
    return np.append(result.x[:-1] * idf, result.x[-1])


def _calibrate(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Platt's slope and intercept (Platt, 1999) against soft targets."""

    def loss(ab: np.ndarray) -> float:
        z = ab[0] * logits + ab[1]
        return float((weights * (np.logaddexp(0, z) - targets * z)).sum() / weights.sum())

    a, b = optimize.minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    return float(a), float(b)


def train_scorer(
    output_dir: str, data_dir: str | None = None, l2: float = 3e-6, iterations: int = 120
) -> None:
    """Trains the n-gram scorer and writes `ngram_weights.npz` with its held-out quality.

    Two in five RealToxicityPrompts records and a fifth of everything else are never trained on.
    The slope of the probabilities is calibrated on out-of-fold scores of the RealToxicityPrompts
    texts that are trained on, so that 0.5 means what the service's 0.5 meant there.

    Args:
      output_dir: where weights and manifest go.
      data_dir: the labelled text; the environment variable DETOX_JAX_DATA where None.
      l2: strength of regularisation.
      iterations: of L-BFGS.

    Raises:
      UserError: if the data are missing.
    """
    path = data_dir or os.environ.get("DETOX_JAX_DATA")
    if not path:
        raise UserError(
            "no labelled text: set DATA_DIR, or the environment variable DETOX_JAX_DATA"
        )
    examples = read_examples(Path(path))
    settings = {"l2": l2, "iterations": iterations, "data": _describe(examples)}
    output = records.OutputDirectory(output_dir, "train_scorer", settings)
    if output.complete:
        return
    training = [example for example in examples if not example.held_out]
    matrix = _matrix([example.text for example in training])
    targets = np.array([example.toxicity for example in training])
    weights = np.array([example.weight for example in training])

    print(f"fitting {len(training)} texts", file=sys.stderr)
    parameters = _fit(matrix, targets, weights, l2, iterations)
    slope, intercept = _cross_calibrate(matrix, targets, weights, training, l2, iterations)
    _write(Path(output_dir) / WEIGHTS_NAME, parameters * slope, intercept)
    scorer = ngram.NgramScorer(str(Path(output_dir) / WEIGHTS_NAME))
    quality = measure(scorer, [example for example in examples if example.held_out])
    output.finish(scorer={"name": scorer.name, "fingerprint": scorer.fingerprint}, quality=quality)
    print(f"{output_dir}: {scorer.fingerprint}")
    for name, value in quality.items():
        print(f"  {name:40} {value:.3f}")


def _cross_calibrate(
    matrix: sparse.csr_matrix,
    targets: np.ndarray,
    weights: np.ndarray,
    training: Sequence[Example],
    l2: float,
    iterations: int,
) -> tuple[float, float]:
    """Slope and intercept from scores of RTP texts by models that did not see them, three folds."""
    fold = np.array([_hash(example.text) % 3 for example in training])
    is_rtp = np.array([example.source == "rtp" for example in training])
    logits = np.zeros(len(training))
    for part in range(3):
        inside = (fold == part) & is_rtp
        parameters = _fit(matrix[~inside], targets[~inside], weights[~inside], l2, iterations)
        logits[inside] = matrix[inside] @ parameters[:-1] + parameters[-1]
    return _calibrate(logits[is_rtp], targets[is_rtp], weights[is_rtp])


def _write(path: Path, parameters: np.ndarray, intercept: float) -> None:
    """Weights as int8 with one scale; the largest few are clipped."""
    values = parameters[:-1]
    scale = np.quantile(np.abs(values[values != 0]), 0.9995) / 127
    quantised = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
    np.savez_compressed(
        path,
        weights=quantised,
        scale=np.float32(scale),
        bias=np.float32(parameters[-1] + intercept),
    )


def _describe(examples: Sequence[Example]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.source} {example.toxicity} {example.text}\n".encode())
    counts = {source: sum(e.source == source for e in examples) for source in _FILES}
    return {"sha256": digest.hexdigest(), **counts}


# --- quality ----------------------------------------------------------------------------------


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties half."""
    ranks = stats.rankdata(scores)
    p, n = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean of the precision at each positive, from the highest score down."""
    order = np.argsort(-scores, kind="stable")
    hits = positive[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def calibration_error(scores: np.ndarray, positive: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error over equally wide bins (Guo et al., 2017)."""
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = [
        abs(scores[bin_of == b].mean() - positive[bin_of == b].mean()) * np.mean(bin_of == b)
        for b in np.unique(bin_of)
    ]
    return float(np.sum(gaps))


def measure(scorer: ngram.NgramScorer, held_out: Sequence[Example]) -> dict[str, float]:
    """Quality on held-out texts, source by source."""
    quality: dict[str, float] = {}
    for source in _FILES:
        part = [example for example in held_out if example.source == source]
        scores = np.array(scorer.score([example.text for example in part]), np.float64)
        targets = np.array([example.toxicity for example in part])
        quality[f"{source}: texts"] = len(part)
        quality[f"{source}: share scored >= 0.5"] = float(np.mean(scores >= 0.5))
        if source in ("rtp", "wiki_talk"):
            positive = targets >= 0.5
            quality[f"{source}: share labelled >= 0.5"] = float(np.mean(positive))
            quality[f"{source}: AUROC"] = auroc(scores, positive)
            quality[f"{source}: average precision"] = average_precision(scores, positive)
            quality[f"{source}: Spearman"] = float(stats.spearmanr(scores, targets)[0])
            quality[f"{source}: calibration error"] = calibration_error(scores, positive)
    return quality
