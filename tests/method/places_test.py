"""What steers the rows of a run of `sgeat` by name."""

from detox_jax.generation.decoding import Decoding
from detox_jax.generation.steering.activations import ActivationOffset
from detox_jax.generation.steering.contrast import PrefixContrast
from detox_jax.generation.steering.experts import Experts
from detox_jax.generation.steering.linear import LinearSteering
from detox_jax.generation.steering.reward import RewardAugmented
from detox_jax.generation.steering.subspace import SubspaceMargin
from detox_jax.method.places import placed

MODELS = {"base": "gs://bucket/base", "anti": "run/models/anti", "mean": "run/models/mean"}
VECTORS = {"mean": "run/vectors/mean"}


def test_the_place_stands_for_the_name():
    named = [
        Experts(expert="elsewhere", anti="anti", base="base"),
        PrefixContrast(prefix="mean"),
        ActivationOffset("mean", strength=2.0),
        ActivationOffset("anti"),
    ]
    decoding = placed(Decoding(num_samples=3, steering=named), MODELS, VECTORS)
    assert decoding.num_samples == 3
    assert decoding.steering == [
        Experts(expert="elsewhere", anti="run/models/anti", base="gs://bucket/base"),
        PrefixContrast(prefix="run/models/mean"),
        ActivationOffset("run/vectors/mean", strength=2.0),
        ActivationOffset("anti"),
    ]


def test_a_plane_a_map_and_a_reward_have_names_too():
    named = [SubspaceMargin("mean"), LinearSteering("mean"), RewardAugmented("mean")]
    place = VECTORS["mean"]
    decoding = placed(Decoding(steering=named), MODELS, VECTORS)
    assert decoding.steering == [
        SubspaceMargin(place),
        LinearSteering(place),
        RewardAugmented(place),
    ]


def test_what_names_nothing_of_the_run_stays():
    methods = [ActivationOffset("elsewhere"), Experts(anti="./anti")]
    assert placed(Decoding(steering=methods), MODELS, VECTORS).steering == methods
