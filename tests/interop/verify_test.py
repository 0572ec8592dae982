"""--verify, end tokens and files beside the real torch, transformers and safetensors."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from detox_jax import cli, records
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import streamed
from detox_jax.errors import UserError
from detox_jax.interop import convert, verify
from detox_jax.models.adaptation import LoRAConfig
from tests.conftest import initial_params
from tests.interop import families_made

torch = pytest.importorskip("torch", reason="needs the extra hf (make test-interop)")
transformers = pytest.importorskip("transformers", reason="needs the extra hf (make test-interop)")
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.interop


def made(directory, vocabulary, case="llama-untied", dtype="float32"):
    """A model of transformers with a tokenizer beside it."""
    model = families_made.make(case, directory, vocabulary.vocab_size - 1)
    model.to(getattr(torch, dtype)).save_pretrained(str(directory))
    vocabulary.save(str(directory))
    return model


def imported(source, to, **settings):
    convert.convert(from_hf=str(source), to=str(to), **settings)
    return to


def moved(source, to, scale=1e-4):
    """What training leaves: the same model, every weight a little off."""
    shutil.copytree(source, to)
    shutil.rmtree(to / "checkpoints")
    checkpoint = streamed.Checkpoint.open(str(source))
    noise = np.random.default_rng(0)
    arrays = {
        path: np.float32(checkpoint.read(path)) + np.float32(noise.normal(size=shape) * scale)
        for path, shape in checkpoint.paths.items()
    }
    spec = checkpoint.spec
    spec = dataclasses.replace(spec, config=dataclasses.replace(spec.config, param_dtype="float32"))
    vocabulary = checkpoints.Vocabulary.load(str(source / "vocabulary"))
    checkpoints.save_model(epath.Path(to), streamed.nested(arrays), spec, vocabulary)
    return to


# --- what must be equal -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_trained_model_goes_back_in_its_own_dtype_and_is_verified(
    dtype, tmp_path, vocabulary, capsys
):
    made(tmp_path / "hf", vocabulary, dtype=dtype)
    base = imported(tmp_path / "hf", tmp_path / "base", verify=True)
    trained = moved(base, tmp_path / "trained")
    capsys.readouterr()
    convert.convert(source=str(trained), to_hf=str(tmp_path / "out"), verify=True)
    printed = capsys.readouterr().out
    assert f"tensors equal, as {dtype}" in printed
    assert (f"rounding to {dtype} moves logits by up to" in printed) == (dtype != "float32")
    assert "ids of 16 texts equal those of AutoTokenizer" in printed


def test_an_import_that_rounds_is_verified(tmp_path, vocabulary, capsys):
    made(tmp_path / "hf", vocabulary)
    imported(tmp_path / "hf", tmp_path / "base", param_dtype="bfloat16", verify=True)
    printed = capsys.readouterr().out
    assert "tensors equal, as bfloat16" in printed and "rounding to bfloat16 moves" in printed


def test_lora_over_a_bfloat16_base_is_verified(tmp_path, vocabulary, one_device_mesh):
    """Merged in float32: exported so, it is the adapter to float32's own error."""
    made(tmp_path / "hf", vocabulary, dtype="bfloat16")
    base = imported(tmp_path / "hf", tmp_path / "base", param_dtype="bfloat16")
    _, spec, fingerprint = checkpoints.load_params(str(base), one_device_mesh)
    lora = LoRAConfig(2, target_modules=("query", "value", "out", "wi", "wo"))
    config = dataclasses.replace(spec.config, param_dtype="float32")
    added, _ = params_lib.partition(initial_params(config, lora), lora.trainable_pattern)
    noise = np.random.default_rng(3)
    added = jax.tree.map(lambda x: np.float32(noise.normal(size=x.shape) * 0.05), added)
    reference = {"path": str(base), "fingerprint": fingerprint}
    spec = dataclasses.replace(spec, config=config, adaptation=lora, base=reference)
    (tmp_path / "lora").mkdir()
    checkpoints.save_model(epath.Path(tmp_path / "lora"), added, spec, vocabulary)
    for dtype in ("float32", "bfloat16"):
        convert.convert(
            source=str(tmp_path / "lora"), to_hf=str(tmp_path / dtype), dtype=dtype, verify=True
        )


def test_one_weight_that_is_another_is_found(tmp_path, vocabulary):
    """A difference of one last bit, which no tolerance of logits would show."""
    made(tmp_path / "hf", vocabulary, dtype="bfloat16")
    base = imported(tmp_path / "hf", tmp_path / "base")
    file = tmp_path / "hf" / "model.safetensors"
    tensors = safetensors_torch.load_file(file)
    bits = tensors["model.layers.0.mlp.up_proj.weight"].view(torch.int16)
    bits[3, 5] += 1
    safetensors_torch.save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match="up_proj.weight' is not the checkpoint's, as bfloat16"):
        verify.verify(str(base), str(tmp_path / "hf"), "bfloat16")


# --- end tokens -------------------------------------------------------------------------------


def test_several_end_tokens_end_greedy_text_as_in_transformers(
    tmp_path, vocabulary, one_device_mesh, monkeypatch
):
    model = made(tmp_path / "hf", vocabulary)
    prompt = "The bus was"
    ids = torch.tensor([[i - 1 for i in [vocabulary.bos_id, *vocabulary.encode(prompt)]]])
    model.generation_config.eos_token_id = None
    free = model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :].tolist()
    settings = {"eos_token_id": [vocabulary.eos_id - 1, free[6]], "temperature": 0.6, "top_p": 0.9}
    settings["do_sample"] = True
    (tmp_path / "hf" / "generation_config.json").write_text(json.dumps(settings))
    base = imported(tmp_path / "hf", tmp_path / "base")
    convert.convert(source=str(base), to_hf=str(tmp_path / "out"))
    again = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"))
    for name, value in settings.items():
        assert getattr(again.generation_config, name) == value
    theirs = again.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :].tolist()
    assert theirs == free[: free.index(free[6]) + 1]
    rows = tmp_path / "prompts.jsonl"
    rows.write_text(json.dumps({"id": "1", "prompt": {"text": prompt}}) + "\n")
    arguments = [f"--gin.CHECKPOINT_PATH={base}", f"--gin.INPUT={rows}", "--gin.NUM_SAMPLES=1"]
    arguments += ["--gin.MAX_NEW_TOKENS=12", "--gin.SAMPLING=@sampling.Greedy()"]
    assert cli.main(["generate", *arguments, f"--gin.OUTPUT_DIR={tmp_path / 'g'}"]) == 0
    (generation,) = next(records.read_prompts(str(tmp_path / "g"))).generations
    assert generation.extra == {"num_tokens": len(theirs) - 1, "finish": "stop"}
    assert generation.text == vocabulary.decode([i + 1 for i in theirs[:-1]])


# --- files ------------------------------------------------------------------------------------


def test_a_single_file_goes_before_an_index_as_in_transformers(tmp_path, vocabulary, capsys):
    model = made(tmp_path / "hf", vocabulary)
    (tmp_path / "hf" / "model.safetensors").unlink()
    model.save_pretrained(str(tmp_path / "hf"), max_shard_size="20KB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").exists()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(str(tmp_path / "new"))
    shutil.copy(tmp_path / "new" / "model.safetensors", tmp_path / "hf")
    imported(tmp_path / "hf", tmp_path / "base", verify=True)


@pytest.mark.parametrize(
    "case", ["gpt2-tied", "opt-tied", "llama-grouped-tied", "qwen2-tied-window", "gemma-tied"]
)
def test_what_save_model_leaves_of_a_tied_pair_is_read(case, tmp_path, vocabulary):
    """It keeps one of two names that share memory; transformers loads either."""
    model = made(tmp_path / "hf", vocabulary, case)
    file = tmp_path / "hf" / "model.safetensors"
    safetensors_torch.save_model(model, str(file), metadata={"format": "pt"})
    imported(tmp_path / "hf", tmp_path / "base", verify=True)
    tensors = safetensors_torch.load_file(file)
    pair = ("lm_head.weight", model.get_input_embeddings().weight)
    embedding = next(n for n, p in model.named_parameters() if p is pair[1])
    value = tensors.pop(embedding, None)
    value = tensors.pop("lm_head.weight", None) if value is None else value
    for name in (embedding, "lm_head.weight"):
        safetensors_torch.save_file({**tensors, name: value}, file, {"format": "pt"})
        imported(tmp_path / "hf", tmp_path / name, verify=True)
