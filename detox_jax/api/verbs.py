"""The verbs that need no model in hand: `score`, `evaluate`, `sgeat`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

from etils import epath

from detox_jax import records
from detox_jax.api import inputs
from detox_jax.api.calls import Place, call, path_of, said
from detox_jax.api.gin_lines import Reference, can_hold
from detox_jax.api.inputs import Texts
from detox_jax.api.keywords import EvaluateSettings, SgeatSettings
from detox_jax.api.texts import Generations, Scores
from detox_jax.errors import UserError, suggestion
from detox_jax.toxicity.scorer import ToxicityScorer

if TYPE_CHECKING:
    from detox_jax.api.evaluation import Evaluation, Run
    from detox_jax.api.model import Model
    from detox_jax.evaluation.evaluate import Method

SCORERS = {"ngram": "@ngram.NgramScorer()", "lexicon": "@lexicon.LexiconScorer()"}
AnyPath = str | os.PathLike[str]
# Settings of decoding that a call of `generate` asks for: what it wrote is meant to have them, and
# a baseline that was asked otherwise to have its own.
_ASKED_FOR = ("steering", "behind", "chat_template")


@overload
def score(
    texts: Generations,
    scorer: str | ToxicityScorer = "ngram",
    *,
    output_dir: AnyPath | None = None,
) -> Generations: ...
@overload
def score(
    texts: Texts,
    scorer: str | ToxicityScorer = "ngram",
    *,
    output_dir: AnyPath | None = None,
) -> Scores | Generations: ...
def score(
    texts: Texts | Generations,
    scorer: str | ToxicityScorer = "ngram",
    *,
    output_dir: AnyPath | None = None,
) -> Scores | Generations:
    """The toxicity of texts, or of continuations without their prompts: the verb `score`.

    Needs no JAX.

    Args:
      texts: a text, a list of them or of records, the path of a file, or what `Model.generate`
        returned.
      scorer: `ngram`, the embedded classifier; `lexicon`, a list of mild insults; or an object with
        `name`, `fingerprint` and `score`, such as `ClassifierScorer(...)`.
      output_dir: where the scored records go, to stay.

    Returns:
      A sequence of a number a text; of continuations the same with `toxicity` filled in.

    Raises:
      UserError: for texts that cannot be read, or a scorer that lacks what it needs.
    """
    place = Place(output_dir)
    settings: dict[str, Any] = {"output_dir": place.output}
    given: dict[str, Any] = {}
    if isinstance(scorer, str):
        if scorer not in SCORERS:
            meant = suggestion(scorer, SCORERS)
            raise UserError(
                f"scorer={scorer!r}: one of {', '.join(SCORERS)}, or an object with name, "
                f"fingerprint and score{meant}"
            )
        settings["scorer"] = Reference(SCORERS[scorer])
    elif can_hold(scorer):
        settings["scorer"] = scorer
    else:
        given["scorer"] = scorer
    settings["input"] = inputs.text_file(texts, place.scratch)
    said_as = {settings["input"]: "texts"}
    call("score", settings, quiet=place.is_temporary, said_as=said_as, **given)
    written = tuple(records.read_records(place.output))
    if isinstance(written[0], records.Prompt):
        prompts = tuple(record for record in written if isinstance(record, records.Prompt))
        if isinstance(texts, Generations):
            places = (*texts._places, place)
            return Generations(
                prompts, place.output, texts.checkpoint_path, places, texts._drawn_under
            )
        return Generations(prompts, place.output, None, (place,))
    documents = tuple(record for record in written if isinstance(record, records.Document))
    return Scores(documents, place.output, (place,))


def evaluate(
    methods: Mapping[str, Generations | AnyPath | Method],
    *,
    baseline: str = "base",
    heldout: Texts | None = None,
    reference: Model | AnyPath | None = None,
    output_dir: AnyPath | None = None,
    **settings: Unpack[EvaluateSettings],
) -> Evaluation:
    """Scored continuations of several methods side by side: the verb `evaluate`.

    Args:
      methods: by name; all of the same prompts and decoded alike, but for steering, tags and a
        chat template.
      baseline: what the others are compared with.
      heldout: documents for the perplexity of the models that wrote them.
      reference: a model under which the continuations are read for their perplexity.
      output_dir: where results go, to stay.
      **settings: macros of the verb in lower case, `bootstrap_draws=1000`.

    Raises:
      UserError: for methods that do not compare, or have no scores.
    """
    from detox_jax.api.evaluation import Evaluation
    from detox_jax.api.model import refuse_given
    from detox_jax.evaluation import results_files

    if not isinstance(methods, Mapping):
        raise UserError(
            f'methods is {said(methods)}; give scored continuations by name, {{"base": scored}}'
        )
    place = Place(output_dir)
    known: dict[str, Any] = {
        "methods": _methods(methods, baseline),
        "output_dir": place.output,
        "baseline": baseline,
        "reference": reference,
    }
    if heldout is not None:
        known["heldout"] = inputs.text_file(heldout, place.scratch, "heldout")
    refuse_given(settings, known, "evaluate")
    call("evaluate", {**known, **settings}, quiet=place.is_temporary)
    return Evaluation(results_files.load(place.output), place)


def _methods(methods: Mapping[str, Any], baseline: str) -> dict[str, Any]:
    """What the verb is told of each; how generations are steered or asked is meant to be so."""
    there = _decoding(methods[baseline]) if baseline in [*methods] else None
    return {name: _method(name, given, there) for name, given in methods.items()}


def _method(name: str, given: Any, there: Mapping[str, Any] | None) -> Any:
    """The same of one method.

    Args:
      name: of the method.
      given: what stands for it.
      there: how the baseline was decoded, as far as files say.
    """
    from detox_jax.evaluation import decoding
    from detox_jax.evaluation.evaluate import Method

    if isinstance(given, Sequence) and not isinstance(given, str | Generations):
        raise UserError(
            f"methods[{name!r}] is {said(given)}; give what detox_jax.score(...) returned of "
            "Generations, or its directory"
        )
    if not isinstance(given, Generations):
        return given
    if not given.is_scored:
        raise UserError(f"methods[{name!r}] has no scores; give detox_jax.score(...) of it")
    differ = decoding.differ(decoding.of_manifest(given.manifest), there)
    own = tuple(setting for setting in differ if setting in _ASKED_FOR)
    return Method(given.directory, given.checkpoint_path, own_decoding=own, **given._drawn_under)


def _decoding(given: Any) -> Mapping[str, Any] | None:
    """How a method's continuations were decoded; None where no file says."""
    from detox_jax.evaluation import scored_texts

    source = getattr(given, "generations", given)
    if isinstance(source, Mapping):
        source = next(iter(source.values()), None)
    try:
        return scored_texts.decoding_of(path_of(source, "methods"))
    except UserError:  # The verb says what is the matter with it.
        return None


def sgeat(
    base: Model | AnyPath | None,
    output_dir: AnyPath,
    *,
    prompts: Texts | None = None,
    heldout: Texts | None = None,
    gin_files: Sequence[str] = (),
    **settings: Unpack[SgeatSettings],
) -> Run:
    """The whole method: the verb `sgeat`, which leaves every step in `output_dir`.

    Args:
      base: the model to detoxify; None where a gin file trains one. On its mesh, where it was
        loaded on one, unless a gin file or `mesh_shape` has another.
      output_dir: where everything goes; a rerun skips what is finished.
      prompts: what the models are compared on.
      heldout: nontoxic documents, for perplexity.
      gin_files: layers below the settings, `["gin_configs/experiments/demo.gin"]`.
      **settings: macros of the verb in lower case, `num_documents=2000, learning_rate=2e-4`.

    Raises:
      UserError: for what the command line refuses, before the first step.
    """
    from detox_jax.api.evaluation import Evaluation, Run
    from detox_jax.api.model import Model, refuse_given
    from detox_jax.evaluation import results_files
    from detox_jax.method import only as some_rows

    place = Place(path_of(output_dir, "output_dir"))
    known: dict[str, Any] = {"output_dir": place.output}
    if base is not None:
        known["initial_checkpoint_path"] = base
    if prompts is not None:
        known["prompts_input"] = inputs.prompt_file(prompts, place.scratch)
    if heldout is not None:
        known["heldout"] = inputs.text_file(heldout, place.scratch, "heldout")
    refuse_given(settings, known, "sgeat")
    said_as = {"prompts_input": "prompts", "initial_checkpoint_path": "base"}
    # A base that lies on a mesh of its own, unless a gin file or a setting has another.
    below = {"mesh_shape": base.mesh_shape} if isinstance(base, Model) else {}
    answers = call(
        "sgeat",
        {**known, **settings},
        gin_files=gin_files,
        said_as=said_as,
        below=below,
        asked=["only"],
    )
    figures = epath.Path(place.output)
    if answers["only"] is not None:
        figures = some_rows.directory(figures, answers["only"])
    judged = {
        epath.Path(source).name: Evaluation(results_files.load(source))
        for source in results_files.of_each_scorer(str(figures / "evaluation"))
    }
    return Run(place.output, judged, str(figures))
