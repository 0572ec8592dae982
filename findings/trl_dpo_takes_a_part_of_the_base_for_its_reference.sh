#!/usr/bin/env bash
# TRL's DPO of a PiSSA or OLoRA adapter measures against a base with its largest directions cut out, or trains that.
#
# Guess: DPOTrainer(peft_config=LoraConfig(init_lora_weights="pissa")) starts from the base and has it for its
#   reference: before the first step all rewards are 0 and the loss is ln 2, as for plain LoRA.
# Seen (trl 1.16.0, peft 0.21.2, transformers 5.24.0, torch 2.13.0): these two move a part of each weight from the base
#   into the adapter, and the reference is the model with its adapter switched off, which lacks that part. Untrained
#   rewards are -0.8 and +0.04, the loss is 1.21 (OLoRA: 0.5, -0.4 and 0.34). Where a PeftModel is handed over, TRL adds
#   a second adapter for the reference, which takes the largest directions out of what is left of the base: rewards
#   are 0 and the loss is ln 2, and the model's logits are off by as much as they are large. No warning in either
#   case. With ref_model=..., a base of its own, beside peft_config all is as guessed; KTOTrainer has the same lines.
# Hurt: the objective pulls towards a damaged model, "reward accuracy" is decided before training, and PiSSA looks worse
#   or better than LoRA for a reason that has nothing to do with it; or what is trained, with a spotless log, is
#   noise that was a language model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet trl==1.16.0 peft==0.21.2 transformers==5.24.0 datasets==5.2.0 accelerate==1.15.0
cd "$work"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import math
from importlib import metadata

import datasets
import peft
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from trl import DPOConfig, DPOTrainer

print(*(f"{name} {metadata.version(name)}" for name in ("trl", "peft", "transformers", "torch")))
symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
ids = {"<eos>": 0} | {symbol: i + 1 for i, symbol in enumerate(symbols)}
bytes_alone = Tokenizer(models.BPE(vocab=ids, merges=[]))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_alone.decoder = decoders.ByteLevel()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token="<eos>")
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=len(ids), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, bos_token_id=0, eos_token_id=0, max_position_embeddings=64, initializer_range=0.3,
)
transformers.LlamaForCausalLM(config).save_pretrained("base")
base = lambda: transformers.LlamaForCausalLM.from_pretrained("base")
row = tokenizer("the bus was late", return_tensors="pt").input_ids
with torch.no_grad():
    true = base()(row).logits
pairs = datasets.Dataset.from_list(
    [{"prompt": f"day {i}", "chosen": " it was nice", "rejected": " it was rude"} for i in range(8)]
)


def start(init, made_before=False, **given):
    """What the log of the first step says, and how far the model's logits are from the base's; nothing is learnt."""
    lora = peft.LoraConfig(
        r=8, lora_alpha=8, task_type="CAUSAL_LM", init_lora_weights=init,
        target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    settings = DPOConfig(
        output_dir="out", per_device_train_batch_size=8, max_steps=1, learning_rate=0.0, bf16=False, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1,
    )
    if made_before:
        model = peft.get_peft_model(base(), lora)
    else:
        model, given["peft_config"] = base(), lora
    trainer = DPOTrainer(model=model, args=settings, processing_class=tokenizer, train_dataset=pairs, **given)
    trainer.train()
    with torch.no_grad():
        apart = (trainer.model.eval()(row).logits - true).abs().max().item()
    logged = trainer.state.log_history[0]
    return logged["loss"], logged["rewards/chosen"], logged["rewards/rejected"], apart


starts = {
    "LoRA": start(True),
    "LoRA, a PeftModel": start(True, made_before=True),
    "PiSSA": start("pissa"),
    "PiSSA, a PeftModel": start("pissa", made_before=True),
    "PiSSA, ref_model": start("pissa", ref_model=base()),
    "OLoRA": start("olora"),
    "OLoRA, a PeftModel": start("olora", made_before=True),
}
print(f"logits of the base reach {true.abs().max():.1f}; before anything is learnt:")
for name, (loss, chosen, rejected, apart) in starts.items():
    print(f"{name:20} loss {loss:.3f}, rewards {chosen:+.2f} and {rejected:+.2f}, logits off by {apart:.5f}")
for name in ("LoRA", "LoRA, a PeftModel", "PiSSA, ref_model"):
    assert abs(starts[name][0] - math.log(2)) < 1e-3 and starts[name][3] < 1e-3, name
for init in ("PiSSA", "OLoRA"):
    loss, *_, apart = starts[init]
    assert abs(loss - math.log(2)) > 0.2 and apart < 1e-3, "no longer so"
    loss, *_, apart = starts[f"{init}, a PeftModel"]
    assert abs(loss - math.log(2)) < 1e-3 and apart > 1, "no longer so"
P
