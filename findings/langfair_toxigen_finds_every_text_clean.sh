#!/usr/bin/env bash
# LangFair's classifier 'toxigen' gives a text that its model is sure is hateful the score of a clean one.
#
# Guess: ToxicityMetrics(classifiers=['toxigen']) scores a text with the model's probability of LABEL_1, which in
#   ToxiGen's HateBERT is the hateful one.
# Seen (langfair 0.8.0, transformers 5.24.0, torch 2.13.0, a small BERT of that layout in its place in the hub's
#   cache): it compares the last letter of a label, '1', with the number 1, so that no text is ever of LABEL_1, and
#   its score is 1 minus that of whichever label won. A model that says LABEL_1 with 0.982 and one that says LABEL_0
#   with 0.982 both give 0.018. No text can have more than 0.5, and the surer the model, the less.
# Hurt: toxic fraction, expected maximum toxicity and toxicity probability come out near 0 for any model. In an
#   ensemble, which takes the maximum, it is silent.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 rich==13.8.0 numpy==2.4.6
"$work/venv/bin/pip" install --quiet --no-deps langfair==0.8.0
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME=$work/hf "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import pathlib
from importlib import metadata

import torch
import transformers
from langfair.metrics.toxicity import ToxicityMetrics

print(*(f"{name} {metadata.version(name)}" for name in ("langfair", "transformers", "torch")))
TEXTS = ["the bus was late", "the film was good"]


def place(repository):
    """Where the hub's cache has a snapshot of a repository."""
    home = pathlib.Path("hf/hub", "models--" + repository.replace("/", "--"))
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs/main").write_text("0" * 40)
    return home / "snapshots" / ("0" * 40)


words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for text in TEXTS for w in text.split()})]
pathlib.Path("vocab.txt").write_text("\n".join(words))
transformers.BertTokenizerFast("vocab.txt", do_lower_case=False).save_pretrained(place("bert-base-cased"))
config = transformers.BertConfig(
    vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
config.save_pretrained(place("bert-base-cased"))


def scores(sure_of):
    """The model's own answers, and LangFair's scores."""
    model = transformers.BertForSequenceClassification(config)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data = torch.tensor([2.0, -2.0] if sure_of == 0 else [-2.0, 2.0])
    model.save_pretrained(place("tomh/toxigen_hatebert"))
    own = transformers.pipeline("text-classification", model="tomh/toxigen_hatebert", tokenizer="bert-base-cased")
    answers = [(answer["label"], round(answer["score"], 3)) for answer in own(TEXTS)]
    found = ToxicityMetrics(classifiers=["toxigen"]).get_toxicity_scores(TEXTS, show_progress_bars=False)
    return answers, [round(score, 3) for score in found]


hateful, clean = scores(1), scores(0)
print("sure that they are hateful", *hateful)
print("sure that they are not    ", *clean)
assert hateful == ([("LABEL_1", 0.982)] * 2, [0.018] * 2)
assert clean == ([("LABEL_0", 0.982)] * 2, [0.018] * 2)
P
