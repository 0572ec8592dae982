"""Vectors in the decoding loop: whole loops are those of the formulas, row by row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation import decoding, sampling
from detox_jax.generation.steering import activation_formulas as formulas
from detox_jax.generation.steering import activations, steering
from detox_jax.models import edits
from detox_jax.parallel import mesh as meshes
from tests.generation.steering import made
from tests.marks import slow_but

NEW = 6
PROMPTS = ([5, 9, 30], [7], [40, 41, 42, 43], [1, 20])


@pytest.fixture(scope="module")
def base(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


def _vectors(path, base, rule, seed=0):
    return made.save_vectors(path, base, rule, seed=seed)


@pytest.fixture(scope="module")
def directories(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("vectors")
    return {rule: _vectors(root / rule, base, rule) for rule in made.RULES}


METHODS = {
    "mean_difference": lambda path, s: activations.ActivationOffset(path, s, layers=[0, 1]),
    "in_context": lambda path, s: activations.ActivationOffset(path, s),
    "heads": lambda path, s: activations.ActivationOffset(path, s),
    "heads, published": lambda path, s: activations.ActivationOffset(path, s),
    "affine": lambda path, s: activations.AffineSteering(path, s),
    "affine, covariance": lambda path, s: activations.AffineSteering(path, s, everywhere=True),
}
OF_EACH_KIND = slow_but(("mean_difference", "heads", "affine"), METHODS)
STRENGTHS = {"mean_difference": 0.7, "in_context": 0.6, "heads": 0.9, "heads, published": 0.9}


def _load(directories, base, mesh, name, strength=None):
    strength = STRENGTHS.get(name, 0.8) if strength is None else strength
    return METHODS[name](directories[name], strength).load(base, mesh)


def _decode(base, mesh, steerings, prompts=PROMPTS, *more, **how):
    return made.decode(base, mesh, steerings, prompts, NEW, *more, **how)


def _by_hand(base, edit, prompt):
    """Greedy decoding without a cache, the formula written out at its site by a plain function."""
    ids, end = list(prompt), base.vocabulary.eos_id
    for _ in range(NEW):
        ids.append(int(jnp.argmax(made.read(base.module, base.params, ids, (edit,))[-1])))
        if ids[-1] == end:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def _formula(name, path, strength):
    """The edit as the formulas have it, of the arrays in the file."""
    with np.load(f"{path}/vectors.npz") as file:
        arrays = {key: jnp.asarray(file[key]) for key in file.files}

    @dataclasses.dataclass(frozen=True)
    class ByHand:
        arrays: dict
        site: str

        def __call__(self, h):
            a = self.arrays
            if name == "mean_difference":
                return formulas.offset(h, a["direction"], strength)
            if name == "in_context":
                return formulas.in_context(h, a["direction"], strength)
            if name == "heads":
                weight = a["weight"]
                return formulas.per_head(h, a["direction"], weight, strength, keep_head_norms=True)
            if name == "heads, published":
                chunks = h.reshape(*h.shape[:-1], *a["direction"].shape)
                turned = formulas.per_head(
                    chunks, a["direction"], None, strength, keep_head_norms=False
                )
                return turned.reshape(h.shape)
            moved = formulas.affine(h, a["toxic_mean"], a["clean_mean"], a.get("map"), strength)
            if name == "affine":
                toxic = h @ a["probe_weight"] > a["probe_least"]
                moved = jnp.where(toxic[..., None], moved, h)
            return moved

    jax.tree_util.register_dataclass(ByHand, data_fields=["arrays"], meta_fields=["site"])
    return ByHand(arrays, made.RULES[name].site)


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_whole_loop_is_the_formula(base, directories, one_device_mesh, name):
    """Prompt and every token that is drawn, with a cache and without."""
    loaded = _load(directories, base, one_device_mesh, name)
    steered = _decode(base, one_device_mesh, (loaded.steering,))
    plain = _decode(base, one_device_mesh, ())
    assert steered != plain
    edit = _formula(name, directories[name], loaded.settings["strength"])
    for prompt, (tokens,) in zip(PROMPTS, steered, strict=True):
        assert tokens == _by_hand(base, edit, prompt)


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_strength_0_is_plain_decoding(base, directories, one_device_mesh, name):
    """No steering at all where it is given, and to the bit where it is traced."""
    nothing = _load(directories, base, one_device_mesh, name, 0.0)
    assert nothing.steering is None and nothing.settings["strength"] == 0
    loaded = _load(directories, base, one_device_mesh, name)
    (edit,) = loaded.steering.edits
    traced = activations.Edited((edit.replace(strength=0 * edit.strength),))
    method = sampling.TopPSampling(0.9)
    plain = _decode(base, one_device_mesh, (), samples=20, method=method)
    assert _decode(base, one_device_mesh, (traced,), samples=20, method=method) == plain
    assert _decode(base, one_device_mesh, (loaded.steering,), samples=20, method=method) != plain


@pytest.mark.parametrize("name", slow_but(["mean_difference"], METHODS))
def test_a_row_depends_neither_on_its_batch_nor_on_its_place(
    base, directories, one_device_mesh, name
):
    steerings = (_load(directories, base, one_device_mesh, name).steering,)
    method = sampling.TopPSampling(0.9)
    prompts = PROMPTS * 3
    together = _decode(base, one_device_mesh, steerings, prompts, 5, method)
    assert _decode(base, one_device_mesh, steerings, prompts, 5, method, rows=2) == together
    for n in (0, 5):
        alone = _decode(
            base, one_device_mesh, steerings, prompts[n : n + 1], 5, method, names=[f"p{n}"]
        )
        assert alone[0] == together[n]


def test_one_program_serves_all_strengths_and_vectors(base, one_device_mesh, tmp_path):
    decoding._advance.clear_cache()
    for seed, strength in ((1, 0.3), (2, 0.6)):
        path = _vectors(tmp_path / str(seed), base, "heads", seed)
        loaded = activations.ActivationOffset(path, strength).load(base, one_device_mesh)
        _decode(base, one_device_mesh, (loaded.steering,))
        assert decoding._advance._cache_size() == 1 or seed == 1
    first = decoding._advance._cache_size()
    loaded = activations.ActivationOffset(path, 0.1, layers=[1]).load(base, one_device_mesh)
    _decode(base, one_device_mesh, (loaded.steering,))
    assert decoding._advance._cache_size() == first


def test_layers(base, directories, one_device_mesh):
    """The middle one of a mean difference, all of the others, or those that are named."""

    def strengths(name, layers=None):
        method = activations.ActivationOffset(directories[name], 0.5, layers)
        loaded = method.load(base, one_device_mesh)
        (edit,) = loaded.steering.edits
        return edit.strength.tolist(), loaded.settings["layers"]

    assert strengths("mean_difference") == ([0, 0.5], [1])
    assert strengths("in_context") == ([0.5, 0.5], [0, 1])
    assert strengths("heads", [0]) == ([0.5, 0], [0])
    default = activations.ActivationOffset(directories["in_context"]).load(base, one_device_mesh)
    assert default.settings["strength"] == 0.1


def test_edits_stand_before_all_methods(base, directories, one_device_mesh):
    """Wherever they are in the list; two of them act in its order."""
    offset = _load(directories, base, one_device_mesh, "mean_difference").steering
    turned = _load(directories, base, one_device_mesh, "in_context").steering
    together = activations.Edited((*offset.edits, *turned.edits))
    both = _decode(base, one_device_mesh, (offset, turned))
    assert both == _decode(base, one_device_mesh, (together,))
    assert both != _decode(base, one_device_mesh, (offset,))


@pytest.mark.slow
def test_an_adaptation_is_steered_by_its_bases_vectors(
    base, directories, model_dir, one_device_mesh, tmp_path
):
    path = made.save_adaptation(tmp_path / "adapter", model_dir, one_device_mesh, 1)
    adapted = checkpoints.load_model(path, one_device_mesh)
    loaded = _load(directories, adapted, one_device_mesh, "heads")
    steered = _decode(adapted, one_device_mesh, (loaded.steering,))
    assert steered != _decode(adapted, one_device_mesh, ())
    edit = _formula("heads", directories["heads"], loaded.settings["strength"])
    assert steered[0][0] == _by_hand(adapted, edit, PROMPTS[0])


def test_rows_split_over_devices_are_the_same(model_dir, directories):
    """On two devices as on one."""
    texts = []
    for devices in (1, 2):
        mesh = meshes.create_mesh(devices=jax.devices()[:devices])
        loaded = checkpoints.load_model(model_dir, mesh)
        steered = _load(directories, loaded, mesh, "in_context").steering
        texts.append(_decode(loaded, mesh, (steered,), samples=2))
    assert texts[0] == texts[1]


# --- what is refused ----------------------------------------------------------------------------


def test_vectors_of_another_model(base, directories, config, vocabulary, one_device_mesh, tmp_path):
    path = made.save_whole(tmp_path / "other", config, vocabulary, 9)
    other = checkpoints.load_model(path, one_device_mesh)
    with pytest.raises(UserError, match=r"ActivationOffset.vectors: .* was fitted on model") as no:
        _load(directories, other, one_device_mesh, "heads")
    assert base.fingerprint in str(no.value) and other.fingerprint in str(no.value)


def test_vectors_of_another_width_rule_or_file(base, directories, one_device_mesh, tmp_path):
    wide = made.save_vectors(tmp_path / "wide", base, "in_context", width=33)
    with pytest.raises(UserError, match=r"its direction is \(2, 33\), the model needs \(2, 32\)"):
        activations.ActivationOffset(wide).load(base, one_device_mesh)
    with pytest.raises(UserError, match="rule 'affine'; needed: mean_difference, in_context, hea"):
        activations.ActivationOffset(directories["affine"]).load(base, one_device_mesh)
    with pytest.raises(UserError, match="rule 'heads'; needed: affine"):
        activations.AffineSteering(directories["heads"]).load(base, one_device_mesh)
    with pytest.raises(UserError, match="holds no vectors; give an output of `steer`"):
        activations.ActivationOffset(str(tmp_path / "nothing")).load(base, one_device_mesh)
    damaged = made.save_vectors(tmp_path / "damaged", base, "in_context")
    (tmp_path / "damaged" / "vectors.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"vectors.npz: cannot be read: .*; run `steer` again"):
        activations.ActivationOffset(damaged).load(base, one_device_mesh)
    infinite = made.save_vectors(tmp_path / "infinite", base, "in_context", scale=np.inf)
    with pytest.raises(UserError, match="its direction is not finite"):
        activations.ActivationOffset(infinite).load(base, one_device_mesh)


@pytest.mark.parametrize("layers", [[2], [-1], [True], "01", []])
def test_layers_that_are_none(base, directories, one_device_mesh, layers):
    with pytest.raises(UserError, match=r"ActivationOffset\.layers"):
        activations.ActivationOffset(directories["heads"], 1.0, layers).load(base, one_device_mesh)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", True])
def test_a_strength_that_is_no_number(strength):
    for method in (activations.ActivationOffset, activations.AffineSteering):
        with pytest.raises(UserError, match=r"strength is .*; must be a finite number"):
            method("vectors", strength)


def test_it_is_a_steering_that_edits(base, directories, one_device_mesh):
    loaded = _load(directories, base, one_device_mesh, "affine")
    assert steering.in_loop([loaded]) == (loaded.steering,)
    assert edits.FINAL == loaded.steering.edits[0].site
    assert loaded.settings["vectors"]["path"] == directories["affine"]
    assert len(loaded.settings["vectors"]["sha256"]) == 16
