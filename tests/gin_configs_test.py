"""Every gin file parses, and what it describes can be built."""

import dataclasses
import inspect
import re
import shlex
from pathlib import Path

import gin
import pytest

from detox_jax import cli, configuration, sweep_cells
from detox_jax.checkpoints import params as params_lib
from detox_jax.generation import prompts
from detox_jax.generation.decoding import Decoding
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.training.fit import Budget
from detox_jax.training.loop import Periods

ROOT = Path(__file__).resolve().parent.parent / "gin_configs"
# V D + M D + L (12 D^2 + 13 D) + 2 D; the vocabulary V padded to a multiple of 128, M the context.
PARAMETERS = {
    "tiny": 675_328,
    "126m": 125_262_336,
    "357m": 355_919_872,
    "1.3b": 1_315_819_520,
    "8.3b": 8_269_635_584,
    "530b": 529_582_469_120,
}
ADAPTATIONS = ("whole", "adapter", "parallel", "lora", "prefix", "bitfit", "loreft")


def _names(folder):
    return sorted(path.stem for path in (ROOT / folder).glob("*.gin"))


def test_no_file_is_left_out():
    assert _names("models") == sorted(["base", *PARAMETERS])
    assert _names("adaptation") == sorted(ADAPTATIONS)
    assert _names("runs") == sorted(cli.VERBS)
    assert _names("experiments") == [
        *("demo", "quark", "real", "real_base", "rounds", "steering", "sweep_demo")
    ]
    assert _names("training") == [
        *("click", "conditional", "dpo", "probe", "quark", "reward_weighted", "unlikelihood")
    ]
    assert _names("steering") == sorted(STEERING)
    assert _names("edits") == ["profs"]  # run in tests/generation/steering/toxic_subspace_test.py
    assert _names("scorers") == ["classifier", "services", "train_encoder"]
    # Run in tests/interop/t5x_test.py.
    assert _names("t5x") == ["eval", "infer", "model", "sgeat_tiny", "sgeat_tiny_adapter", "train"]


def _train_flags(*files):
    return ["train", *(f"--gin_file=gin_configs/{name}.gin" for name in files)]


@pytest.mark.parametrize("name", PARAMETERS)
def test_models_have_their_number_of_parameters(name):
    cli.load_config(cli.parse_arguments(_train_flags(f"models/{name}")))
    config = gin.query_parameter("MODEL/gin.macro.value").scoped_configurable_fn()
    shapes, _ = meshes.abstract_params(TransformerLM(config))
    assert params_lib.count(shapes) == PARAMETERS[name]


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_adaptations_add_parameters_of_their_own(name):
    cli.load_config(cli.parse_arguments(_train_flags("models/tiny", f"adaptation/{name}")))
    config = gin.query_parameter("MODEL/gin.macro.value").scoped_configurable_fn()
    reference = gin.query_parameter("ADAPTATION/gin.macro.value")
    adaptation = reference and reference.scoped_configurable_fn()
    shapes, _ = meshes.abstract_params(TransformerLM(config, adaptation))
    assert (params_lib.count(shapes) > PARAMETERS["tiny"]) == (name != "whole")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_runs_are_complete_once_their_required_macros_are_given(verb):
    cli.load_config(cli.parse_arguments([verb]))
    required = [
        scope
        for (scope, selector), parameters in gin.config._CONFIG.items()
        if selector == "gin.macro" and configuration._is_required(parameters.get("value"))
    ]
    used = [
        f"--gin.{name}={_VALUES.get(name, 'somewhere')}"
        for name in required
        if name not in _OPTIONAL
    ]
    assert _checked([verb, *used, *_CHOICES.get(verb, [])])


def _checked(command):
    """The configuration of a command, checked as far as it is gin's."""
    arguments = cli.parse_arguments(command)
    function, defaults = cli.load_config(arguments)
    configuration.check(function, defaults, arguments.bindings)
    return gin.config_str()


def _defaults(verb):
    """Python's defaults of a verb's parameters, and of the fields of the structs that it is given,
    by the key under which gin keeps their bindings."""
    function, _ = cli.load_config(cli.parse_arguments([verb]))
    key = ("", configuration._selector(function))
    parameters = inspect.signature(function).parameters
    yield key, {name: parameter.default for name, parameter in parameters.items()}
    for value in gin.config._CONFIG[key].values():
        if struct := configuration._struct(value):
            fields = dataclasses.fields(struct)
            yield value.config_key, {field.name: field.default for field in fields}


@pytest.mark.parametrize("verb", cli.VERBS)
def test_numbers_are_the_same_in_gin_and_in_python(verb):
    """A default that stands in both places is one number."""
    for key, defaults in _defaults(verb):
        for name, bound in gin.config._CONFIG.get(key, {}).items():
            by_name = getattr(bound, "config_key", None) == (name.upper(), "gin.macro")
            if not by_name or (verb, name) == ("plan", "task_feature_lengths"):  # a dict
                continue
            macro = gin.config._CONFIG[name.upper(), "gin.macro"]["value"]
            if defaults[name] in (inspect.Parameter.empty, dataclasses.MISSING):
                continue
            if not isinstance(macro, gin.config.ConfigurableReference):
                assert macro == defaults[name], f"{verb}: {name}"


def test_run_files_bind_no_macro_to_the_parameter_of_its_name():
    """Which is done for them; what is left says something."""
    for path in (ROOT / "runs").glob("*.gin"):
        verb = ""
        for line in path.read_text().splitlines():
            if not line.startswith(" "):
                verb = line.removesuffix(":") if line.endswith(f".{path.stem}:") else ""
            name, _, value = line.strip().partition(" = ")
            name = name.removeprefix(f"{path.stem}.{path.stem}.")
            assert not (verb and value == f"%{name.upper()}"), f"{path.name}: {line}"


# Required only by a choice that is not the default, or brought by a file.
_OPTIONAL = {"NUM_DOCUMENTS", "TOP_K", "MODEL"}
# Of those that are required, what is no text.
_VALUES = {
    "TASK_FEATURE_LENGTHS": "{'targets': 8}",
    "METHODS": "{'base': 'somewhere'}",
    "SCORES": "{'ngram': 'somewhere', 'lexicon': 'elsewhere'}",
    "GROUPS": "{'a': 'somewhere'}",
    "GIN_FILES": "('somewhere.gin',)",
    "AXES": "(@sweep.Axis(),)",
}
# What a verb leaves to choose, of which it takes one.
_CHOICES = {
    "train": ["--gin.TRAIN_STEPS=5"],
    "train_linear": ["--gin.EPOCHS=1"],
    "train_reward": ["--gin.EPOCHS=1"],
    "plan": ["--gin_file=gin_configs/models/tiny.gin", "--gin.VOCAB_SIZE=300"],
    "sweep": ["--gin.sweep.Axis.name=size", "--gin.sweep.Axis.choices={'small': []}"],
}


def test_scorers(capsys):
    file = "--gin_file=gin_configs/scorers/classifier.gin"
    command = ["score", file, "--gin.INPUT=in", "--gin.OUTPUT_DIR=out", "--dry_run"]
    assert cli.main(command) == 2
    assert "CLASSIFIER" in capsys.readouterr().err
    text = _checked([*command, "--gin.CLASSIFIER=some/model"])
    assert "SCORER = @classifier.ClassifierScorer()" in text


def test_the_encoder_is_a_scorer_to_train(capsys):
    file = "--gin_file=gin_configs/scorers/train_encoder.gin"
    places = ["--gin.OUTPUT_DIR=out", "--gin.DATA_DIR=data"]
    command = ["train_scorer", file, *places, "--gin.TRAIN_STEPS=5", "--dry_run"]
    assert cli.main(command) == 0, capsys.readouterr().err
    assert "RECIPE = @train_encoder.EncoderRecipe()" in capsys.readouterr().out
    assert cli.main([*command, "--gin.L2=1"]) == 2
    assert "nothing uses L2" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["lora", "loreft", "bitfit"])
def test_an_experiment_with_another_adaptation_than_the_one_whose_width_it_sets(file, capsys):
    demo = ["sgeat", "--gin_file=gin_configs/experiments/demo.gin", "--dry_run"]
    command = [*demo, f"--gin_file=gin_configs/adaptation/{file}.gin"]
    assert cli.main(command) == 0, capsys.readouterr().err
    assert cli.main([*command, "--gin.BOTTLENECK_DIM=8"]) == 2
    assert "nothing uses BOTTLENECK_DIM" in capsys.readouterr().err


def test_a_name_that_no_run_file_has_is_refused_in_a_file_too(tmp_path, capsys):
    (tmp_path / "mine.gin").write_text("BOTTLENECK_WIDTH = 8\n")
    demo = ["sgeat", "--gin_file=gin_configs/experiments/demo.gin", "--dry_run"]
    assert cli.main([*demo, f"--gin_file={tmp_path}/mine.gin"]) == 2
    assert "nothing uses BOTTLENECK_WIDTH" in capsys.readouterr().err


# A file of gin_configs/steering, what it needs, and what it makes.
STEERING = {
    "words": ([], "BannedWords()"),
    "experts": (["EXPERT=a", "ANTI=b"], "Experts(expert='a', anti='b', alpha=2.0"),
    "anti": (["ANTI=b"], "Experts(expert=None, anti='b', alpha=2.0"),
    "contrast": ([], "PrefixContrast(text=None, prefix=None, alpha=1.0, form='logits'"),
    "contrast_of_probabilities": ([], "alpha=5.0, form='probabilities', base_top_p=0.9)"),
    "activations": (["VECTORS=v"], "ActivationOffset(vectors='v', strength=None, layers=None)"),
    "affine": (["VECTORS=v"], "AffineSteering(vectors='v', strength=1.0, everywhere=False)"),
    "reversal": ([], "ToxificationReversal(toxic=None, clean=None, strength=1.0, by_size=0.4, by_"),
    "debiasing": ([], "SelfDebiasing(prefixes=None, decay=50.0, floor=0.01)"),
    "discriminator": (
        ["CLEAN=a", "DIRTY=b"],
        "GenerativeDiscriminator(model=None, codes=None, clean='a', dirty='b', omega=30.0, bias=2.0"
        ", scale=1.0, filter_mass=0.8, filter_threshold=0.8)",
    ),
    "linear": (["LINEAR=a"], "LinearSteering(linear='a', strength=5.0, domain=1.0)"),
    "reward": (["REWARD=a"], "RewardAugmented(reward='a', beta=50.0, k=20)"),
    "subspace": (["SUBSPACE=a"], "SubspaceMargin(subspace='a', beta=1.0, k=20, published=False"),
}


@pytest.mark.parametrize("name", STEERING)
def test_steering(name):
    needed, made = STEERING[name]
    file = f"--gin_file=gin_configs/steering/{name}.gin"
    places = [f"--gin.{macro}=x" for macro in ("CHECKPOINT_PATH", "INPUT", "OUTPUT_DIR")]
    command = ["generate", file, *places, *(f"--gin.{binding}" for binding in needed)]
    assert _checked(command)
    decoding = gin.get_configurable(Decoding)()
    assert len(decoding.steering) == 1
    assert made.removesuffix("()") in repr(decoding.steering[0])


@pytest.mark.parametrize("verb", ["choices", "lm_eval"])
def test_steering_is_refused_where_it_is_not_supported(verb, capsys):
    required = ["CHECKPOINT_PATH=x", "OUTPUT_DIR=y", "TASKS=piqa"]
    flags = [f"--gin.{binding}" for binding in required[: 2 if verb == "choices" else 3]]
    refused = {
        "@subspace.SubspaceMargin()": "SubspaceMargin, which draws among its 20 candidates alone",
        "@reversal.ToxificationReversal()": "ToxificationReversal, which acts from a prompt's last",
    }
    places = ["--gin.subspace.SubspaceMargin.subspace=x"]
    for method, message in refused.items():
        given = places if "subspace" in method else []
        assert cli.main([verb, *flags, *given, f"--gin.STEERING=[{method}]"]) == 2
        error = capsys.readouterr().err
        assert f"STEERING: {verb} cannot score text under {message}" in error
        assert error.count("\n") == 1


def test_the_rounds_of_quark_wait_for_each_other(capsys):
    command = ["sgeat", "--gin_file=gin_configs/experiments/quark.gin", "--dry_run"]
    assert cli.main(command) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    plan = [line.split()[4] for line in lines if line.startswith("#   to do")]
    written = [f"runs/quark/corpora/round-{n}/generated" for n in (1, 2, 3)]
    trained = [f"runs/quark/models/quark-{n}" for n in (1, 2, 3)]
    order = [plan.index(place) for pair in zip(written, trained, strict=True) for place in pair]
    assert order == sorted(order)


@pytest.mark.parametrize("name", ["rounds", "quark", "matrix/1m"])
def test_a_model_writes_by_other_random_numbers_than_what_it_was_trained_on(name):
    files = [f"--gin_file=gin_configs/experiments/{name}.gin", "--gin.RANDOM_SEED=5"]
    cli.load_config(cli.parse_arguments(["sgeat", *files]))
    writers = {}
    for reference in gin.query_parameter("CORPORA/gin.macro.value").values():
        corpus = reference.scoped_configurable_fn()
        if corpus.prompts is not None:
            source = {} if corpus.source is None else {"documents": "kept"}
            writers.setdefault(corpus.prompts(**source).ids, set()).add(corpus.writer)
    assert len(writers) > 1 and all(len(of) == 1 for of in writers.values())
    if name == "quark":
        with gin.config_scope("behind"):
            assert gin.get_configurable(Decoding)().random_seed == 5


def _drawn(flags):
    """By corpus of new documents what their ids begin with, and the seed that they are drawn by."""
    cli.load_config(cli.parse_arguments(["sgeat", *flags, "--gin.RANDOM_SEED=5"]))
    drawn = {}
    for name, reference in gin.query_parameter("CORPORA/gin.macro.value").items():
        corpus, generate = reference.scoped_configurable_fn(), "documents/generate.generate"
        if corpus.prompts is None or corpus.source is not None:
            continue
        if corpus.generate is not None:
            scope = reference.scoped_selector.rpartition("/")[0]
            generate = gin.query_parameter(f"{scope}/sgeat.Corpus.generate").scoped_selector
        seed = gin.get_bindings(generate)["decoding"].random_seed
        drawn[name] = (corpus.prompts().ids, seed)
    return drawn


def test_rounds_that_were_begun_before_go_on_as_the_changelog_says():
    text = (ROOT.parent / "CHANGELOG.md").read_text()
    advice = text.partition("A run that was begun before is refused at its second corpus.")[2]
    rounds, _, quark = advice.partition("\n- ")[0].partition("for `quark.gin`\n")
    ids = re.search(r"`(--gin\.\S+)`", rounds)[1]
    folder = "--gin_file=gin_configs/experiments"

    for name in ("rounds", "matrix/1m"):
        drawn = _drawn([f"{folder}/{name}.gin", ids])
        assert drawn["second"] == drawn["standard"] == ("standard", 5)

    drawn = _drawn([f"{folder}/quark.gin", *shlex.split(quark.replace("\\\n", " "))])
    by_seed = {"standard": 5, "round-1": 5, "round-2": 1, "round-3": 2}
    assert drawn == {name: ("standard", seed) for name, seed in by_seed.items()}

    choices = shlex.split(re.search(r"`(--gin\.sweep[^`]+)`", rounds)[1])
    cli.load_config(cli.parse_arguments(["sweep", f"{folder}/matrix/sweep.gin", *choices]))
    axis = sweep_cells.Axis("size", gin.query_parameter("sweep.Axis.choices"))
    (cell,) = sweep_cells.cells([axis], None, (), "out")
    assert cell.arguments(())[1:3] == [f"{folder}/matrix/1m.gin", ids]


def test_a_probe_in_every_row_whose_files_are_still_to_come(capsys):
    files = [
        f"--gin_file=gin_configs/{name}.gin" for name in ("experiments/demo", "training/probe")
    ]
    here = [f"--gin.PROBE_{name}=runs/demo/text/{file}" for name, file in PROBE_FILES.items()]
    assert cli.main(["sgeat", *files, *here, "--dry_run"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    missing = "--gin.PROBE_VALIDATION=runs/demo/texts/heldout"
    assert cli.main(["sgeat", *files, *here, missing, "--dry_run"]) == 2
    error = capsys.readouterr().err
    assert "runs/demo/texts/heldout: no such" in error and error.count("\n") == 1


def test_a_probe_behind_tags_is_refused_by_rows_on_plain_documents(tmp_path, capsys):
    imports = "from __gin__ import dynamic_registration\nfrom detox_jax import tags\n"
    (tmp_path / "rows.gin").write_text(
        f"{imports}"
        "from detox_jax import sgeat\n"
        "from tasks import tagged\n"
        "CORPORA = {'standard': @standard/sgeat.Corpus(), 'tagged': @tagged/sgeat.Corpus()}\n"
        "tagged/sgeat.Corpus:\n  source = 'standard'\n  task = @tagged.tagged_task\n"
    )
    (tmp_path / "own.gin").write_text(  # As docs/TRAINING.md has it.
        f"{imports}"
        "from detox_jax import probe\n"
        "from detox_jax.generation import decoding\n"
        "from detox_jax.training import optimizer\n"
        "from detox_jax.training import train\n"
        "tagged/train.train:\n"
        "  optimizer = @whole/optimizer.AdamW()\n"
        "  probe = @tagged/probe.ToxicityProbe()\n"
        "tagged/probe.ToxicityProbe.decoding = @probe/tagged/decoding.Decoding()\n"
        "probe/tagged/decoding.Decoding.behind = @tags.Tags()\n"
    )
    rows = {
        "plain": "{'corpus': 'standard'}",
        "behind": "{'corpus': 'tagged', 'decoding': {'behind': @tags.Tags()}}",
    }
    rows["own"] = rows["behind"].replace("{", "{'train': @tagged/train.train, ", 1)
    files = ["gin_configs/experiments/demo.gin", "gin_configs/training/probe.gin"]
    places = [f"PROBE_{n}=runs/demo/text/{file}" for n, file in PROBE_FILES.items()]

    def told(names, behind, *more):
        methods = ", ".join(f"'{name}': {rows[name]}" for name in names)
        given = [*places, f"METHODS={{{methods}}}", f"PROBE_BEHIND={behind}", "PROBE_SAMPLES=7"]
        command = [f"--gin_file={file}" for file in (*files, tmp_path / "rows.gin", *more)]
        command += [f"--gin.{binding}" for binding in (*given, "ADAPTATION=None")]
        status = cli.main(["sgeat", *command, "--dry_run"])
        return status, capsys.readouterr().err

    assert told(["behind"], "@tags.Tags()") == (0, "")
    status, error = told(["plain", "behind"], "@tags.Tags()")
    assert status == 2 and "but the training documents stand behind no tag; leave" in error
    status, error = told(["plain", "behind"], None)
    assert status == 2 and "PROBE asks behind nothing, but the training documents stand" in error
    assert error.count("\n") == 1
    assert told(["plain", "own"], None, tmp_path / "own.gin") == (0, "")
    with gin.config_scope("tagged"):
        probe = gin.get_configurable("probe.ToxicityProbe")()
    assert probe.behind is not None and probe.decoding.num_samples == 7


def test_the_seed_of_a_run_is_that_of_what_it_trains_for_steering():
    """Cells of a sweep over seeds had one map and one reward model."""
    file = "--gin_file=gin_configs/experiments/steering.gin"
    cli.load_config(cli.parse_arguments(["sgeat", file, "--gin.RANDOM_SEED=5"]))
    for scope, verb in (("map", "train_linear"), ("reward", "train_reward")):
        seed = gin.query_parameter(f"{scope}/{verb}.{verb}.random_seed")
        assert seed.scoped_configurable_fn() == 5


def test_a_probe_of_documents_from_nothing_draws_by_ids_and_a_number_of_its_own():
    """Under the ids of generated documents it would ask by their random numbers."""
    files = ["gin_configs/experiments/demo.gin", "gin_configs/training/probe.gin"]
    command = [f"--gin_file={file}" for file in files]
    command += [f"--gin.PROBE_VALIDATION=runs/demo/text/{PROBE_FILES['VALIDATION']}"]
    command += ["--gin.PROBE_PROMPTS=None"]
    assert cli.main(["sgeat", *command, "--dry_run"]) == 0
    asked = gin.get_configurable("probe.ToxicityProbe")().prompts
    assert asked == prompts.Standard(1000, ids="probe") and asked.ids != prompts.Standard(1).ids
    with gin.config_scope("standard"):
        corpus = gin.get_configurable("sgeat.Corpus")()
    assert corpus.prompts().ids == "standard"


@pytest.mark.parametrize("verb", ["train", "sgeat"])
def test_a_probe_asks_in_the_chat_template_of_the_run(verb):
    needed = ["INPUT=i", "VOCABULARY_PATH=v", "MODEL_DIR=m", "TASK_FEATURE_LENGTHS={'targets': 8}"]
    files, given = ["probe", "conditional"], [*needed, "TRAIN_STEPS=1"]
    if verb == "sgeat":  # Its own file has the tags.
        files, given = ["probe"], ["OUTPUT_DIR=o"]
    given += ["PROBE_PROMPTS=p", "PROBE_VALIDATION=v", "CHAT_TEMPLATE=False"]
    files = [f"--gin_file=gin_configs/training/{name}.gin" for name in files]
    _checked([verb, *files, *(f"--gin.{binding}" for binding in given)])
    probe = gin.query_parameter("PROBE/gin.macro.value").scoped_configurable_fn()
    assert probe.chat_template is False


PROBE_FILES = {"PROMPTS": "prompts", "VALIDATION": "heldout_nontoxic"}


def test_the_sweep_of_the_demo():
    text = _checked(["sweep", "--gin_file=gin_configs/experiments/sweep_demo.gin"])
    assert "OUTPUT_DIR = 'runs/sweep-demo'" in text


@pytest.mark.parametrize("name", ["demo", "quark", "real", "rounds", "steering"])
def test_experiments(name):
    text = _checked(["sgeat", f"--gin_file=gin_configs/experiments/{name}.gin"])
    assert f"OUTPUT_DIR = 'runs/{name}'" in text


@pytest.mark.parametrize(
    ("name", "scope", "budget", "periods"),
    [
        ("demo", "pretrain", Budget(train_steps=450), Periods(eval=225)),
        ("demo", "whole", Budget(epochs=3), Periods()),
        ("real", "pretrain", Budget(train_steps=2000), Periods(checkpoint=200, eval=500)),
        ("real", "whole/seed1", Budget(train_steps=50), Periods()),
    ],
)
def test_a_training_of_an_experiment_has_the_budget_of_its_scope(name, scope, budget, periods):
    cli.load_config(
        cli.parse_arguments(["sgeat", f"--gin_file=gin_configs/experiments/{name}.gin"])
    )
    with gin.config_scope(scope):
        assert gin.get_configurable(Budget)() == budget
        assert gin.get_configurable(Periods)() == periods


@pytest.mark.parametrize(
    ("file", "macro"),
    [("demo", "MESH_SHAPE"), ("paper/530b/standard", "GENERATION_MESH_SHAPE")],
)
def test_the_evaluation_of_a_run_is_on_its_mesh(file, macro):
    """A model that no device has room for is read as it was generated from."""
    file = f"--gin_file=gin_configs/experiments/{file}.gin"
    cli.load_config(cli.parse_arguments(["sgeat", file, f"--gin.{macro}={{'fsdp': 8}}"]))
    assert f"%{macro}" in repr(gin.query_parameter("evaluate.evaluate.mesh_shape"))
