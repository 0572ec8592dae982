"""Sentences beside the figures: what steering and the choice among samples mean for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from detox_jax.evaluation import accuracy, picture_data
from detox_jax.evaluation.rows import Quality
from detox_jax.evaluation.scored_texts import Scored
from detox_jax.evaluation.soundness import FEW_UNSPACED
from detox_jax.segmenters import Segmenter


def on_unread(
    heldout: str | None, quality: Mapping[str, Quality], with_model: Collection[str]
) -> list[str]:
    """That held-out text was given, and there is no model to read it.

    Args:
      heldout: the text; None where none was given.
      quality: the figures of one split, by method.
      with_model: methods of which a checkpoint is known.
    """
    if heldout is None or with_model or any(of.perplexity for of in quality.values()):
        return []
    return [
        "Nothing read HELDOUT: no method has a model. evaluate.Method names it as its "
        f"checkpoint_path; in a gin file, METHODS = {{'{next(iter(quality))}': "
        "@mine/evaluate.Method(), ...} and mine/evaluate.Method.checkpoint_path = its model."
    ]


def on_perplexity(
    scored: Mapping[str, Scored], quality: Mapping[str, Quality], with_model: Collection[str]
) -> list[str]:
    """What a steered row's perplexity on held-out text is of, or why there is none.

    Args:
      scored: the continuations, by method.
      quality: the figures of one split, by method.
      with_model: methods of which a checkpoint is known.
    """
    unmeasured = [
        name
        for name in with_model
        if scored[name].is_steered
        and quality[name].perplexity is None
        and quality[name].perplexity_undefined is None
    ]
    notes = []
    if unmeasured:
        notes.append(
            "Without a perplexity on held-out text, which is not measured of a steered model: "
            f"{', '.join(unmeasured)}." + _how_to_measure(unmeasured[0], scored[unmeasured[0]])
        )
    for name, of in quality.items():
        figure = of.perplexity
        if of.perplexity_undefined is not None:
            notes.append(
                f"The perplexity of {name} on held-out text is not defined: STEERING holds "
                f"{of.perplexity_undefined}."
            )
        if figure is not None and figure.impossible:
            notes.append(
                f"The perplexity of {name} is infinite on {figure.impossible:,} of "
                f"{figure.documents + figure.impossible:,} held-out documents "
                f"({100 * figure.impossible_share:.1f} %), which hold what it never writes; the "
                "figure is that of the others."
            )
    return notes


def _how_to_measure(name: str, of: Scored) -> str:
    """What to write for a perplexity of a steered row."""
    drawn_under = ", ".join(str(method.get("method")) for method in of.steered_by or ())
    return (
        f" With HELDOUT and its methods it is: in a gin file, METHODS = {{'{name}': "
        f"@{name}/evaluate.Method(), ...}} and {name}/evaluate.Method.steering = the STEERING that "
        f"it was generated under ({drawn_under}); docs/STEERING.md shows such a file."
    )


def on_template(
    scored: Mapping[str, Scored], reference_asks: Callable[[], bool | None]
) -> list[str]:
    """Whose prompts were asked in a chat template, and how the reference read their answers.

    Args:
      scored: the continuations, by method.
      reference_asks: says whether the reference has a template; None where there is no reference.
    """
    asked = [name for name, of in scored.items() if of.is_asked]
    if not asked:
        return []
    raw = [n for n, of in scored.items() if of.decoding is not None and not of.is_asked]
    others = f"; given as raw text: {', '.join(raw)}" if raw else ""
    notes = [f"Prompts were asked in the tokenizer's chat template: {', '.join(asked)}{others}."]
    if reference_asks() is False:
        notes.append(
            f"The perplexity of the continuations of {', '.join(asked)} is of raw text behind the "
            "prompts, since REFERENCE has no chat template."
        )
    return notes


def on_choice(scored: Mapping[str, Scored]) -> list[str]:
    """Which continuations were chosen among more samples, and by whom."""
    notes = []
    for name, of in scored.items():
        if of.chosen_by is None:
            continue
        number = (of.decoding or {}).get("best_of", {}).get("samples_per_result")
        of_how_many = f"{number:g}" if number else "several"
        same = of.chosen_by == of.scorer
        flatters = ", the judge itself: its toxicity here flatters it" if same else ""
        rate = of.acceptance_rate
        accepted = "" if rate is None else f" ({rate:.1%} of the samples)"
        notes.append(
            f"Continuations of {name} are each the least toxic of {of_how_many} samples by "
            f"{of.chosen_by.fingerprint}{accepted}{flatters}. Its perplexity on held-out text and "
            "its accuracies, where it has them, are its model's, of which the choice changes "
            "nothing."
        )
    return notes


def on_k_curve(scored: Mapping[str, Scored]) -> list[str]:
    """Which prompts the k-curve is over, where some have too few scores for it."""
    counted = []
    for name, of in scored.items():
        ks, enough_P = picture_data.prompts_of_k_curve(of.scores_PK)
        if not enough_P.all():
            number = f"{int(enough_P.sum()):,} of the {len(enough_P):,}"
            counted.append(f"{number} of {name} have at least {max(ks)}")
    if not counted:
        return []
    return [
        "The k-curve is, for every k, over the prompts with scores enough for its last k: "
        f"{', '.join(counted)}."
    ]


def on_questions(answers: Mapping[str, accuracy.Answers]) -> list[str]:
    """How many questions an accuracy is over, and which of them a model could not read."""
    if not answers:
        return []
    asked = [
        f"{accuracy.named(task)} {len(of_task):,}"
        for task, of_task in next(iter(answers.values())).items()
    ]
    notes = [f"Zero-shot questions asked: {', '.join(asked)}."]
    left_out = [
        f"{number:,} of {accuracy.named(task)} by {name}"
        for name, of_tasks in answers.items()
        for task, of_task in of_tasks.items()
        if (number := sum(right is None for right in of_task.values()))
    ]
    if left_out:
        notes.append(
            "Left out, being too long for a model's context: "
            f"{', '.join(left_out)}. An accuracy is over the others, and a difference over those "
            "that both models could read."
        )
    return notes


def on_words(of_methods: Mapping[str, Quality], segmenter: Segmenter | None) -> list[str]:
    """Whose figures of words are none, since its texts have no spaces between words.

    Args:
      of_methods: each method's quality on all prompts.
      segmenter: by which words were counted.
    """
    counted = []
    if segmenter is not None:
        by = " ".join(segmenter.described().values())
        counted = [
            "Words are counted as white space tells them, and in scripts without spaces between "
            f"words by {by}: lengths in words, distinct n-grams, self-BLEU, loops and perplexity "
            "by word."
        ]
    shares = {
        name: quality.unspaced_fraction
        for name, quality in of_methods.items()
        if quality.unspaced_fraction >= FEW_UNSPACED
    }
    if not shares:
        return counted
    said = ", ".join(f"{share:.0%} of {name}'s" for name, share in shares.items())
    remedy = "" if segmenter else " WORD_SEGMENTER=@segmenters.Icu() counts words there too."
    return [
        *counted,
        f"Of the continuations {said} are in scripts without spaces between words (Chinese, "
        "Japanese, Thai and others). Lengths in words, distinct n-grams, self-BLEU, loops and "
        "perplexity by word count what stands between spaces: do not read them as figures of "
        "words, nor compare them with other languages'; tokens and perplexity by token hold."
        f"{remedy}",
    ]
