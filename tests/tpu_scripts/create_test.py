"""create.sh and delete.sh against the stand-in."""

from __future__ import annotations

import pytest

from tests.tpu_scripts.flags_test import PLACE


def create(cloud, *flags: str) -> list[str]:
    status, output = cloud.run("create.sh", *PLACE, *flags)
    assert status == 0, output
    (call,) = cloud.calls("create")
    assert call[:5] == ["compute", "tpus", "queued-resources", "create", "q"]
    return call[5:]


@pytest.mark.parametrize(
    ("type_", "image"),
    [
        ("v6e-64", "v2-alpha-tpuv6e"),
        ("v5p-128", "v2-alpha-tpuv5"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_each_type_gets_the_image_for_jax(cloud, type_, image):
    assert create(cloud, f"--type={type_}") == [
        "--zone=z",
        f"--accelerator-type={type_}",
        f"--runtime-version={image}",
        "--node-id=q",
    ]


def test_slices_spot_and_the_rest_are_passed_on(cloud):
    flags = ("--type=v6e-64", "--node-count=4", "--spot", "--project=p", "--valid_until=6h")
    call = create(cloud, *flags, "--service_account=a@p", "--internal_ips")
    assert "--node-count=4" in call and "--node-id=q" not in call
    assert {"--spot", "--project=p", "--valid-until-duration=6h", "--internal-ips"} <= set(call)
    assert "--service-account=a@p" in call


@pytest.mark.parametrize(
    ("type_", "says"), [("tpu7x-8", "run_xpk.sh"), ("gpu-8", "--runtime_version")]
)
def test_a_type_without_a_known_image_is_a_mistake(cloud, type_, says):
    status, output = cloud.run("create.sh", *PLACE, f"--type={type_}")
    assert status == 2
    assert says in output
    assert cloud.calls() == []


def test_a_refusal_shows_what_google_cloud_said(cloud):
    cloud.play(quota_error=True)
    status, output = cloud.run("create.sh", *PLACE, "--type=v6e-64")
    assert status == 1
    assert "RESOURCE_EXHAUSTED" in output
    assert output.splitlines()[-1].startswith("create.sh: error: v6e-64 was refused in z")


def test_delete_tries_until_it_is_gone(cloud):
    cloud.play(refused_deletions=2)
    create(cloud, "--type=v6e-64")
    status, output = cloud.run("delete.sh", *PLACE, "--pause=0.05")
    assert status == 0, output
    assert len(cloud.calls("delete")) == 3
    assert not cloud.exists


def test_delete_says_loudly_what_it_could_not_delete(cloud):
    cloud.play(refused_deletions=9)
    create(cloud, "--type=v6e-64")
    status, output = cloud.run("delete.sh", *PLACE, "--pause=0.05", "--attempts=2")
    assert status == 1
    assert "q IS NOT DELETED AND MAY COST MONEY; run: gcloud" in output


def test_what_does_not_exist_is_deleted(cloud):
    status, output = cloud.run("delete.sh", *PLACE)
    assert (status, output) == (0, "delete.sh: there is no q\n")
    assert cloud.calls("delete") == []
