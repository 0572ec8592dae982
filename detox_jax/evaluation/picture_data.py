"""What the report draws beside the table: maxima, k-curves, continuations, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
from etils import epath

from detox_jax import record_blocks, records
from detox_jax.checkpoints import metric_lines, places
from detox_jax.evaluation import metrics, results_files
from detox_jax.evaluation.metric_names import EMT
from detox_jax.evaluation.results_files import (
    Continuation,
    Curve,
    KCurve,
    Maxima,
    Prompts,
    Sample,
    Training,
)
from detox_jax.evaluation.scored_texts import Scored

_DRAWN, _SEED = 3, 0  # continuations of a prompt that are shown, and the seed that draws them
_PERPLEXITY = "validation_perplexity"  # as `training.frontier` logs it
_K_CURVE = (1, 2, 5, 10, 15, 20, 25, 50, 100, 200, 500)
_NEARLY_ALL = 0.95  # MIN_COVERAGE's default, which is lowered where a scorer cannot read some texts


def write(
    directory: epath.Path,
    scored: Mapping[str, Scored],
    checkpoints: Mapping[str, str | None],
    generations: Mapping[str, str],
) -> None:
    """Writes `prompts.json`, `samples.json` and `training.json`.

    Args:
      directory: where they go.
      scored: continuations by method, in the same order of prompts.
      checkpoints: the model directory of each method, None where there is none.
      generations: where each method's continuations were read from.
    """
    curves = {name: curve for name, path in checkpoints.items() if (curve := _curve(path))}
    results_files.write(directory / results_files.PROMPTS_FILE, _per_prompt(scored))
    results_files.write(directory / results_files.SAMPLES_FILE, _samples(scored, generations))
    results_files.write(directory / results_files.TRAINING_FILE, Training(curves))


def _per_prompt(scored: Mapping[str, Scored]) -> Prompts:
    maxima = {}
    for name, method in scored.items():
        maxima_P = metrics.maximum_toxicity(method.scores_PK)
        maxima[name] = Maxima(tuple(round(float(x), 6) for x in maxima_P))
    return Prompts(maxima, {name: _k_curve(method.scores_PK) for name, method in scored.items()})


def _k_curve(scores_PK: np.ndarray) -> KCurve:
    ks, enough_P = prompts_of_k_curve(scores_PK)
    emt, tp = metrics.k_curve(scores_PK[enough_P], ks)
    return KCurve(ks, tuple(map(float, emt)), tuple(map(float, tp)))


def prompts_of_k_curve(scores_PK: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Every k of the curve, and the prompts with scores enough for all of them, bool [P].

    Over other prompts for each k a curve might fall. The last k is that of the table, where nearly
    all prompts with a score have as many, and the last one that nearly all reach where not: one
    prompt with a score more than the others would be all that is left. Where every continuation has
    a score, its last value is the table's.
    """
    counts_P = metrics.scored_count_per_prompt(scores_PK)
    fewest, last = _NEARLY_ALL * np.count_nonzero(counts_P), scores_PK.shape[1]
    possible = (*(k for k in _K_CURVE if k < last), last)
    ks = tuple(k for k in possible if np.count_nonzero(counts_P >= k) >= fewest)
    return ks, counts_P >= max(ks)


def _samples(
    scored: Mapping[str, Scored], generations: Mapping[str, str], count: int = 12
) -> list[Sample]:
    """For prompts spread over the file, some continuations of each method, and its worst."""
    prompts = next(iter(scored.values())).prompts
    num_prompts = len(prompts)
    chosen = np.unique(np.linspace(0, num_prompts - 1, min(count, num_prompts)).astype(int))
    wanted = {prompts[i].id for i in chosen}
    texts = {
        name: _texts(path, wanted, scored[name].is_plain) for name, path in generations.items()
    }
    common = min(method.samples_per_prompt for method in scored.values())
    return [_sample(prompts[i], [_SEED, int(i)], common, texts) for i in chosen]


def _texts(generations: str, wanted: Set[str], is_plain: bool) -> dict[str, list[Continuation]]:
    """All continuations of some prompts, by id: the files are read again, since they are many."""
    return {
        prompt.id: [Continuation(x.text, x.toxicity) for x in prompt.generations]
        for prompt in record_blocks.prompts_of(generations, wanted, is_plain)
    }


def _sample(
    prompt: records.Prompt,
    seed: list[int],
    common: int,
    texts: Mapping[str, Mapping[str, Sequence[Continuation]]],
) -> Sample:
    """What is shown of a prompt, of the continuations that all methods have in common."""
    of_methods = {name: of[prompt.id][:common] for name, of in texts.items() if of[prompt.id]}
    common = min(map(len, of_methods.values()), default=0)
    drawn = np.random.default_rng(seed).choice(common, min(_DRAWN, common), replace=False)
    numbers = sorted(drawn.tolist())
    worst = {name: _worst(several[:common]) for name, several in of_methods.items()}
    return Sample(
        prompt.id,
        prompt.text,
        prompt.toxicity,
        continuations={name: several[0] for name, several in of_methods.items()},
        drawn={name: tuple(several[n] for n in numbers) for name, several in of_methods.items()},
        worst={name: text for name, text in worst.items() if text},
        count=common,
        seed=_SEED,
    )


def _worst(texts: Sequence[Continuation]) -> Continuation | None:
    """The most toxic text; None where none has a score."""
    rated = [(text.toxicity, -i) for i, text in enumerate(texts) if text.toxicity is not None]
    return texts[-max(rated)[1]] if rated else None


def _curve(checkpoint_path: str | None) -> Curve | None:
    """Losses and frontier that `train` logged; the report averages what is too much to draw."""
    if checkpoint_path is None:
        return None
    model_dir, step = places.split(checkpoint_path)
    file = model_dir / places.METRICS_FILE
    if not file.exists():
        return None
    lines = [values for line in metric_lines.read(file) if (values := metric_lines.scalars(line))]
    lines = [values for values in lines if step is None or values["step"] <= step]
    losses = [values for values in lines if "loss" in values]
    validation = [values for values in lines if "validation_loss" in values]
    frontier = [values for values in lines if {EMT, _PERPLEXITY} <= values.keys()]
    return Curve(
        step=tuple(int(values["step"]) for values in losses),
        loss=tuple(values["loss"] for values in losses),
        validation_step=tuple(int(values["step"]) for values in validation),
        validation_loss=tuple(values["validation_loss"] for values in validation),
        frontier_step=tuple(int(values["step"]) for values in frontier),
        frontier_toxicity=tuple(values[EMT] for values in frontier),
        frontier_perplexity=tuple(values[_PERPLEXITY] for values in frontier),
    )
