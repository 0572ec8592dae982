"""Manifests: of which version, and shards that are as they were written."""

import json

import pytest
from etils import epath

from detox_jax import atomic_files, manifests, outputs, records
from detox_jax.errors import UserError
from tests.outputs_test import DAMAGES, of_three_shards


def test_a_manifest_of_a_later_version_is_refused(tmp_path):
    output = outputs.OutputDirectory(str(tmp_path / "o"), "generate", {})
    atomic_files.write_json(output.path / "manifest.json", {**output.manifest, "schema_version": 3})
    with pytest.raises(UserError, match="of version 3, this is version 2; a later detox-jax"):
        manifests.read_manifest(output.path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_of_a_finished_output_is_an_error_that_names_it(tmp_path, damage):
    shard = of_three_shards(tmp_path / "o", finish=True)
    assert records.describe_input(str(tmp_path / "o"))["files"] == 3
    shard.write_bytes(DAMAGES[damage](shard.read_bytes()))
    with pytest.raises(UserError, match="d-00001-of-00003.jsonl: damaged: .* `score` wrote"):
        records.describe_input(str(tmp_path / "o"))


def test_shards_are_counted_and_hashed_in_the_manifest(tmp_path):
    of_three_shards(tmp_path / "o", finish=True)
    shards = json.loads((tmp_path / "o" / "manifest.json").read_text())["shards"]
    assert [*shards] == [f"d-{i:05d}-of-00003.jsonl" for i in range(3)]
    assert {shard["records"] for shard in shards.values()} == {1}
    for name, shard in shards.items():
        assert shard["sha256"] == manifests.hash_files([epath.Path(tmp_path / "o" / name)])
