"""Chat templates: rendered as transformers renders them."""

import json

import pytest

from detox_jax.errors import UserError
from detox_jax.zero_shot import chat

TEMPLATE = """\
{{ bos_token }}{% for message in messages %}
{% if message.role == 'system' and strict %}{{ raise_exception('no system') }}{% endif %}
[{{ message.role }}]{% generation %}{{ message.content | trim }}{% endgeneration %}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}[assistant]{% endif %}"""
MESSAGES = [{"role": "user", "content": "Hello "}, {"role": "assistant", "content": "Hi "}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def test_the_answer_comes_next():
    text = chat.render(TEMPLATE, MESSAGES, answer_next=True, **TOKENS)
    assert text == "<s>[user]Hello</s>\n[assistant]Hi</s>\n[assistant]"


def test_the_last_message_goes_on():
    text = chat.render(TEMPLATE, MESSAGES, answer_next=False, **TOKENS)
    assert text == "<s>[user]Hello</s>\n[assistant]Hi"
    kept = TEMPLATE.replace(" | trim", "")
    text = chat.render(kept, MESSAGES, answer_next=False, **TOKENS)
    assert text == "<s>[user]Hello </s>\n[assistant]Hi "
    assert MESSAGES[1]["content"] == "Hi "


def test_a_refused_system_message_is_left_out():
    told = [{"role": "system", "content": "Be brief."}, MESSAGES[0]]
    text = chat.render(TEMPLATE, told, answer_next=True, strict="yes", **TOKENS)
    assert text == "<s>[user]Hello</s>\n[assistant]"
    assert "Be brief." in chat.render(TEMPLATE, told, answer_next=True, **TOKENS)


@pytest.mark.parametrize(
    ("template", "message"),
    [("{% for", "chat template fails"), ("{{ raise_exception('odd turn') }}", "odd turn")],
)
def test_a_broken_template_is_the_users_to_mend(template, message):
    with pytest.raises(UserError, match=message):
        chat.render(template, MESSAGES, answer_next=True, **TOKENS)


def test_a_template_that_drops_the_message_cannot_go_on():
    with pytest.raises(UserError, match="drops the end"):
        chat.render("{{ messages[0].content[:2] }}", MESSAGES[:1], answer_next=False)


def test_where_templates_lie():
    config = json.dumps({"chat_template": "one"}).encode()
    several = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    named = json.dumps({"chat_template": several}).encode()
    assert chat.read_template({}) is None
    assert chat.read_template({"tokenizer_config.json": config}) == "one"
    both = {"tokenizer_config.json": config, "chat_template.jinja": b"two"}
    assert chat.read_template(both) == "two"
    assert chat.read_template({"tokenizer_config.json": named}) == "a"
    assert chat.read_template({"tokenizer_config.json": named}, "rag") == "b"
    with pytest.raises(UserError, match="default, rag"):
        chat.read_template({"tokenizer_config.json": named}, "other")
