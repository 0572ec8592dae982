"""Flags of several processes, and what JAX finds of them on Cloud TPU, GKE and Slurm."""

import threading
from importlib import metadata

import pytest
from jax._src.clusters import cloud_tpu_cluster

from detox_jax import cli
from detox_jax.errors import UserError
from detox_jax.parallel import distributed, processes
from detox_jax.parallel.distributed import Options
from tests.parallel.processes_test import on_all, threads_as_processes


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """No launcher's environment but that of the test."""
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)


def test_flags_are_taken_off_the_command_line(monkeypatch):
    take = distributed.take_flags
    assert take(["score", "--gin.A=1"]) == (None, ["score", "--gin.A=1"])
    assert take(["--multihost", "score"]) == (Options(), ["score"])
    assert take(["score", "--multiprocess_gpu"]) == (Options(), ["score"])
    flags = ["--coordinator_address=h:1", "--process_count", "4", "--process_index=0"]
    options, rest = take(["score", *flags, "--initialization_timeout=9", "--gin.A=1"])
    assert (options, rest) == (Options("h:1", 4, 0, 9.0), ["score", "--gin.A=1"])
    monkeypatch.setenv(distributed.MULTIHOST_VARIABLE, "1")
    assert take(["score"]) == (Options(), ["score"])
    with pytest.raises(UserError, match="--process_count=many: expected a number"):
        take(["score", "--process_count=many"])


def test_what_is_not_found_is_asked_for():
    with pytest.raises(UserError, match="found no cluster .* --coordinator_address, --process_co"):
        distributed.discover(Options())
    with pytest.raises(UserError, match="says --process_index; give all of"):
        distributed.discover(Options("h:1", 2))
    with pytest.raises(UserError, match="--process_index=2: not from 0 to 1, of 2 processes"):
        distributed.discover(Options("h:1", 2, 2))


def test_cloud_tpu_s_metadata_say_where_the_processes_meet(monkeypatch):
    metadata = {
        "agent-worker-number": "3",
        "worker-network-endpoints": ",".join(f"unknown:{i}:127.0.0.{i + 1}" for i in range(4)),
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\n",
    }
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (metadata[key], 200))
    assert distributed.discover(Options()) == (("127.0.0.1:8482", 4, 3), None)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "8476")
    assert distributed.discover(Options())[0] == ("127.0.0.1:8476", 4, 3)
    metadata["tpu-env"] += (
        "MEGASCALE_COORDINATOR_ADDRESS: '127.0.0.9'\n"
        "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
    )
    assert distributed.discover(Options())[0] == ("127.0.0.9:8476", 8, 7)


def test_gke_s_environment_says_where_the_processes_meet(monkeypatch):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1,127.0.0.2")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value", lambda key: None)
    assert distributed.discover(Options()) == (("127.0.0.1:8482", 2, 1), None)


def test_slurm_s_environment_says_where_the_processes_meet(monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "5",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    assert distributed.discover(Options()) == (("node1:61445", 2, 1), [0])


def test_help_and_dry_run_start_nothing(monkeypatch, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "The bus was late."}\n')
    monkeypatch.setattr(distributed, "run", lambda *arguments: pytest.fail("started"))
    assert cli.main(["score", "--multihost", "--help"]) == 0
    flags = [f"--gin.INPUT={tmp_path / 'a.jsonl'}", f"--gin.OUTPUT_DIR={tmp_path / 'b'}"]
    assert cli.main(["score", "--multihost", *flags, "--dry_run"]) == 0


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_status_of_a_verb_is_its_own_where_processes_meet(monkeypatch, status):
    """`sweep` ends with 1 where a cell failed, `plan` with 3 where a model does not fit."""
    told = []

    class Links:
        hosts = ("a",)

        def watch(self):
            told.append("watched")

        def finish(self):
            told.append("finished")

    monkeypatch.setattr(distributed.links, "open_links", lambda *_: Links())
    monkeypatch.setattr(distributed, "_initialize_jax", lambda *_: None)
    monkeypatch.setattr(distributed.preemption, "take_over_from_jax", lambda: None)
    monkeypatch.setattr(distributed.processes, "join", lambda _: None)
    monkeypatch.setattr(cli, "_run", lambda _: status)
    flags = ("--coordinator_address=h:1", "--process_count=1", "--process_index=0")
    assert cli.main(["plan", *flags]) == status
    assert told == ["watched", "finished"]


def test_convert_is_refused_in_several_processes(capsys, monkeypatch):
    monkeypatch.setattr(processes, "current", lambda: processes.Processes(0, ("a", "b")))
    assert cli.main(["convert", "--from_hf=a", "--to=b"]) == 2
    assert "convert works in one process" in capsys.readouterr().err


def test_code_is_named_by_its_bytes(tmp_path, monkeypatch):
    (tmp_path / "detox_jax" / "parallel").mkdir(parents=True)
    file = tmp_path / "detox_jax" / "parallel" / "distributed.py"
    file.write_text("a = 1\n")
    monkeypatch.setattr(distributed, "__file__", str(file))
    before = distributed.source_hash()
    file.write_text("a = 2\n")
    assert distributed.source_hash() != before


@pytest.mark.parametrize(
    ("package", "there", "named"),
    [
        ("seqio", "0.0.19", "version.seqio is '0.0.19' there, '7.0' on process 0; "),
        ("tensorflow-cpu", "2.0", "version.tensorflow is '2.0' there, '7.0' on process 0; "),
        ("tensorflow-datasets", None, "version.tensorflow-datasets is None there, '7.0' on "),
        ("numpy", "1.0", "version.numpy is '1.0' there, '7.0' on process 0; "),
    ],
)
def test_a_host_with_another_version_of_what_makes_batches_is_named(
    monkeypatch, package, there, named
):
    own = threading.local()

    def version(name):
        found = there if name == package and own.index else "7.0"
        if found is None or name == "tensorflow":  # Here it is `tensorflow-cpu`.
            raise metadata.PackageNotFoundError(name)
        return found

    def work(run, index):
        own.index = index
        distributed.check_agreement("train", {})

    monkeypatch.setattr(distributed.metadata, "version", version)
    errors = on_all(threads_as_processes(monkeypatch)(work), count=2)
    assert len(errors) == 2 and all(named in str(error) for error in errors)


def test_packages_that_no_host_has_are_no_difference(monkeypatch):
    def version(name):
        if name == "seqio" or name.startswith("tensorflow"):
            raise metadata.PackageNotFoundError(name)
        return "7.0"

    monkeypatch.setattr(distributed.metadata, "version", version)
    work = threads_as_processes(monkeypatch)(lambda *_: distributed.check_agreement("score", {}))
    assert on_all(work, count=2) == [None, None]
