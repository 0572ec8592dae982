"""Verb `generate` through the command line: what it writes, what changes it and what does not."""

import json
import shutil

import jax
import pytest

from detox_jax import chat, cli, records
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation import decoding, prompts, sampling
from detox_jax.generation import generate as module
from detox_jax.vocabulary import Vocabulary
from tests import chats_made
from tests.tokenizers_made import save_llama

PROMPTS = ["The bus was late", "Thanks", "I think the second film is better than the first one."]


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"id": f"p{i}", "prompt": {"text": text}} for i, text in enumerate(PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def flags(model_dir, prompt_file):
    return [
        "generate",
        f"--gin.CHECKPOINT_PATH={model_dir}",
        f"--gin.INPUT={prompt_file}",
        "--gin.NUM_SAMPLES=3",
        "--gin.MAX_NEW_TOKENS=6",
        "--gin.BATCH_SIZE=24",
        "--gin.generate.generate.shard_size=2",
    ]


@pytest.fixture(scope="module")
def written(flags, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "out"
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={path}"]) == 0
    return path


def _shards(path):
    return {file.name: file.read_bytes() for file in path.glob("*.jsonl")}


def test_continuations_of_ragged_prompts(written, vocabulary):
    """Every sample has exactly the limit, or fewer tokens because end-of-text ended it."""
    prompts = list(records.read_prompts(str(written)))
    assert [p.text for p in prompts] == PROMPTS
    for prompt in prompts:
        assert len(prompt.generations) == 3
        assert len({g.text for g in prompt.generations}) > 1
        for generation in prompt.generations:
            tokens, finish = generation.extra["num_tokens"], generation.extra["finish"]
            assert tokens == 6 if finish == "length" else tokens < 6
            assert "<|endoftext|>" not in generation.text and generation.toxicity is None


def test_manifest(written, model_dir, prompt_file):
    manifest = json.loads((written / "manifest.json").read_text())
    assert manifest["complete"] and manifest["verb"] == "generate"
    assert (manifest["requests"], manifest["samples"]) == (3, 9)
    settings = manifest["settings"]
    assert settings["checkpoint"]["path"] == model_dir and settings["checkpoint"]["fingerprint"]
    assert settings["prompts"]["sha256"] == records.describe_input(str(prompt_file))["sha256"]
    assert settings["sampling"] == {"method": "TopPSampling", "p": 0.9, "temperature": 1.0}
    assert (settings["max_new_tokens"], settings["num_samples"]) == (6, 3)
    assert "NUM_SAMPLES = 3" in (written / "config.gin").read_text()


@pytest.mark.parametrize(
    ("extra", "difference"),
    [
        ("--gin.DTYPE=bfloat16", "dtype: 'float32' there, 'bfloat16' now"),
        ("--gin.SAMPLING=@sampling.Greedy()", "sampling.method: 'TopPSampling' there, 'Greedy'"),
        ("--gin.NUM_SAMPLES=2", "num_samples: 3 there, 2 now"),
        ("--gin.generate.generate.shard_size=3", "shard_size: 2 there, 3 now"),
    ],
)
def test_what_changes_the_text_is_another_output(flags, written, capsys, extra, difference):
    before = _shards(written)
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={written}", extra]) == 2
    assert difference in capsys.readouterr().err
    assert _shards(written) == before


def test_a_model_of_equal_parameters_that_are_read_otherwise_is_another(
    flags, written, model_dir, tmp_path, capsys
):
    """Manifests of before do not name how they are read; a finished one stays."""
    out, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(written, out)
    shutil.copytree(model_dir, other)
    spec = json.loads((other / "model.json").read_text())
    spec["config"]["norm_epsilon"] *= 2
    (other / "model.json").write_text(json.dumps(spec))
    flags = [*flags, f"--gin.OUTPUT_DIR={out}"]
    for extra in ([], ["--dry_run"]):
        assert cli.main([*flags, f"--gin.CHECKPOINT_PATH={other}", *extra]) == 2
        assert "other settings (checkpoint.spec_sha256: " in capsys.readouterr().err
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["settings"]["checkpoint"]["spec_sha256"]
    for complete, status in ((True, 0), (False, 2)):
        (out / "manifest.json").write_text(json.dumps({**manifest, "complete": complete}))
        assert [cli.main([*flags, *extra]) for extra in ([], ["--dry_run"])] == [status] * 2
    assert "(checkpoint.spec_sha256: absent there, " in capsys.readouterr().err
    assert _shards(out) == _shards(written)


@pytest.mark.parametrize("schema_version", [1, 2])
def test_text_of_other_draws_is_not_continued(flags, written, tmp_path, capsys, schema_version):
    """Settings of before there was a second way to draw do not name it. What is finished stays."""
    out = tmp_path / "out"
    shutil.copytree(written, out)
    path = out / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["settings"].pop("sampling_draw") == sampling.DRAW_VERSION == 2
    manifest["schema_version"] = schema_version
    path.write_text(json.dumps(manifest))
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={out}"]) == 0
    path.write_text(json.dumps({**manifest, "complete": False}))
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={out}"]) == 2
    assert "sampling_draw: 1 there, 2 now" in capsys.readouterr().err
    assert _shards(out) == _shards(written)


def test_a_models_further_end_tokens_are_obeyed(flags, model_dir, vocabulary, tmp_path, capsys):
    """They stand in generation_config.json, beside the tokenizer; the settings name them."""
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    flags = [flag.replace(model_dir, str(model)) for flag in flags]
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'before'}"]) == 0
    listed = {"eos_token_id": list(range(vocabulary.vocab_size - 1)), "temperature": 0.6}
    (model / "vocabulary" / "generation_config.json").write_text(json.dumps(listed))
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'before'}"]) == 2
    assert "end_ids" in capsys.readouterr().err
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'after'}"]) == 0
    for prompt in records.read_prompts(str(tmp_path / "after")):
        for generation in prompt.generations:
            assert generation.text == ""
            assert generation.extra == {"num_tokens": 0, "finish": "stop"}
    settings = json.loads((tmp_path / "after" / "manifest.json").read_text())["settings"]
    assert settings["end_ids"][:2] == [vocabulary.eos_id, 2 if vocabulary.eos_id == 1 else 1]


def test_what_does_not_change_it_is_the_same_output(flags, written, tmp_path, monkeypatch):
    """Other batches, another spelling of the paths, and the dtype that the checkpoint has."""
    monkeypatch.chdir(written.parent)
    moved = [f.replace("CHECKPOINT_PATH=/", "CHECKPOINT_PATH=/../") for f in flags]
    extra = ["--gin.DTYPE=float32", "--gin.BATCH_SIZE=9", f"--gin.OUTPUT_DIR={written.name}"]
    assert moved != flags and cli.main([*moved, *extra]) == 0


def test_a_finished_output_loads_no_model(flags, written, tmp_path, monkeypatch, capsys):
    """What the check read of it is enough: weights of other digests are loaded, and refused."""
    model = tmp_path / "model"
    given = next(flag.partition("=")[2] for flag in flags if "CHECKPOINT_PATH" in flag)
    shutil.copytree(given, model)
    flags = [flag.replace(given, str(model)) for flag in flags]
    shutil.copytree(written, tmp_path / "out")
    loads, load = [], checkpoints.load_model

    def counted(*arguments, **named):
        loads.append(1)
        return load(*arguments, **named)

    monkeypatch.setattr(checkpoints, "load_model", counted)
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out == f"nothing to do: {tmp_path / 'out'} is finished\n"
    assert not loads
    shutil.rmtree(model / "checkpoints" / "0" / "record")
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]) == 0
    assert len(loads) == 1, "without a record of its weights they are read"


def test_a_document_takes_one_sample(flags, tmp_path, capsys):
    extra = ["--gin.PROMPTS=@prompts.Standard()", "--gin.NUM_DOCUMENTS=2"]
    without_input = [flag for flag in flags if not flag.startswith("--gin.INPUT=")]
    flags = [*without_input, *extra, f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    assert cli.main(flags) == 2
    assert "NUM_SAMPLES is 3, but a document has one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([*flags, "--gin.NUM_SAMPLES=1"]) == 0


@pytest.mark.parametrize(
    "extra", ["--gin.BATCH_SIZE=1", "--gin.MESH_SHAPE={'data': 2, 'fsdp': 2, 'model': 2}"]
)
def test_text_does_not_depend_on_batch_size_and_devices(flags, written, tmp_path, extra):
    assert jax.device_count() == 8
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'out'}", extra]) == 0
    assert _shards(tmp_path / "out") == _shards(written)


def test_killed_and_rerun_gives_the_same_bytes(flags, written, tmp_path, monkeypatch):
    flags = [*flags, f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    decode, calls = module._decode_shard, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_decode_shard", killed)
        assert cli.main(flags) == 130
    assert len(_shards(tmp_path / "out")) == 1
    assert not json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"]
    with monkeypatch.context() as patch:
        calls.clear()
        patch.setattr(module, "_decode_shard", lambda *a: calls.append(1) or decode(*a))
        assert cli.main(flags) == 0
    assert len(calls) == 1 and _shards(tmp_path / "out") == _shards(written)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == (
        written / "manifest.json"
    ).read_bytes()


@pytest.mark.parametrize("mode", ["Standard", "Heuristic", "Augmented"])
def test_documents(flags, tmp_path, mode):
    (tmp_path / "d.jsonl").write_text('{"id": "1", "text": "The bus was late", "toxicity": 0.0}\n')
    arguments = [flag for flag in flags if not flag.startswith("--gin.INPUT=")]
    arguments += [f"--gin.PROMPTS=@prompts.{mode}()", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    arguments += ["--gin.NUM_SAMPLES=1", "--gin.NUM_DOCUMENTS=3", "--gin.MAX_NEW_TOKENS=4"]
    if mode == "Augmented":
        arguments.append(f"--gin.INPUT={tmp_path / 'd.jsonl'}")
    assert cli.main(arguments) == 0
    documents = list(records.read_documents(str(tmp_path / "out")))
    assert len(documents) == 3 and len({d.text for d in documents}) > 1
    assert all(d.text.startswith("The bus" if mode == "Augmented" else "") for d in documents)
    assert all(d.extra["num_tokens"] <= 4 for d in documents)
    assert all(("prompt_text" in d.extra) == (mode == "Heuristic") for d in documents)


MISTAKES = {
    "prompt beyond the context": (
        ["--gin.INPUT={tmp}/long.jsonl"],
        "long.jsonl:2: prompt 'long' has",
    ),
    "no room beside new tokens": (["--gin.MAX_NEW_TOKENS=63"], "lower MAX_NEW_TOKENS"),
    "no room at all": (
        ["--gin.MAX_NEW_TOKENS=64"],
        "MAX_NEW_TOKENS is 64, but the context is 64 tokens, the prompt's included; lower it",
    ),
    "zero prompts": (["--gin.PromptFile.limit=0"], "PromptFile.limit: must be at least 1"),
    "empty file": (["--gin.INPUT={tmp}/empty.jsonl"], "empty.jsonl: empty"),
    "missing file": (["--gin.INPUT={tmp}/none.jsonl"], "none.jsonl: no such file"),
    "documents": (["--gin.INPUT={tmp}/documents.jsonl"], "expected RTP layout"),
    "not UTF-8": (["--gin.INPUT={tmp}/latin.jsonl"], "latin.jsonl:1: not UTF-8"),
    "missing checkpoint": (["--gin.CHECKPOINT_PATH={tmp}/none"], "no such checkpoint"),
    "not a checkpoint": (["--gin.CHECKPOINT_PATH={tmp}"], "no model.json"),
    "another architecture": (
        ["--gin_file=gin_configs/models/tiny.gin"],
        "a checkpoint of another architecture",
    ),
    "unwritable output": (["--gin.OUTPUT_DIR={tmp}/empty.jsonl/out"], "cannot be written"),
    "zero samples": (["--gin.NUM_SAMPLES=0"], "must be at least 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(flags, tmp_path, mistake, capsys):
    extra, message = MISTAKES[mistake]
    long = {"id": "long", "prompt": {"text": "bus " * 80}}
    short = {"id": "short", "prompt": {"text": "bus"}}
    (tmp_path / "long.jsonl").write_text(f"{json.dumps(short)}\n{json.dumps(long)}\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "documents.jsonl").write_text('{"id": "1", "text": "x"}\n')
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "1", "prompt": {"text": "\xe9"}}\n')
    out = tmp_path / "out"
    extra = [flag.format(tmp=tmp_path) for flag in extra]
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={out}", *extra]) == 2
    error = capsys.readouterr().err
    assert error.startswith("detox-jax: error: ") and error.count("\n") == 1, error
    assert message in error
    assert not out.exists()


def test_the_space_before_a_continuation_is_kept_where_its_prompt_is(tmp_path):
    """A tokenizer like LLaMA's writes it as part of the word behind it."""
    save_llama(tmp_path)
    loaded = Vocabulary.load(str(tmp_path))
    prompt, ids = "The bus", loaded.encode("The bus was late")
    cut = len(loaded.encode(prompt))
    sample = decoding.Sample(ids[cut:], stopped=True)

    def text_of(mode, request):
        (record,) = module._records(
            mode, [request], [[loaded.bos_id, *ids[:cut]]], [[sample]], loaded
        )
        return record

    augmented = text_of(prompts.Augmented(1, "no file"), prompts.Request("a", prompt))
    assert augmented.text == "The bus was late"
    source = records.Prompt("p", prompt)
    continued = text_of(prompts.PromptFile("no file"), prompts.Request("p", prompt, source))
    assert [g.text for g in continued.generations] == [" was late"]
    # A document that leaves its prompt out begins like any other document.
    assert text_of(prompts.Heuristic(1), prompts.Request("h", prompt)).text == "was late"


def test_what_is_checked_before_the_work_reads_prompts_as_the_work_does(
    flags, vocabulary, tmp_path, capsys
):
    """A context that has room for prompt and new tokens alone, without the start token."""
    longest = max(len(vocabulary.encode(text)) for text in PROMPTS)
    tight = [*flags, f"--gin.MAX_NEW_TOKENS={64 - longest}", "--dry_run"]
    tight.append(f"--gin.OUTPUT_DIR={tmp_path / 'out'}")
    assert cli.main(tight) == 2
    assert "lower MAX_NEW_TOKENS" in capsys.readouterr().err
    without = "--gin.generate.generate.start_with_end_of_text=False"
    assert cli.main([*tight, without]) == 0


def test_a_chat_model_is_asked_in_its_template(flags, config, tmp_path, capsys, monkeypatch):
    """What is read, what ends an answer, what the manifest says; raw text is warned of."""
    (tmp_path / "tokenizer").mkdir()
    template = chats_made.TEMPLATES["dated"]
    vocabulary = chats_made.save_tokenizer(tmp_path / "tokenizer", template)
    model = chats_made.save_model(tmp_path / "model", config, vocabulary)
    flags = [f"--gin.CHECKPOINT_PATH={model}" if "CHECKPOINT" in flag else flag for flag in flags]
    flags += ["--gin.MAX_NEW_TOKENS=2", "--gin.NUM_SAMPLES=1"]
    asked = []

    class Recorder(module.Decoder):
        def finished(self, prompts, names, **options):
            asked.append((dict(zip(names, prompts, strict=True)), self))
            return super().finished(prompts, names, **options)

    monkeypatch.setattr(module, "Decoder", Recorder)
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'chat'}"]) == 0
    assert "in the tokenizer's chat template" in capsys.readouterr().out
    exchange = chat.exchange(vocabulary)
    assert exchange is not None
    read = {name: ids for prompts, _ in asked for name, ids in prompts.items()}
    assert read == {f"p{i}": exchange.ids(exchange.question(p)) for i, p in enumerate(PROMPTS)}
    settings = json.loads((tmp_path / "chat" / "manifest.json").read_text())["settings"]
    assert settings["chat_template"] == exchange.fingerprint
    assert settings["end_ids"] == list(exchange.end_ids) and len(exchange.end_ids) == 2
    assert [p.text for p in records.read_prompts(str(tmp_path / "chat"))] == PROMPTS

    asked.clear()
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'chat'}"]) == 0 and not asked
    raw = [*flags, "--gin.CHAT_TEMPLATE=False"]
    assert cli.main([*raw, f"--gin.OUTPUT_DIR={tmp_path / 'chat'}"]) == 2
    said = capsys.readouterr().err
    assert "chat_template" in said and "CHAT_TEMPLATE=False" not in said
    assert cli.main([*raw, f"--gin.OUTPUT_DIR={tmp_path / 'raw'}"]) == 0
    assert "warning: raw text, though the tokenizer has a chat" in capsys.readouterr().out
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'raw'}"]) == 2  # as of a version before
    assert "; CHAT_TEMPLATE=False keeps the raw text that" in capsys.readouterr().err
    read = {name: ids for prompts, _ in asked for name, ids in prompts.items()}
    assert read["p1"] == [vocabulary.bos_id, *vocabulary.encode(PROMPTS[1])]
    settings = json.loads((tmp_path / "raw" / "manifest.json").read_text())["settings"]
    assert "chat_template" not in settings


def test_methods_are_told_where_answers_end(config, prompt_file, tmp_path):
    """At the template's end of a turn too, which no file lists: it is read ahead as an end."""
    (tmp_path / "tokenizer").mkdir()
    vocabulary = chats_made.save_tokenizer(tmp_path / "tokenizer", chats_made.TEMPLATES["dated"])
    model = chats_made.save_model(tmp_path / "model", config, vocabulary)
    exchange = chat.exchange(vocabulary)
    assert exchange is not None and len(exchange.end_ids) == 2

    class Ends:
        def load(self, base, mesh):
            raise UserError(f"ends {base.vocabulary.end_ids}")

    decoder = decoding.Decoding(steering=(Ends(),))
    arguments = (model, str(tmp_path / "out"), prompts.PromptFile(str(prompt_file)), decoder)
    for template, ends in ((chat.AUTO, exchange.end_ids), (False, vocabulary.end_ids)):
        with pytest.raises(UserError) as error:
            module.generate(*arguments, chat_template=template)
        assert str(error.value) == f"ends {ends}"


def test_half_of_a_document_begins_an_answer(tmp_path):
    vocabulary = chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES["marks"])
    exchange = chat.exchange(vocabulary)
    assert exchange is not None
    request = prompts.Request("a", "The bus was")
    modes = {
        prompts.Augmented(1, "x"): exchange.begun("", "The bus was"),
        prompts.Heuristic(1): exchange.question("The bus was"),
        prompts.Standard(1): exchange.question("The bus was"),
    }
    for mode, text in modes.items():
        (ids,) = module._encode([request], vocabulary, True, mode, exchange)
        assert ids == vocabulary.encode(text)
