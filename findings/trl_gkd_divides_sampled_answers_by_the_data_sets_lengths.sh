#!/usr/bin/env bash
# TRL's GKD divides the loss of answers that the student samples by how many tokens the data set's answers have.
#
# Guess: GKDTrainer's loss is the mean divergence of student and teacher over an answer's tokens, whether the
#   answer is the data set's or one that the student has just sampled (lmbda, 0.5 by default, is the share of steps).
# Seen (trl 1.16.0, transformers 5.24.0, torch 2.13.0): the divisor is counted before anything is sampled. Where the
#   data set's answers have 5 tokens and the sampled ones 40, steps of sampled answers have 8 times the mean's loss
#   and gradient, and other steps the mean: of one run with the defaults the logged losses are 0.4 and 3.1. Where the
#   data set's answers have 41 tokens and the sampled ones 5, the loss is an eighth. seq_kd=True has the same lines.
# Hurt: to distil a detoxified teacher, or a steered one, lmbda does not say what it says: with short references nearly
#   all that is learnt, and all that is clipped, are sampled answers; with long references hardly any. The loss curve
#   follows the data's lengths and jumps between two levels, and max_new_tokens acts as a learning rate. Use
#   DistillationTrainer (counts what it samples), or a loss of one's own that ignores num_items_in_batch.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet trl==1.16.0 transformers==5.24.0 datasets==5.2.0 accelerate==1.15.0
cd "$work"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import random
from importlib import metadata

import datasets
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from trl.experimental.gkd import GKDConfig, GKDTrainer

print(*(f"{name} {metadata.version(name)}" for name in ("trl", "transformers", "torch")))
words = ["[PAD]", "[EOS]", "user:", "bot:"] + [f"w{i}" for i in range(40)]
inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", eos_token="[EOS]")
tokenizer.chat_template = (
    "{% for m in messages %}{% if m['role'] == 'user' %}user: {{ m['content'] }} "
    "{% else %}bot: {{ m['content'] }} [EOS] {% endif %}{% endfor %}{% if add_generation_prompt %}bot: {% endif %}"
)


def language_model(seed):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def mean_divergence(student, teacher):
    """The generalised Jensen-Shannon divergence with weights of a half, in float64, of each token."""
    student, teacher = student.double().log_softmax(-1), teacher.double().log_softmax(-1)
    middle = ((student.exp() + teacher.exp()) / 2).log()
    return sum((p.exp() * (p - middle)).sum(-1) for p in (student, teacher)) / 2


class Watched(GKDTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        with torch.no_grad():
            teacher = self.teacher_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        counted = inputs["labels"][:, 1:] != -100
        mean = mean_divergence(outputs.logits[:, :-1], teacher[:, :-1])[counted].mean()
        self.seen.append((int(counted.sum()), loss.item(), mean.item()))
        return (loss, outputs) if return_outputs else loss


def steps(answer, sampled):
    """Of 6 steps of 4 texts: answer tokens, TRL's loss, and the mean over the tokens."""
    draw = random.Random(0)
    texts = [[" ".join(draw.choices(words[4:], k=length)) for length in (5, answer)] for _ in range(24)]
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in texts
    ]
    arguments = GKDConfig(
        output_dir="out",
        per_device_train_batch_size=4,
        max_steps=6,
        learning_rate=0.0,
        max_new_tokens=sampled,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Watched(
        model=language_model(0),
        teacher_model=language_model(1),
        args=arguments,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(rows),
    )
    trainer.seen = []
    trainer.remove_callback(transformers.PrinterCallback)
    random.seed(0)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(abs(a - loss) < 1e-3 for a, (_, loss, _) in zip(logged, trainer.seen, strict=True))
    return trainer.seen


for answer, sampled in ((4, 40), (40, 5)):
    of_the_data = 4 * (answer + 1)
    found = steps(answer, sampled)
    print(f"answers of {answer + 1} tokens in the data, of at most {sampled} sampled")
    for tokens, loss, mean in found:
        kind = "the data set's" if tokens == of_the_data else "sampled       "
        print(f"  {kind} {tokens:3} tokens: loss {loss:.3f}, mean over the tokens {mean:.3f}")
        assert abs(loss / (mean * tokens / of_the_data) - 1) < 1e-3
        assert 0.2 < mean < 0.6
    factors = {round(loss / mean, 3) for tokens, loss, mean in found if tokens != of_the_data}
    assert max(factors) > 7 if answer < sampled else min(factors) < 0.13
    assert any(tokens == of_the_data for tokens, _, _ in found)
print("as found")
P
