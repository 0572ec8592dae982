"""Chat templates: rendered as transformers renders them."""

import json

import pytest

from detox_jax import chat
from detox_jax.errors import UserError
from tests import chats_made

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


END = "<|endoftext|>"


@pytest.mark.parametrize(
    ("config", "others", "expected"),
    [
        (None, None, {"bos_token": END, "eos_token": END}),
        ({"model_max_length": 1024}, None, {"bos_token": END, "eos_token": END}),  # DialoGPT's
        ({"tokenizer_class": "GPT2TokenizerFast"}, None, {"bos_token": END, "eos_token": END}),
        ({"tokenizer_class": "GPT2Tokenizer", "bos_token": None}, None, {"eos_token": END}),
        ({"tokenizer_class": "Qwen2Tokenizer"}, None, {"eos_token": END}),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, None, {}),
        (
            {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"},
            {"eos_token": {"content": "</s>"}, "pad_token": "<pad>"},
            {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        ),
        ({"eos_token": {"content": "a"}}, {"eos_token": "b"}, {"bos_token": END, "eos_token": "a"}),
    ],
)
def test_special_tokens_of_files_and_of_the_class(config, others, expected, vocabulary):
    files = {"tokenizer_config.json": config, "special_tokens_map.json": others}
    files = {name: json.dumps(value).encode() for name, value in files.items() if value is not None}
    assert chat.special_tokens(files, vocabulary) == expected


# --- question and answer ----------------------------------------------------------------------


@pytest.fixture(params=chats_made.TEMPLATES)
def exchange(request, tmp_path):
    vocabulary = chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES[request.param])
    found = chat.exchange(vocabulary)
    assert found is not None
    return found


def spelt(exchange, ids):
    return [exchange.vocabulary.id_to_token(i) for i in ids]


def test_an_answer_stands_behind_its_question_and_ends_with_its_turn(exchange):
    given, written = exchange.answered("Hi", "The bus")
    assert given == exchange.ids(exchange.question("Hi"))
    assert exchange.vocabulary.decode(written).strip() == "The bus"
    assert written[-1] in exchange.end_ids and not set(written[:-1]) & set(exchange.end_ids)
    end = "</s>" if "close" not in exchange.template else "<|close|>"
    assert spelt(exchange, written[-1:]) == [end] and end in spelt(exchange, exchange.end_ids)


def test_a_begun_answer_goes_on(exchange):
    assert exchange.begun("", "The bus").endswith("The bus")
    assert exchange.begun("", "The bus").startswith(exchange.question(""))


def test_the_clock_of_a_template_stands(tmp_path):
    """A run that goes on tomorrow asks what it asked today."""
    vocabulary = chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES["dated"])
    found = chat.exchange(vocabulary)
    assert found is not None and "Today: 26 Jul 2024\n" in found.question("Hi")


def test_an_answer_that_starts_otherwise_is_refused(tmp_path):
    template = "{{ messages[-1].content }}{% if add_generation_prompt %}<|open|>{% endif %}"
    found = chat.exchange(chats_made.save_tokenizer(tmp_path, template))
    assert found is not None
    with pytest.raises(UserError, match="starts an answer otherwise than it asks for one"):
        found.answered("Hi", "The bus")


def test_who_wants_a_template_and_who_has_one(tmp_path, vocabulary):
    assert chat.exchange(vocabulary) is None and chat.said(vocabulary, False) is None
    with pytest.raises(UserError, match="CHAT_TEMPLATE is True, but .* holds no chat template"):
        chat.exchange(vocabulary, True)
    instructed = chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES["marks"])
    assert chat.exchange(instructed, False) is None
    assert "warning: raw text" in str(chat.said(instructed, False))
    fingerprints = {
        chat.exchange(instructed, choice).fingerprint  # type: ignore[union-attr]
        for choice in (True, "auto")
    }
    assert len(fingerprints) == 1


def test_of_several_templates_without_a_default_one_is_to_be_put_there(tmp_path):
    one = chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES["marks"])
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["chat_template"] = [{"name": "rag", "template": chats_made.TEMPLATES["marks"]}]
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    file.write_text(json.dumps(config))
    several = type(one).load(str(tmp_path))
    assert chat.exchange(several, False) is None
    assert "warning: raw text" in str(chat.said(several, False))
    for choice in (True, "auto"):
        with pytest.raises(UserError, match="put the one to use into .* CHAT_TEMPLATE=False") as no:
            chat.exchange(several, choice)
        assert "APPLY_CHAT_TEMPLATE" not in str(no.value)
    (tmp_path / "chat_template.jinja").write_text(chats_made.TEMPLATES["marks"])
    assert chat.exchange(type(one).load(str(tmp_path))) is not None


@pytest.mark.interop
@pytest.mark.parametrize("name", chats_made.TEMPLATES)
def test_ids_are_those_of_transformers(name, tmp_path, monkeypatch):
    """Question, whole conversation, begun answer, and where marked what the answer is."""
    transformers = pytest.importorskip("transformers")
    found = chat.exchange(chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES[name]))
    assert found is not None
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    ours = [{"role": "user", "content": "Could you tell me?"}]
    both = [*ours, {"role": "assistant", "content": "Thanks, it worked"}]

    def ids(messages, **options):
        encoded = theirs.apply_chat_template(messages, return_dict=True, **options)
        return [i + 1 for i in encoded["input_ids"]]

    if name == "dated":  # Theirs says what day it is.
        monkeypatch.setattr(chat, "_FIXED_DAY", None)
    asked = ours[0]["content"]
    assert found.ids(found.question(asked)) == ids(ours, add_generation_prompt=True)
    given, written = found.answered(asked, both[1]["content"])
    whole = ids(both)
    if name != "plain":  # Which writes no end of a turn: the tokenizer's own is added.
        assert [*given, *written] == whole[: len(given) + len(written)]
        assert not found.vocabulary.decode(whole[len(given) + len(written) :]).strip()
    begun = ids(both, continue_final_message=True)
    assert found.ids(found.begun(asked, both[1]["content"])) == begun
    if "generation" in chats_made.TEMPLATES[name].replace("add_generation_prompt", ""):
        masked = theirs.apply_chat_template(
            both, return_dict=True, return_assistant_tokens_mask=True
        )
        mask = masked["assistant_masks"][: len(given) + len(written)]
        assert mask == [0] * len(given) + [1] * len(written)
