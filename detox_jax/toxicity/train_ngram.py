"""Trains the embedded n-gram scorer on the labelled text of DETOX_JAX_DATA.

N stands for texts, F for the buckets of features (`ngram.NUM_BUCKETS`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from scipy import optimize, sparse

from detox_jax import atomic_files, output_settings, outputs, preview, terminal
from detox_jax.errors import UserError
from detox_jax.kinds import Count, Positive
from detox_jax.records import TOXIC
from detox_jax.toxicity import labelled, ngram, quality

WEIGHTS_NAME = ngram.WEIGHTS_FILE.name
RELIABILITY_NAME = ngram.RELIABILITY_FILE
_TEXTS_AT_ONCE = 2048
_NUM_FOLDS = 3


@dataclasses.dataclass(frozen=True)
class NgramRecipe:
    """The n-gram scorer: `ngram_weights.npz` and `ngram_reliability.json`.

    Two in five RealToxicityPrompts records and a fifth of every other source with natural text are
    never trained on. A logistic regression on soft targets is fitted by L-BFGS; its logits are then
    calibrated (Platt) on out-of-fold scores of the RealToxicityPrompts texts that are trained on,
    so that of the texts scored s a share s has a toxicity of 0.5 or more there.

    Attributes:
      data_dir: the labelled text; the environment variable DETOX_JAX_DATA where None.
      l2: strength of regularisation.
      iterations: of L-BFGS, at most.
      identity_sentences: whether sentences that name identities are trained on.
    """

    data_dir: str | None = None
    l2: Positive = 3e-5
    iterations: Count = 100
    identity_sentences: bool = True

    def check(self, output_dir: str) -> None:
        """Refuses an output of other settings; the text, which takes a while to read, is not read.

        Raises:
          UserError: see `outputs.check`.
        """
        outputs.check(output_dir, "train_scorer", lambda: self._settings(output_settings.NOT_YET))

    def _settings(self, data: Any) -> dict[str, Any]:
        """What decides the scorer; by what stands for the text."""
        return output_settings.of_struct(self, instead={"data_dir": {"data": data}})

    def train(self, output_dir: str) -> None:
        """Trains and measures.

        Raises:
          UserError: if the data are missing.
        """
        path = self.data_dir or os.environ.get("DETOX_JAX_DATA")
        if not path:
            raise UserError(
                "no labelled text: set --gin.DATA_DIR, or the environment variable DETOX_JAX_DATA"
            )
        examples = labelled.read_examples(Path(path))
        sentences = labelled.read_identity_sentences(Path(path))
        settings = self._settings(_describe(examples))
        output = outputs.OutputDirectory(output_dir, "train_scorer", settings)
        if output.complete:
            return
        self._fit(output.path, examples)
        with atomic_files.staying(output_dir):
            (output.path / WEIGHTS_NAME).stat()
        scorer = ngram.NgramScorer(str(output.path / WEIGHTS_NAME))
        with terminal.stage("measure on held-out texts"):
            held_out = [example for example in examples if example.held_out]
            report = measure(scorer, held_out, sentences)
        reliability = quality.curve_for_report(
            report["reliability"],
            report["sources"]["rtp"]["calibration_error"],
            f"Perspective at least {TOXIC}, held-out RealToxicityPrompts texts",
        )
        atomic_files.write_json(output.path / RELIABILITY_NAME, reliability)
        identity = {"name": scorer.name, "fingerprint": scorer.fingerprint}
        output.finish(scorer=identity, quality=report)
        print(f"{output_dir}: {scorer.fingerprint}")
        for source, figures in report["sources"].items():
            line = "".join(f" {name} {value:.3f}" for name, value in figures.items())
            print(f"  {source:12}{line}")

    def _fit(self, output_dir: epath.Path, examples: Sequence[labelled.Example]) -> None:
        training = [
            example
            for example in examples
            if not example.held_out
            and (self.identity_sentences or example.source not in labelled.IDENTITY_SOURCES)
        ]
        began = time.monotonic()
        print(f"fitting {len(training)} texts, {1 + _NUM_FOLDS} times", file=sys.stderr)
        matrix_NF = feature_matrix([example.text for example in training])
        fitted = _fit(matrix_NF, training, self.l2, self.iterations)
        weights_F, bias = fitted.weights_F, fitted.bias
        slope, intercept = _calibrate(matrix_NF, training, self.l2, self.iterations)
        _write(output_dir / WEIGHTS_NAME, weights_F * slope, bias * slope + intercept)
        print(
            f"{output_dir}: loss {fitted.first_loss:.3f} at first, {fitted.last_loss:.3f} after "
            f"{fitted.iterations} iterations; {terminal.duration(time.monotonic() - began)}, "
            f"{preview.peak_memory()}"
        )


def feature_matrix(texts: Sequence[str]) -> sparse.csr_matrix:
    """The scaled features of texts, float32 [N, F]."""
    blocks = []
    with terminal.bar("extract features", len(texts), unit="texts") as advance:
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            part = texts[first : first + _TEXTS_AT_ONCE]
            kinds = ngram.extract(part)
            values = [
                ngram.scales(features, kind, len(part))[features.rows_E].astype(np.float32)
                for kind, features in enumerate(kinds)
            ]
            rows = np.concatenate([features.rows_E for features in kinds])
            buckets = np.concatenate([features.buckets_E for features in kinds])
            shape = (len(part), ngram.NUM_BUCKETS)
            blocks.append(sparse.csr_matrix((np.concatenate(values), (rows, buckets)), shape=shape))
            advance(len(part))
    return sparse.csr_matrix(sparse.vstack(blocks))


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """A logistic regression.

    Attributes:
      weights_F: of the features.
      bias: beside them.
      first_loss: that was minimised, where all weights are 0.
      last_loss: at its least.
      iterations: that it took.
    """

    weights_F: np.ndarray
    bias: float
    first_loss: float
    last_loss: float
    iterations: int


def _fit(
    matrix_NF: sparse.csr_matrix,
    examples: Sequence[labelled.Example],
    l2: float,
    iterations: int,
    of: str = "all texts",
) -> _Fitted:
    """Weights and bias that minimise the weighted mean cross-entropy + l2/2 |weights|^2.

    Buckets that only one text has keep the weight zero.
    """
    used = np.flatnonzero(np.bincount(matrix_NF.indices, minlength=ngram.NUM_BUCKETS) >= 2)
    used_NU = sparse.csr_matrix(matrix_NF.tocsc()[:, used])  # U: the buckets that are used
    used_UN = used_NU.T.tocsr()
    targets_N = np.array([example.toxicity for example in examples])
    importance_N = np.array([example.weight for example in examples])
    importance_N /= importance_N.sum()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w_U, b = parameters[:-1].astype(np.float32), parameters[-1]
        logits_N = used_NU @ w_U + b
        losses_N = np.logaddexp(0, logits_N) - targets_N * logits_N
        error_N = importance_N * (1 / (1 + np.exp(-logits_N)) - targets_N)
        error_N = error_N.astype(np.float32)
        gradient = np.append(used_UN @ error_N + l2 * w_U, error_N.sum())
        total = importance_N @ losses_N + 0.5 * l2 * (w_U @ w_U)
        return float(total), gradient.astype(np.float64)

    start = np.zeros(len(used) + 1)
    with terminal.bar(f"fit {of}", iterations, unit="iterations at most") as advance:
        result = optimize.minimize(
            loss,
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations},
            callback=lambda intermediate_result: advance(
                note=f"loss {intermediate_result.fun:.3f}"
            ),
        )
    weights_F = np.zeros(ngram.NUM_BUCKETS)
    weights_F[used] = result.x[:-1]
    return _Fitted(weights_F, float(result.x[-1]), loss(start)[0], float(result.fun), result.nit)


def _calibrate(
    matrix_NF: sparse.csr_matrix, examples: Sequence[labelled.Example], l2: float, iterations: int
) -> tuple[float, float]:
    """Platt's slope and intercept, from scores of RTP texts by models that did not see them."""
    is_rtp_N = np.array([example.source == "rtp" for example in examples])
    fold_N = np.array([example.fold for example in examples])
    logits_N = np.zeros(len(examples))
    for fold in range(_NUM_FOLDS):
        outside_N = ~is_rtp_N | (fold_N != fold)
        rest = list(itertools.compress(examples, outside_N))
        of = f"all but part {fold + 1} of {_NUM_FOLDS}"
        fitted = _fit(matrix_NF[outside_N], rest, l2, iterations, of)  # type: ignore
        part_MF = matrix_NF[~outside_N]  # type: ignore
        logits_N[~outside_N] = part_MF @ fitted.weights_F + fitted.bias
    toxic_N = np.array([example.toxicity >= TOXIC for example in examples])
    return platt(logits_N[is_rtp_N], toxic_N[is_rtp_N])


def platt(logits_N: np.ndarray, positive_N: np.ndarray) -> tuple[float, float]:
    """The slope and intercept of the logistic curve that fits best (Platt, 1999)."""

    def loss(parameters: np.ndarray) -> float:
        z_N = parameters[0] * logits_N + parameters[1]
        return float(np.mean(np.logaddexp(0, z_N) - positive_N * z_N))

    slope, intercept = optimize.minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    return float(slope), float(intercept)


def _write(path: epath.Path, weights_F: np.ndarray, bias: float) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, weights=weights_F.astype(np.float16), bias=np.float32(bias))
    atomic_files.write_bytes(path, file.getvalue())


def _describe(examples: Sequence[labelled.Example]) -> dict[str, Any]:
    digest = hashlib.sha256()
    counts: dict[str, int] = {}
    for example in examples:
        digest.update(f"{example}\n".encode())
        counts[example.source] = counts.get(example.source, 0) + 1
    return {"sha256": digest.hexdigest(), "texts": counts}


def measure(
    scorer: ngram.NgramScorer,
    held_out: Sequence[labelled.Example],
    sentences: Sequence[labelled.IdentitySentence],
) -> dict[str, Any]:
    """Quality on texts never trained on: by source, by identity, under disguises.

    Texts that the scorer cannot read are left out.
    """
    report: dict[str, Any] = {"sources": {}}
    held_out = [example for example in held_out if scorer.can_read(example.text)]
    for source in dict.fromkeys(example.source for example in held_out):
        part = [example for example in held_out if example.source == source]
        texts = [example.text for example in part]
        targets_N = np.array([example.toxicity for example in part])
        scores_N = quality.score_array(scorer, texts)
        if source in ("rtp", "wiki_talk"):  # the sources with graded labels of both kinds
            report["sources"][source] = quality.ranking(scores_N, targets_N)
        else:
            toxic = float(np.mean(scores_N >= TOXIC))
            report["sources"][source] = {"texts": len(part), "share_scored_toxic": toxic}
        if source == "rtp":
            report["reliability"] = quality.reliability(scores_N, targets_N >= TOXIC)
            report["robustness"] = quality.robustness(scorer, texts, targets_N)
    report["fairness"] = quality.fairness(scorer, sentences)
    return report
