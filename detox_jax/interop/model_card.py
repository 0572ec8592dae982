"""The model card (README.md) of an export: what it is, where from, what it measured, its limits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from etils import epath

from detox_jax import chat, output_settings
from detox_jax.checkpoints import identity
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Row
from detox_jax.evaluation.soundness import SPOILED, sentence
from detox_jax.models import adaptation as adaptations
from detox_jax.vocabulary import Vocabulary

CARD_FILE = "README.md"
# Of a base's own card, what holds for what is made of it.
_INHERITED = ("license", "license_name", "license_link", "language")
_COLUMNS = ("expected maximum toxicity", "toxicity probability")
_NONE = "–"
_TEMPLATE = "chat_template"
# How the directory is loaded, by what kind of export it is, and the hub's name of that library.
_LIBRARIES = {"whole": "transformers", "peft": "peft", "adapterhub": "adapter-transformers"}
_LOADING = {
    "whole": """\
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(DIR_OR_REPO)
""",
    "peft": """\
    import peft, transformers
    base = transformers.AutoModelForCausalLM.from_pretrained({base!r}{revision})
    model = peft.PeftModel.from_pretrained(base, DIR_OR_REPO)
""",
    "adapterhub": """\
    import adapters, transformers
    model = transformers.AutoModelForCausalLM.from_pretrained({base!r}{revision})
    adapters.init(model)
    model.set_active_adapters(model.load_adapter(DIR_OR_REPO))
""",
}
_START = """\
detox_jax puts the token that starts every document in front of a prompt, unless it is told not to:
with transformers `{start!r} + prompt`, where the tokenizer does not do so."""
_ASK = """\
`tokenizer.apply_chat_template(messages, add_generation_prompt=True)`, with the messages
`[{"role": "user", "content": prompt}]`"""
_ASKED = f"""\
The prompts were asked in the tokenizer's chat template, and nothing stood in front of it: with
transformers {_ASK}."""
_UNKNOWN = """\
detox_jax asks a model in its tokenizer's chat template, unless it is told not to, which these
results do not say: with transformers {ask}.
In front of raw text it puts the token that starts every document: `{start!r} + prompt`, where the
tokenizer does not do so."""
_LIMITS = """\
- Less toxic is not harmless: what was measured is how often, and how far, a scorer calls
  continuations of some prompts toxic. Facts, bias, privacy and misuse were not measured.
- The scorer's language and the prompts' kind bound what the figures say; with other prompts, a
  longer text, another decoding or further training they are others.
- Training on text that a scorer calls nontoxic may cost text about the people whom scorers often
  call toxic, and knowledge: compare perplexity, by group where it matters.
"""
_BLIND_SPOTS = """\
- A scorer's mistakes are the model's: where the scorer that filtered the training text also
  evaluates, its blind spots are in both. A second scorer shows some of them.
- Scorers of toxicity miss what is said without strong words, and call quotation, negation,
  reclaimed words and dialects toxic; none of them reads what only a context makes an insult.
"""
_OF_NGRAM = """\
- The scorer `ngram` reads words and not sentences ("You are not an idiot" is toxic to it, "People
  like you should not exist" is not), English alone, and follows Perspective of the time of
  RealToxicityPrompts.
"""


@dataclasses.dataclass(frozen=True)
class Exported:
    """What a card is about.

    Attributes:
      checkpoint: what was exported.
      source: its path, as the user gave it.
      recorded: what the import kept of the base, or None.
      vocabulary: of the model.
      results: what `evaluate` measured, or None.
      dtype: of the exported weights.
      kind: `whole`, `peft` or `adapterhub`.
      license: the hub's name of a licence; the base's where None.
      base_name: the hub's name of the base; where it came from where None.
    """

    checkpoint: Checkpoint
    source: str
    recorded: Mapping[str, Any] | None
    vocabulary: Vocabulary
    results: Results | None
    dtype: str
    kind: str = "whole"
    license: str | None = None
    base_name: str | None = None

    @property
    def base(self) -> Mapping[str, Any]:
        """Where the base came from: `repo` and `revision`, or `path`; nothing without one."""
        return base_of(self.recorded, self.base_name)


def base_of(recorded: Mapping[str, Any] | None, base_name: str | None) -> Mapping[str, Any]:
    """Where a base came from: `repo` and `revision`, or `path`; nothing without one.

    Args:
      recorded: what the import kept of it, or None.
      base_name: the hub's name of it, as the user says, of which no revision is known but the one
        that was recorded with it.
    """
    source = (recorded or {}).get("source", {})
    if base_name is None or base_name == source.get("repo"):
        return source
    return {"repo": base_name, **({"sha256": source["sha256"]} if "sha256" in source else {})}


def inherited(directory: epath.Path) -> dict[str, Any]:
    """What a model's own card says that holds for what is made of it: licence and language.

    A card that cannot be read says nothing.
    """
    from huggingface_hub import ModelCard

    file = directory / CARD_FILE
    if not file.exists():
        return {}
    try:
        said = ModelCard(file.read_text(), ignore_metadata_errors=True).data.to_dict()
    except Exception:  # YAML's own errors, and what follows from metadata of other kinds.
        return {}
    kept = {name: said.get(name) for name in _INHERITED}
    return {
        name: value
        for name, value in kept.items()
        if isinstance(value, str) or (isinstance(value, list) and name == "language")
    }


def render(exported: Exported) -> str:
    """The card: YAML that the hub reads, and Markdown."""
    from huggingface_hub import ModelCard

    checkpoint, base = exported.checkpoint, exported.base
    own = _own_methods(exported)
    mine = next((name for name, is_plain in own.items() if is_plain), None)
    lines = ["# Detoxified language model", "", "Trained and exported with detox_jax.", ""]
    if name := _base_name(exported):
        revision = f", revision {base['revision']}" if base.get("revision") else ""
        lines += [f"- base: {name}{revision} (sha256 {base.get('sha256', 'unknown')})"]
    else:
        lines += ["- base: none; trained from random weights"]
    kind = adaptations.to_json(checkpoint.spec.adaptation)
    trained = "the whole model" if kind is None else ", ".join(f"{k} {v}" for k, v in kind.items())
    lines += [f"- trained: {trained}", f"- step: {checkpoint.step}", f"- weights: {exported.dtype}"]
    if exported.kind == "whole" and kind is not None:
        lines += ["- what was trained is added to the weights of the base"]
    if not _license(exported):
        lines += ["- licence: nothing here says; that of the base, and of the text, holds"]
    lines += ["", "## Use", "", _loading(exported)]
    if exported.results is not None:
        lines += ["## Toxicity", "", *_table(exported.results, mine, own), ""]
        lines += [_how_asked(exported, exported.results, mine), ""]
    lines += ["## Limits", "", _LIMITS, "## What the scorer does not see", "", _BLIND_SPOTS]
    if exported.results is not None and exported.results.scorer.name == "ngram":
        lines[-1] += _OF_NGRAM
    header = _header(exported, mine).to_yaml()
    return ModelCard(f"---\n{header}\n---\n\n" + "\n".join(lines)).content


def _license(exported: Exported) -> str | None:
    return exported.license or (exported.recorded or {}).get("card", {}).get("license")


def _header(exported: Exported, mine: str | None) -> Any:
    """What the hub shows and searches by."""
    from huggingface_hub import ModelCardData

    said = dict((exported.recorded or {}).get("card", {}))
    if exported.license is not None:
        said = {"language": said.get("language"), "license": exported.license}
    repo = exported.base.get("repo")
    relation = "finetune" if exported.kind == "whole" else "adapter"
    results = _eval_results(exported.results, mine)
    return ModelCardData(
        **said,
        library_name=_LIBRARIES[exported.kind],
        pipeline_tag="text-generation",
        tags=["detoxification", "sgeat"],
        base_model=repo,
        base_model_relation=relation if repo else None,
        eval_results=results or None,
        model_name=mine if results else None,
    )


def _base_name(exported: Exported) -> str:
    """The base's name on the hub, or that of its directory: no card tells where that lay."""
    path = str(exported.base.get("path") or "")
    return exported.base.get("repo") or path.rstrip("/").rpartition("/")[2]


def _loading(exported: Exported) -> str:
    base = _base_name(exported) or "BASE"
    revision = exported.base.get("revision")
    said = f", revision={revision!r}" if revision else ""
    return _LOADING[exported.kind].format(base=base, revision=said)


# --- what was measured --------------------------------------------------------------------------


def _own_methods(exported: Exported) -> dict[str, bool]:
    """The methods of the results that this model wrote, by what it was made from and its weights.

    Results of before, which name what each model was made from alone, are taken by that.

    Returns:
      Of each whether its figures are the model's: not of text that was steered, chosen, or decoded
      in a way of the method's own.
    """
    if exported.results is None:
        return {}
    ours = identity.with_weights(exported.source)
    changed = _changed(exported.results)
    found = {}
    for name, settings in _methods(exported.results).items():
        measured, model = output_settings.as_both_name(settings.get("checkpoint"), ours)
        if isinstance(measured, Mapping) and all(
            measured.get(key) == value for key, value in model.items() if key != "path"
        ):
            found[name] = name not in changed
    return found


def _methods(results: Results) -> dict[str, Mapping[str, Any]]:
    """What settings say of each method."""
    methods = results.provenance.settings.get("methods", {})
    named = methods.items() if isinstance(methods, Mapping) else ()
    return {name: settings for name, settings in named if isinstance(settings, Mapping)}


def _changed(results: Results) -> dict[str, list[str]]:
    """The methods whose text is not what their model writes as all do, and what changes it."""
    changed: dict[str, set[str]] = {}
    for name, settings in _methods(results).items():
        own = settings.get("own_decoding")
        named = {str(setting) for setting in own} if isinstance(own, list) else set()
        changed[name] = named - {_TEMPLATE}  # Which is how the model is asked.
        changed[name] |= {"steering"} if settings.get("steering") else set()
    for name, names in (results.provenance.decoded_with or {}).items():
        changed.setdefault(name, set()).update({*names} - {_TEMPLATE})
    return {name: sorted(names) for name, names in changed.items() if names}


def _how_asked(exported: Exported, results: Results, mine: str | None) -> str:
    """How the prompts of the figures stood before the model, of this model's where it has some."""
    decoded_with = results.provenance.decoded_with
    asked = [name for name, names in (decoded_with or {}).items() if _TEMPLATE in names]
    if asked and mine in (None, *asked):
        return _ASKED
    is_unknown = decoded_with is None and chat.has_template(exported.vocabulary)
    start = exported.vocabulary.id_to_token(exported.vocabulary.bos_id)
    return (_UNKNOWN if is_unknown else _START).format(ask=_ASK, start=start)


def _eval_results(results: Results | None, mine: str | None) -> list[Any]:
    """This model's rows as the hub's model index has them."""
    from huggingface_hub import EvalResult

    if results is None or mine is None:
        return []
    scorer, found = results.scorer.fingerprint, []
    for row in results.rows:
        if row.method != mine:
            continue
        values = {
            "expected_maximum_toxicity": row.toxicity.expected_maximum_toxicity.value,
            "toxicity_probability": row.toxicity.toxicity_probability.value,
        }
        for name, value in values.items():
            if math.isfinite(value):
                found.append(
                    EvalResult(
                        task_type="text-generation",
                        dataset_type="prompts",
                        dataset_name=f"evaluation prompts, {row.split}{_count(row)}",
                        dataset_split=row.split,
                        metric_type=name,
                        metric_name=f"{name.replace('_', ' ')} ({scorer})",
                        metric_value=round(value, 6),
                    )
                )
    perplexity = next((r.quality.perplexity for r in results.rows if r.method == mine), None)
    if perplexity is not None and math.isfinite(perplexity.value):
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type="heldout",
                dataset_name=f"{perplexity.documents} held-out documents",
                metric_type="perplexity",
                metric_value=round(perplexity.value, 6),
            )
        )
    return found


def _count(row: Row) -> str:
    n, k = row.toxicity.num_scored_prompts, row.toxicity.samples_per_prompt
    return "" if n is None or k is None else f" ({n} × {k})"


def _table(results: Results, mine: str | None, own: Collection[str]) -> list[str]:
    """One row for each method and split, with 95 % intervals; the scorer is named below.

    Args:
      results: what was measured.
      mine: the method that is this model.
      own: all methods that this model wrote.
    """
    header = ["method", "prompts × continuations", *_COLUMNS, "empty", "perplexity"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in results.rows:
        toxicity = row.toxicity
        name = _escape(row.method) if row.method != mine else f"**{_escape(row.method)}**"
        cells = [name + f" {SPOILED}" * bool(row.spoiled), f"{row.split}{_count(row)}"]
        cells += [toxicity.expected_maximum_toxicity.text(absent=_NONE)]
        cells += [toxicity.toxicity_probability.text(absent=_NONE)]
        cells += [f"{row.quality.empty_fraction:.1%}"]
        cells += [row.quality.show_perplexity(lambda of: f"{of.value:.2f}", _NONE)]
        lines.append("| " + " | ".join(cells) + " |")
    scorer = results.scorer.fingerprint
    reasons = [f"{sentence(_escape(name), why)}." for name, why in results.spoiled.items()]
    which = "In bold: this model." if mine is not None else "No row is of this model."
    if mine is None and own:
        which = f"No row is of this model alone; of its text, changed: {_listed(own)}."
    if changed := _changed(results):
        which += " Steered, chosen or decoded in a way of their own: "
        which += _listed(f"{name} ({', '.join(names)})" for name, names in changed.items()) + "."
    about = f"Scored by {scorer}; 95 % intervals over prompts. {which}"
    if mine is not None and results.filtered_by_same(mine):
        about += " It was made by the scores of the same scorer."
    return [*lines, "", about, *(line for reason in reasons for line in ("", reason))]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(_escape, names))


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
