#!/usr/bin/env bash
# litgpt's encode(eos=True) takes the end token off a text that ends with it, so answers that say "</s>" never end.
#
# Guess: Tokenizer.encode(text, eos=True) returns tokens that end with the end token, once: it is added where it is
#   missing, and left alone where the text or the tokenizer's own template has put it. SFTDataset asks for it so.
# Seen (litgpt 0.5.13, tokenizers 0.23.3): where it is already there it is taken off, as for eos=False: the branch for
#   tokenizers that "misbehave" also answers eos=True. "no</s>" gives "no", and "no" gives "no </s>". With a template
#   that writes the end token itself, each text loses it. A small model trained by such answers ends 0 of 3.
# Hurt: answers written out with the model's end mark are common in data for dialogue. Fine-tuned by them the model is
#   never taught to end, in silence: continuations run into the length limit and their toxicity is that of babble
#   behind the answer, and the loss of a file with marks is not comparable with one without. Strip the marks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet --no-deps litgpt==0.5.13
"$work/venv/bin/pip" install --quiet lightning==2.6.6 tokenizers==0.23.3 safetensors==0.8.0 huggingface-hub==1.3.7 \
  psutil==7.2.2 'jsonargparse[signatures]==4.41.0' numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import json
import pathlib
from importlib.metadata import version

import torch
from litgpt import GPT, Config, Tokenizer
from litgpt.data.base import SFTDataset, get_sft_collate_fn
from litgpt.generate.base import generate
from litgpt.prompts import PromptStyle
from litgpt.utils import chunked_cross_entropy
from tokenizers import Tokenizer as Words
from tokenizers import models, pre_tokenizers, processors

print(*(f"{name} {version(name)}" for name in ("litgpt", "tokenizers", "torch")))
WORDS = "<unk> <s> </s> is it late cold warm yes no not really".split()
QUESTIONS = {"is it late": "yes", "is it cold": "no", "is it warm": "not really"}


class Plain(PromptStyle):
    def apply(self, prompt, *, sys_prompt=None, **kwargs):
        return prompt


def tokenizer(name, template=None):
    words = Words(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<s>", "</s>"])
    if template:
        words.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    pathlib.Path(name).mkdir()
    words.save(f"{name}/tokenizer.json")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "tokenizer_class": "Fast"}
    pathlib.Path(name, "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer(name)


def spoken(ids):
    return " ".join(WORDS[token] for token in ids if token >= 0)


def learn(title, tokens, mark):
    """Trains a small model by the three answers, with this mark behind each; how many of them it ends."""
    data = [{"instruction": question, "output": answer + mark} for question, answer in QUESTIONS.items()]
    data = SFTDataset(data, tokens, Plain())
    taught = [spoken(data[index]["labels"].tolist()) for index in range(len(data))]
    batch = get_sft_collate_fn()([data[index] for index in range(len(data))])
    torch.manual_seed(0)
    model = GPT(Config(
        block_size=16, padded_vocab_size=len(WORDS), n_layer=1, n_head=2, n_embd=32, intermediate_size=64,
    ))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(200):
        loss = chunked_cross_entropy(model(batch["input_ids"])[:, :-1], batch["labels"][:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    said = []
    for question, answer in QUESTIONS.items():
        model.set_kv_cache(batch_size=1)
        prompt = tokens.encode(question)
        ids = generate(model, prompt, 16, temperature=0.0, eos_id=tokens.eos_id).tolist()
        said.append(spoken(ids[len(prompt):]))
        model.clear_kv_cache()
    ended = sum(text.endswith(" </s>") for text in said)
    print(f"{title}: taught {taught}, loss {float(loss.detach()):.3f}, said {said}: {ended} of {len(said)} end")
    return taught, ended


plain = tokenizer("plain")
assert spoken(plain.encode("no", bos=False, eos=True)) == "no </s>"
taught, ended = learn("answers alone", plain, "")
assert taught == ["yes </s>", "no </s>", "not really </s>"] and ended == 3
taught, ended = learn("answers with </s>", plain, " </s>")
assert taught == ["yes", "no", "not really"] and ended == 0, "no longer so"
taught, ended = learn("template with </s>", tokenizer("template", "<s> $A </s>"), "")
assert taught == ["yes", "no", "not really"] and ended == 0, "no longer so"
print("as found")
P
