"""Generation behind a tag: the tag is read before every prompt, is no part of a text, is banned."""

import collections
import json

import pytest

from detox_jax import cli, records
from tests.conftest import SENTENCES

TEXTS = ["The bus was late", "Thanks"]
BEHIND = ["--gin.BEHIND=@tags.Tags()"]


def write(path, texts):
    rows = [{"id": f"p{i}", "prompt": {"text": text}} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def generate(model_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("behind")

    def run(name, texts, *flags):
        out = root / name
        arguments = ["generate", f"--gin.CHECKPOINT_PATH={model_dir}", f"--gin.OUTPUT_DIR={out}"]
        arguments += [f"--gin.INPUT={write(root / f'{name}.jsonl', texts)}", "--gin.NUM_SAMPLES=40"]
        status = cli.main([*arguments, "--gin.MAX_NEW_TOKENS=6", "--gin.TOP_P=1.0", *flags])
        return status, out

    return run


@pytest.fixture(scope="module")
def behind(generate):
    status, out = generate("tagged", TEXTS, *BEHIND)
    assert status == 0
    return out


def generations(directory):
    return [[g.text for g in p.generations] for p in records.read_prompts(str(directory))]


def test_it_is_what_the_tag_in_the_prompt_would_give(generate, behind):
    status, out = generate("spelt", [f"<|good|>{text}" for text in TEXTS])
    assert status == 0
    assert generations(behind) == generations(out)
    assert [p.text for p in records.read_prompts(str(behind))] == TEXTS


def test_the_manifest_says_what_stood_before(generate, behind):
    settings = json.loads((behind / "manifest.json").read_text())["settings"]
    assert settings["behind"] == {"good": "<|good|>", "bad": "<|bad|>"}
    status, out = generate("plain", TEXTS)
    assert status == 0 and generations(out) != generations(behind)
    assert "behind" not in json.loads((out / "manifest.json").read_text())["settings"]


def test_no_tag_is_written(generate):
    free = "".join(map("".join, generations(generate("free", TEXTS)[1])))
    # Of one token each, and in no other one: they were in no text of the vocabulary's.
    rare = collections.Counter(
        c for c in free if c.isascii() and c.isalnum() and c not in "".join(SENTENCES)
    )
    (good, _), (bad, _) = rare.most_common(2)
    tags = [f"--gin.GOOD_TAG='{good}'", f"--gin.BAD_TAG='{bad}'"]
    status, out = generate("banned", TEXTS, *BEHIND, *tags)
    assert status == 0
    written = "".join(map("".join, generations(out)))
    assert good not in written and bad not in written and len(written) > 200


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin.GOOD_TAG=bus"], "jsonl:1: prompt 'p0': its text holds the tag 'bus'; choose"),
        (["--gin.GOOD_TAG=a", "--gin.BAD_TAG=ab"], "one may not begin the other"),
        (["--gin.GOOD_TAG="], "GOOD_TAG is ''"),
    ],
)
def test_mistakes(generate, flags, message, capsys):
    status, out = generate("mistake", TEXTS, *BEHIND, *flags)
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1, error
    assert not out.exists() or not list(out.glob("*.jsonl"))
