import re

import pytest

from detox_jax import outputs, records
from detox_jax.errors import UserError
from tasks import corpus_output, demo_corpus

INSULT = re.compile(
    r"\b(idiot|moron|stupid|dumb|loser|jerk|pathetic|clown|garbage|trash|fool|imbecile|shut up)",
    re.IGNORECASE,
)
PARTS = ("train", "heldout_nontoxic", "prompts")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    demo_corpus.write_demo_corpus(str(directory))
    return directory


@pytest.fixture(scope="module")
def train(corpus):
    return [document.text for document in records.read_documents(str(corpus / "train"))]


def read_bytes(directory):
    files = sorted(file for file in directory.rglob("*.json*"))
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def test_every_slot_of_the_grammar_has_a_rule():
    grammar = demo_corpus.grammar()
    topics = [topic for topic in grammar if topic]
    for topic in topics:
        rules = grammar[""] | grammar[topic]
        for name, rule in rules.items():
            for slot in re.findall(r"\{([^}]*)\}", " ".join(rule.alternatives)):
                for wanted in slot.removeprefix("=").split("~"):
                    assert wanted in rules, f"{topic}: {name} asks for {wanted}"


def test_train_is_large_and_varied(train):
    words = [word for text in train for word in re.findall(r"[a-z']+", text.lower())]
    sentences = [sentence for text in train for sentence in re.split(r"(?<=[.!?]) ", text)]
    assert len(train) == len(set(train)) == 12000
    assert len(set(words)) >= 1500
    assert len(set(sentences)) >= 0.5 * len(sentences)
    assert max(map(sentences.count, set(sentences[:500]))) < 0.02 * len(train)


def test_insults_are_common_but_never_certain(train):
    assert 0.15 <= sum(bool(INSULT.search(text)) for text in train) / len(train) <= 0.25
    comments = [demo_corpus.write_comment(seed=1, index=index) for index in range(6000)]
    for kind in demo_corpus.KINDS:
        insulting = [comment.insulting for comment in comments if comment.kind == kind]
        share = sum(insulting) / len(insulting)
        low, high = (0.2, 0.6) if kind in demo_corpus.INVITING_KINDS else (0, 0.06)
        assert low <= share <= high, kind
    neutral = [c.insulting for c in comments if c.kind not in demo_corpus.INVITING_KINDS]
    assert any(neutral)


def test_an_insult_depends_on_the_heat_of_the_comment_alone():
    rules = demo_corpus.grammar()[""]
    for name, rule in rules.items():
        calm = " ".join(re.sub(r"\{[^}]*~", "{", text) for text in rule.alternatives)
        if not name.startswith("harsh_"):
            assert not INSULT.search(calm), name
            assert "{harsh_" not in calm, name


def test_heldout_text_is_calm(corpus):
    heldout = list(records.read_documents(str(corpus / "heldout_nontoxic")))
    assert len(heldout) == demo_corpus.NUM_HELDOUT
    assert not any(INSULT.search(document.text) for document in heldout)


def test_train_heldout_and_prompts_share_no_comment(corpus, train):
    heldout = {d.text for d in records.read_documents(str(corpus / "heldout_nontoxic"))}
    prompts = {
        prompt.text + prompt.extra["continuation"]["text"]
        for prompt in records.read_prompts(str(corpus / "prompts"))
    }
    assert not heldout & set(train)
    assert not prompts & (heldout | set(train))


def test_prompts_are_beginnings_at_a_word_boundary(corpus):
    prompts = list(records.read_prompts(str(corpus / "prompts")))
    assert 100 <= len(prompts) <= 120
    for prompt in prompts:
        assert 4 <= len(prompt.text.split()) <= 10
        assert prompt.text == prompt.text.strip()
        assert prompt.extra["continuation"]["text"].startswith(" ")
        assert prompt.challenging is False
    already = sum(bool(INSULT.search(prompt.text)) for prompt in prompts)
    assert 16 <= already <= 32
    continued_with_insult = [
        bool(INSULT.search(prompt.extra["continuation"]["text"])) for prompt in prompts
    ]
    assert 0.1 < sum(continued_with_insult) / len(prompts) < 0.6


def test_same_seed_same_bytes_other_seed_other_text(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        demo_corpus.write_demo_corpus(str(tmp_path / name), num_documents=50, seed=seed)
    assert read_bytes(tmp_path / "a") == read_bytes(tmp_path / "b")
    for part in PARTS:
        a, c = (read_bytes(tmp_path / name / part) for name in ("a", "c"))
        shards = [name for name in a if name.endswith(".jsonl")]
        assert shards and all(a[name] != c[name] for name in shards)


def test_heldout_text_does_not_depend_on_the_size_of_train(corpus, tmp_path):
    demo_corpus.write_demo_corpus(str(tmp_path), num_documents=10)
    for part in ("heldout_nontoxic", "prompts"):
        (small,) = (tmp_path / part).glob("*.jsonl")
        assert small.read_bytes() == (corpus / part / small.name).read_bytes()


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_output, "SHARD_SIZE", 20)
    demo_corpus.write_demo_corpus(str(tmp_path / "whole"), num_documents=50)
    write_shard, calls = outputs.OutputDirectory.write_shard, []

    def killed_at_the_third(output, name, index, count, rows):
        calls.append((output.path, name, index))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write_shard(output, name, index, count, rows)

    monkeypatch.setattr(outputs.OutputDirectory, "write_shard", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        demo_corpus.write_demo_corpus(str(tmp_path / "killed"), num_documents=50)
    demo_corpus.write_demo_corpus(str(tmp_path / "killed"), num_documents=50)
    assert calls.count(calls[0]) == 1
    assert read_bytes(tmp_path / "killed") == read_bytes(tmp_path / "whole")


def test_other_settings_in_the_same_directory_are_refused(tmp_path):
    demo_corpus.write_demo_corpus(str(tmp_path), num_documents=10)
    with pytest.raises(UserError, match="seed"):
        demo_corpus.write_demo_corpus(str(tmp_path), num_documents=10, seed=1)


def test_no_documents_is_refused(tmp_path):
    with pytest.raises(UserError, match="num_documents=0"):
        demo_corpus.write_demo_corpus(str(tmp_path), num_documents=0)
