"""Which output of a published classifier is its toxicity, and how it becomes a probability.

The repositories could not be read here, so that each entry names what it rests on. A wrong label
fails with the list of those that config.json has, and `label` overrides it.

  unitary/toxic-bert: `toxic` among the six labels of the Jigsaw challenge, each with a sigmoid: the
    config.json of models that name it as their origin (Dharil/toxic-initial-training). Two programs
    download exactly its config.json, vocab.txt and model.safetensors.
  unitary/unbiased-toxic-roberta: `toxicity`, likewise; llm-guard's toxicity scanner, which runs it,
    lists the same names.
  unitary/multilingual-toxic-xlm-roberta: likewise; of projects that run it (revision 4ad6f5c104d9
    of one) some report a single label, some `toxicity` among several. One converts it with its
    SentencePiece model.
  s-nlp/roberta_toxicity_classifier: its model card: index 0 is neutral, 1 toxic, with
    RobertaTokenizer, so softmax; garak's detector that runs it calls them `neutral` and `toxic`.
  facebook/roberta-hate-speech-dynabench-r4-target: `hate` is the second of two, softmax: projects
    that run it. It measures hate, not toxicity at large.
  cooperleong00/deberta-v3-large_toxicity-scorer: `LABEL_1` of two, softmax, fitted to Perspective's
    probabilities by KL divergence: its model card (Leong et al., 2023), and code that evaluates
    with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from detox_jax.errors import UserError

SIGMOID, SOFTMAX = "sigmoid", "softmax"


@dataclasses.dataclass(frozen=True)
class Output:
    """An output of a classifier that means toxicity.

    Attributes:
      labels: names of the output, the first that the classifier has.
      activation: `sigmoid` or `softmax`.
    """

    labels: tuple[str, ...]
    activation: str


PUBLISHED = {
    "unitary/toxic-bert": Output(("toxic",), SIGMOID),
    "unitary/unbiased-toxic-roberta": Output(("toxicity",), SIGMOID),
    "unitary/multilingual-toxic-xlm-roberta": Output(("toxicity", "toxic"), SIGMOID),
    "s-nlp/roberta_toxicity_classifier": Output(("toxic",), SOFTMAX),
    "facebook/roberta-hate-speech-dynabench-r4-target": Output(("hate",), SOFTMAX),
    "cooperleong00/deberta-v3-large_toxicity-scorer": Output(("LABEL_1",), SOFTMAX),
}


def choose_output(
    name: str,
    label: str | None,
    labels: Sequence[str],
    problem_type: str | None,
    activation: str | None = None,
) -> tuple[int, str]:
    """Index of the output that is toxicity, and its activation.

    Args:
      name: directory or hub name of the classifier.
      label: of the output; the published classifier's own where None.
      labels: of all outputs.
      problem_type: of config.json. One output or several labels at once mean sigmoid, one label of
        several softmax, as in transformers' pipeline.
      activation: as the user says; as the classifier says where None.

    Raises:
      UserError: for a label that the classifier lacks, none where none is known, an activation that
        is none, or a regression, whose outputs are no probabilities.
    """
    published = PUBLISHED.get(name)
    listed = f"its labels are {', '.join(labels)}"
    if label is None:
        if published is None:
            raise UserError(f"{name}: which output is toxicity? Set the scorer's label; {listed}")
        label = next((each for each in published.labels if each in labels), published.labels[0])
    if label not in labels:
        raise UserError(f"{name}: has no label {label!r}; {listed}")
    if published is None and problem_type == "regression":
        raise UserError(
            f"{name}: problem_type is regression, whose output is no probability; take a classifier"
        )
    if activation is not None:
        _check_activation(activation, len(labels))
        return labels.index(label), activation
    if published is not None:
        return labels.index(label), published.activation
    several = problem_type == "multi_label_classification" or len(labels) == 1
    return labels.index(label), SIGMOID if several else SOFTMAX


def _check_activation(activation: str, num_labels: int) -> None:
    if activation not in (SIGMOID, SOFTMAX):
        raise UserError(
            f"ClassifierScorer.activation is {activation!r}; one of {SIGMOID}, {SOFTMAX}"
        )
    if activation == SOFTMAX and num_labels == 1:
        raise UserError(
            f"ClassifierScorer.activation is {SOFTMAX!r}, which is 1 for every text of a "
            f"classifier with one output; {SIGMOID!r} is a probability"
        )


def warning(
    name: str, labels: Sequence[str], problem_type: str | None, activation: str | None
) -> str | None:
    """What to say where nothing tells whether a text can have several labels; None elsewhere.

    Training loops with a sigmoid and a loss of their own leave `problem_type` null. Two outputs are
    the one kind and the other; of more it cannot be seen.

    Args:
      name: see `choose_output`, and so the others.
      labels: of all outputs.
      problem_type: of config.json.
      activation: as the user says.
    """
    if activation or problem_type or name in PUBLISHED or len(labels) < 3:
        return None
    return (
        f"warning: {name}: config.json has no problem_type, so that a text is taken to have one of "
        f"the {len(labels)} labels {', '.join(labels)} ({SOFTMAX}); where it can have several, set "
        f"CLASSIFIER_ACTIVATION, the scorer's activation, to {SIGMOID}"
    )
