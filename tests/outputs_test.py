"""Output directories: resumed to the same bytes, refused to whoever they do not belong to."""

import pytest
from etils import epath

from detox_jax import outputs, records
from detox_jax.errors import UserError


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(tmp_path):
    def run(path, stop_after=None):
        output = outputs.OutputDirectory(str(path), "score", {"seed": 1})
        if output.complete:
            return
        for index in range(3):
            if not output.has_shard("d", index, 3):
                output.write_shard("d", index, 3, [records.Document(str(index), "x")])
            if index == stop_after:
                return
        output.finish(count=3)

    run(tmp_path / "whole")
    run(tmp_path / "killed", stop_after=0)
    assert not outputs.read_manifest(epath.Path(tmp_path / "killed"))["complete"]
    run(tmp_path / "killed")
    run(tmp_path / "killed")
    whole, killed = [
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
        for name in ("whole", "killed")
    ]
    assert whole == killed and len(whole) == 5


def test_an_output_directory_of_another_verb_or_of_nobody_is_refused(tmp_path):
    outputs.OutputDirectory(str(tmp_path / "o"), "score", {}).finish()
    with pytest.raises(UserError, match="output of `score`"):
        outputs.OutputDirectory(str(tmp_path / "o"), "filter", {})
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "d.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="did not write"):
        outputs.OutputDirectory(str(tmp_path / "p"), "filter", {})


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"seed": 2}, "seed: 1 there, 2 now"),
        ({"sampling": {"method": "TopP", "p": 0.8}}, "sampling.p: 0.9 there, 0.8 now"),
        ({"sampling": None}, "sampling: {'method': 'TopP', 'p': 0.9} there, None now"),
        ({"dtype": "bfloat16"}, "dtype: None there, 'bfloat16' now"),
    ],
)
def test_other_settings_are_refused_with_their_name_and_both_values(
    tmp_path, now, message, finished
):
    settings = {"seed": 1, "sampling": {"method": "TopP", "p": 0.9}}
    output = outputs.OutputDirectory(str(tmp_path), "generate", settings)
    if finished:
        output.finish()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as error:
        outputs.OutputDirectory(str(tmp_path), "generate", {**settings, **now})
    assert str(error.value) == (
        f"{tmp_path}: holds output made with other settings ({message}); choose another directory "
        "or delete it"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    same = dict(reversed(settings.items()))  # The order of the settings is not one.
    assert outputs.OutputDirectory(str(tmp_path), "generate", same).complete == finished


def test_damaged_manifest(tmp_path):
    outputs.OutputDirectory(str(tmp_path), "score", {})
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not a manifest"):
        outputs.OutputDirectory(str(tmp_path), "score", {})
