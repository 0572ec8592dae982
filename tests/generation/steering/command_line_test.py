"""STEERING on the command line of `generate`: what it writes, records and refuses."""

import json
import re

import pytest

from detox_jax import cli, outputs
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.vocabulary import Vocabulary
from tests.generation.steering import made


@pytest.fixture(scope="module")
def flags(model_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = ["The bus was late", "You are a", "Thanks for the"]
    rows = [{"id": f"p{i}", "prompt": {"text": text}} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "generate",
        f"--gin.CHECKPOINT_PATH={model_dir}",
        f"--gin.INPUT={path}",
        "--gin.NUM_SAMPLES=4",
        "--gin.MAX_NEW_TOKENS=8",
        "--gin.BATCH_SIZE=8",
    ]


@pytest.fixture(scope="module")
def adapters(model_dir, one_device_mesh, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [
        made.save_adaptation(root / name, model_dir, one_device_mesh, seed)
        for name, seed in (("expert", 1), ("anti", 2))
    ]


@pytest.fixture
def words_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("e\nth\nbus\n")
    return path


def _written(flags, directory, *extra):
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={directory}", *extra]) == 0
    texts = b"".join(file.read_bytes() for file in sorted(directory.glob("*.jsonl")))
    return texts, json.loads((directory / "manifest.json").read_text())["settings"]


@pytest.fixture(scope="module")
def misfits(model_dir, config, vocabulary, one_device_mesh, tmp_path_factory):
    """What does not fit the model, by name."""
    root = tmp_path_factory.mktemp("misfits")
    other = Vocabulary.train(["some other words", "of another text"] * 4, 300)
    foreign = made.save_whole(root / "foreign", config, vocabulary, 5)
    base = checkpoints.load_model(foreign, one_device_mesh)
    (root / "none.txt").write_text("# no phrase\n\n")
    return {
        "vocabulary": made.save_whole(root / "other", config, other, 9),
        "base": made.save_adaptation(root / "adapter", foreign, one_device_mesh, 1),
        "vectors": made.save_vectors(root / "vectors", base, "in_context"),
        "words": str(root / "none.txt"),
    }


@pytest.mark.parametrize(
    ("binding", "place", "message"),
    [
        ("experts.Experts.anti", "texts", "no model.json; it is an output of `score`"),
        ("contrast.PrefixContrast.prefix", "vectors", "no model.json; it is an output of `steer`"),
        ("activations.ActivationOffset.vectors", "texts", "holds none; give an output of `steer`"),
        ("activations.AffineSteering.vectors", "model", "holds none; give an output of `steer`"),
        ("activations.ActivationOffset.vectors", "vectors", "was fitted on model .*, but the mod"),
        ("subspace.SubspaceMargin.subspace", "vectors", "holds none; give an output of `fit_sub"),
        ("linear.LinearSteering.linear", "vectors", "holds none; give an output of `train_linear`"),
        ("reward.RewardAugmented.reward", "model", "holds none; give an output of `train_reward`"),
        ("words.BannedWords.words_file", "texts", "texts: a directory; give a file"),
    ],
)
def test_what_another_verb_wrote_is_refused_before_any_work(
    flags, misfits, model_dir, tmp_path, capsys, binding, place, message
):
    outputs.OutputDirectory(str(tmp_path / "texts"), "score", {}).finish()
    path = {"model": model_dir, **misfits}.get(place, str(tmp_path / place))
    method, _, field = binding.rpartition(".")
    steering = f"--gin.STEERING=[@{method}()]"
    more = (f"--gin.OUTPUT_DIR={tmp_path / 'out'}", steering, f"--gin.{binding}={path}")
    assert cli.main([*flags, *more, "--dry_run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"detox-jax: error: {method.partition('.')[2]}.{field}: {path}")
    assert re.search(message, said) and said.count("\n") == 1


@pytest.mark.parametrize(
    ("binding", "name", "message"),
    [
        ("experts.Experts.anti", "vocabulary", "has vocabulary .*, the model .*; give one that"),
        ("experts.Experts.anti", "base", "is an adaptation of base .*; give one of that base"),
        ("words.BannedWords.words_file", "words", "none.txt: holds no phrase"),
        ("activations.ActivationOffset.vectors", "vectors", "was fitted on model .*, but the mod"),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(
    flags, misfits, tmp_path, capsys, binding, name, message
):
    method = binding.rpartition(".")[0]
    given = [f"--gin.STEERING=[@{method}()]", f"--gin.{binding}={misfits[name]}"]
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'out'}", *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("detox-jax: error: ") and re.search(message, error), error
    assert misfits[name] in error


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("generate", []),
        ("choices", ["--gin.TASKS=['boolq']"]),
        ("lm_eval", ["--tasks=arc_easy"]),
    ],
)
def test_a_model_of_another_vocabulary_is_refused_before_any_is_loaded(
    flags, misfits, tmp_path, capsys, verb, more
):
    checkpoint = [flag for flag in flags if "CHECKPOINT_PATH" in flag]
    method = ["--gin.STEERING=[@experts.Experts()]"]
    anti = f"--gin.experts.Experts.anti={misfits['vocabulary']}"
    given = [*(flags[1:] if verb == "generate" else checkpoint), *more, *method, anti]
    assert cli.main([verb, *given, f"--gin.OUTPUT_DIR={tmp_path / 'out'}", "--dry_run"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Experts.anti: " in error and "has vocabulary" in error, error


def test_a_list_is_applied_and_recorded(flags, adapters, words_file, tmp_path, vocabulary, capsys):
    plain, settings = _written(flags, tmp_path / "plain")
    assert "steering" not in settings
    empty, same = _written(flags, tmp_path / "empty", "--gin.STEERING=[]")
    assert (empty, same) == (plain, settings)
    expert, anti = adapters
    steering = "--gin.STEERING=[@words.BannedWords(), @experts.Experts()]"
    numbers = [
        f"--gin.words.BannedWords.words_file={words_file}",
        f"--gin.experts.Experts.expert={expert}",
        f"--gin.experts.Experts.anti={anti}",
    ]
    steered, settings = _written(flags, tmp_path / "steered", steering, *numbers)
    assert steered != plain
    banned, experts = settings["steering"]
    assert (banned["method"], banned["words"]["phrases"]) == ("BannedWords", 3)
    assert (experts["method"], experts["alpha"], experts["base_top_p"]) == ("Experts", 2.0, None)
    assert experts["anti"]["path"] == anti and len(experts["anti"]["fingerprint"]) == 16
    # Another strength is another output; the same one is complete.
    again = [*flags, f"--gin.OUTPUT_DIR={tmp_path / 'steered'}", steering, *numbers]
    assert cli.main(again) == 0
    assert cli.main([*again, "--gin.experts.Experts.alpha=1.0"]) == 2
    assert "(steering[1].alpha: 2.0 there, 1.0 now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [[], ["--gin.experts.Experts.base_top_p=0.9"], ["--gin.SAMPLING=@sampling.Greedy()"]],
    ids=["", "base_top_p", "greedy"],
)
def test_strength_0_is_plain_decoding(flags, adapters, tmp_path, settings):
    sampling = [setting for setting in settings if "SAMPLING" in setting]
    plain, _ = _written(flags, tmp_path / "plain", *sampling)
    steering = [
        "--gin.STEERING=[@experts.Experts()]",
        f"--gin.experts.Experts.anti={adapters[1]}",
        "--gin.experts.Experts.alpha=0.0",
    ]
    steered, recorded = _written(flags, tmp_path / "steered", *steering, *settings)
    assert steered == plain
    assert recorded["steering"][0]["alpha"] == 0.0


@pytest.mark.slow
def test_a_steered_row_does_not_depend_on_its_batch(flags, adapters, tmp_path):
    steering = [
        "--gin.STEERING=[@experts.Experts(), @contrast.PrefixContrast()]",
        f"--gin.experts.Experts.expert={adapters[0]}",
        f"--gin.experts.Experts.anti={adapters[1]}",
        "--gin.experts.Experts.alpha=0.5",
        "--gin.contrast.PrefixContrast.text=You are",
    ]
    first, _ = _written(flags, tmp_path / "a", *steering)
    other, _ = _written(flags, tmp_path / "b", *steering, "--gin.BATCH_SIZE=32")
    one, _ = _written(flags, tmp_path / "c", *steering, "--gin.MESH_SHAPE={'data': 2, 'model': 4}")
    assert first == other == one


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["STEERING=@words.BannedWords()"], "STEERING: expected a list"),
        (
            ["STEERING=@words.BannedWords()"],
            "write \\[@words.BannedWords\\(\\)\\], with the brackets$",
        ),
        (["STEERING=['words']"], "STEERING: item 0: expected a Method, got 'words'"),
        (["STEERING=[@words.BannedWords]"], "write @words.BannedWords\\(\\), with the parentheses"),
        (["STEERING=[@experts.Experts()]"], "neither an expert nor an anti-expert"),
        (
            ["STEERING=[@words.BannedWords()]", "words.BannedWords.words_file=none.txt"],
            "words_file: none.txt: no such file",
        ),
        (
            ["STEERING=[@contrast.PrefixContrast()]", "contrast.PrefixContrast.text="],
            "PrefixContrast.text: '' has no tokens",
        ),
        (
            ["STEERING=[@contrast.SelfDebiasing()]", "contrast.SelfDebiasing.prefixes=[]"],
            "SelfDebiasing.prefixes is .*; give at least one text",
        ),
        (
            [
                "STEERING=[@contrast.SelfDebiasing()]",
                f"contrast.SelfDebiasing.prefixes=['{'a' * 99}']",
            ],
            "but the model reads 64",
        ),
        (
            ["STEERING=[@contrast.PrefixContrast()]", "contrast.PrefixContrast.alpha=1e999"],
            "not a number|inf|finite",
        ),
    ],
)
def test_mistakes_are_one_line(flags, tmp_path, capsys, bindings, message):
    given = [f"--gin.{binding}" for binding in bindings]
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'out'}", *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("detox-jax: error: ")
    assert re.search(message, error), error
