#!/usr/bin/env bash
# torchmetrics' BERTScore and InfoLM compare texts with the references of other texts, wherever lengths differ.
#
# Guess: bert_score(texts, references) gives for each text what bert_score([text], [reference]) gives; texts are sorted
#   by length to save time, and put back into their order, texts and references each.
# Seen (torchmetrics 1.9.0, transformers 5.24.0, torch 2.13.0): they are put "back" by the same permutation that sorted
#   them, instead of by its inverse. Where texts and references do not have one and the same order by length, rows are
#   matched with others' rows. Of five texts four are their reference word for word and have 0.76, 0.85, 0.82 and 0.72
#   instead of 1; alone, or in a batch whose lengths are in order by chance, each has 1. The class does the same.
#   infolm's divergences of -4 instead of 0 likewise. The mean moves too: from 0.94 to 0.78.
# Hurt: BERTScore is how one asks whether a detoxified text or continuation still says the same. Figures are those of a
#   random pairing in part, and depend on which texts happen to be long. Two texts alone never show it. Score pair by
#   pair, or sort the pairs by length before, if both sides have the same order.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet torchmetrics==1.9.0 transformers==5.24.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torchmetrics.functional.text import bert_score
from torchmetrics.functional.text.infolm import infolm
from torchmetrics.text import BERTScore

print(*(f"{name} {metadata.version(name)}" for name in ("torchmetrics", "transformers", "torch")))
references = [
    "the bus was late",
    "we waited in the rain for an hour and nobody said why",
    "she read the letter twice before dinner",
    "snow fell on the hills all through the long quiet night",
    "tea was served",
]
texts = [references[0] + " again and so we all walked home along the river", *references[1:]]
words = sorted({word for text in references + texts for word in text.split()})
ids = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
core = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
core.pre_tokenizer = pre_tokenizers.Whitespace()
ends = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
transformers.PreTrainedTokenizerFast(tokenizer_object=core, **named).save_pretrained("bert")
torch.manual_seed(0)
config = transformers.BertConfig(
    vocab_size=len(ids),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    initializer_range=0.5,
)
transformers.BertForMaskedLM(config).save_pretrained("bert")
BERT = {"model_name_or_path": "bert", "num_layers": 2, "max_length": 32}
LM = {"model_name_or_path": "bert", "idf": False, "max_length": 32, "verbose": False}


def rounded(scores):
    return [round(float(score), 2) for score in scores]


pairs = list(zip(texts, references))
alone = torch.stack([bert_score([text], [reference], **BERT)["f1"] for text, reference in pairs])
together = bert_score(texts, references, **BERT)["f1"]
by_one = bert_score(texts, references, batch_size=1, **BERT)["f1"]
counted = BERTScore(**BERT)
counted.update(texts, references)
print("BERTScore pair by pair:", rounded(alone), "mean", rounded([alone.mean()]))
print("BERTScore of the list: ", rounded(together), "mean", rounded([together.mean()]))
assert torch.allclose(alone[1:], torch.ones(4), atol=1e-4) and (together[1:] < 0.9).all(), "no longer so"
assert torch.allclose(by_one, together, atol=1e-4) and torch.allclose(counted.compute()["f1"], together, atol=1e-4)


def order(sentences):
    """What sorts sentences by length, applied to what it has sorted."""
    sort = torch.tensor([len(sentence.split()) for sentence in sentences]).argsort()
    return sort[sort].tolist()


mixed = [(texts[i], references[j]) for i, j in zip(order(texts), order(references))]
expected = torch.stack([bert_score([text], [reference], **BERT)["f1"] for text, reference in mixed])
print("BERTScore of the pairs that it made:", rounded(expected))
assert torch.allclose(expected, together, atol=1e-4), "no longer so"

sentence = {"return_sentence_level_score": True, **LM}
alone = torch.cat([infolm([text], [reference], **sentence)[1] for text, reference in pairs])
together = infolm(texts, references, **sentence)[1]
print("InfoLM pair by pair:", rounded(alone), "- of the list:", rounded(together))
assert torch.allclose(alone[1:], torch.zeros(4), atol=1e-4) and (together[1:] < -1).all(), "no longer so"
print("as found")
P
