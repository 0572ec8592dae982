"""Workers install requirements.lock alone: it must pin all that pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tpu_scripts.flags_test import SCRIPTS

PROJECT = tomllib.loads((SCRIPTS.parent / "pyproject.toml").read_text())["project"]
EXTRAS = ("tpu", "judges", "train")  # those of docs/TPU.md's `uv pip compile`
DECLARED = [
    *PROJECT["dependencies"],
    *(line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]),
    "libtpu",  # what jax[tpu] is there for
]


def locked(file: Path) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of each package, as uv writes a lock: `name==version \\`, then hashes."""
    entries = file.read_text().replace("\\\n", " ").splitlines()
    packages = {}
    for pin, *hashes in map(str.split, entries):
        name, _, version = pin.partition("==")
        packages[canonicalize_name(name)] = version, hashes
    return packages


def pinned() -> dict[str, str]:
    """Version by name, as requirements.lock has it."""
    return {name: version for name, (version, _) in locked(SCRIPTS / "requirements.lock").items()}


@pytest.mark.parametrize("declared", DECLARED)
def test_the_lock_pins_what_the_project_declares(declared):
    requirement = Requirement(declared)
    version = pinned().get(canonicalize_name(requirement.name))
    assert version, f"requirements.lock lacks {requirement.name}; renew it (docs/TPU.md)"
    assert requirement.specifier.contains(version, prereleases=True), (
        f"requirements.lock has {requirement.name} {version}, pyproject.toml asks for {declared}"
    )


# --- every extra's lock -----------------------------------------------------------------------

LOCKS = SCRIPTS.parent / "locks"
OPTIONAL = PROJECT["optional-dependencies"]
# `tpu` is in requirements.lock; `t5x` is commits of GitHub.
NAMES = sorted({"core", *OPTIONAL} - {"tpu", "t5x"})
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def test_every_extra_has_a_lock_and_the_makefile_writes_it():
    assert sorted(path.stem for path in LOCKS.iterdir()) == NAMES
    listed = re.search(r"^LOCKED := (.+)$", (LOCKS.parent / "Makefile").read_text(), re.M)
    assert listed and sorted(listed[1].split()) == NAMES


@pytest.mark.parametrize("name", [*NAMES, "tpu"])
def test_a_lock_pins_what_is_declared_and_carries_the_hash_of_every_file(name):
    file = SCRIPTS / "requirements.lock" if name == "tpu" else LOCKS / f"{name}.txt"
    packages = locked(file)
    for package, (version, hashes) in packages.items():
        assert version and hashes and all(HASH.fullmatch(item) for item in hashes), package
    for declared in [*PROJECT["dependencies"], *OPTIONAL.get(name, [])]:
        requirement = Requirement(declared)
        version, _ = packages.get(canonicalize_name(requirement.name), ("", []))
        assert version and requirement.specifier.contains(version, prereleases=True), declared


def test_nothing_installs_from_a_lock_without_asking_for_hashes():
    makefile = (LOCKS.parent / "Makefile").read_text().replace("\\\n", " ")
    for text in (makefile, (SCRIPTS / "worker" / "setup.sh").read_text()):
        lines = [line for line in text.splitlines() if re.search(r"pip (sync|install)", line)]
        from_lock = [line for line in lines if ".lock" in line or '"$lock"' in line]
        assert from_lock and all("--require-hashes" in line for line in from_lock)


def test_the_documented_command_takes_the_same_extras():
    command = (SCRIPTS.parent / "docs" / "TPU.md").read_text().partition("uv pip compile ")[2]
    flags = command.partition("--python-version")[0].split()
    assert flags == ["pyproject.toml", *(word for extra in EXTRAS for word in ("--extra", extra))]
