"""Tokenizers and models with chat templates of the shapes that real ones have, made for tests."""

import dataclasses
import json

import tokenizers
from etils import epath

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.vocabulary import Vocabulary
from tests.conftest import SENTENCES, random_params

MARKS = ("<|open|>", "<|close|>", "<|head|>", "<|tail|>", "<s>", "</s>")
# A role between marks and a default system message; a start token, trimmed texts and a date;
# another name for the assistant and no system message; brackets around the user alone; no marks.
TEMPLATES = {
    "marks": """\
{% if messages[0].role != 'system' %}<|open|>system
Be kind.<|close|>
{% endif %}{% for m in messages %}<|open|>{{ m.role }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|close|>{% endgeneration %}
{% else %}{{ m.content }}<|close|>{% endif %}

{% endfor %}{% if add_generation_prompt %}<|open|>assistant
{% endif %}""",
    "dated": """\
{{- bos_token }}{{- "Today: " + strftime_now("%d %b %Y") + "\n" }}
{%- for m in messages %}
    {{- '<|head|>' + m['role'] + '<|tail|>\n\n' + m['content'] | trim + '<|close|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|tail|>\n\n' }}{%- endif %}""",
    "renamed": """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}
{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}
{{ '<|open|>' + role + '\n' + m['content'] | trim + '<|close|>\n' }}
{% endfor %}{% if add_generation_prompt %}{{ '<|open|>model\n' }}{% endif %}""",
    "brackets": """\
{{- bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}
{{- '[INST] ' + m.content + ' [/INST]' }}
{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}{%- endfor %}""",
    "plain": """\
{% for m in messages %}{{ 'Human: ' if m.role == 'user' else 'Answer: ' }}{{ m.content }}

{% endfor %}{% if add_generation_prompt %}Answer: {% endif %}""",
}


def save_tokenizer(path, template, **config):
    """A byte-level BPE with marks, and a template."""
    Vocabulary.train(SENTENCES * 4, 350).save(str(path))
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens(list(MARKS))
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": template,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **config,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return Vocabulary.load(str(path))


def save_model(path, config, vocabulary):
    """A random model of that vocabulary."""
    path.mkdir()
    config = dataclasses.replace(config, vocab_size=vocabulary.vocab_size)
    _, params = random_params(config)
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    checkpoints.save_model(epath.Path(path), params, spec, vocabulary)
    return str(path)
