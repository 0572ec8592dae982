"""What was compiled is kept for the next run, and damage of it costs nothing but time."""

import os
import subprocess
import sys

import pytest

from detox_jax import compilation_cache

# Compiles one program, and says how often JAX found it kept.
PROGRAM = """
from detox_jax import compilation_cache
compilation_cache.enable()
import jax
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
@jax.jit
def doubled(x):
    return x * 2
assert doubled(3) == 6
print(events.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.fixture
def run(tmp_path):
    """Runs `PROGRAM` in a process of its own; returns the hits and what stood on stderr."""

    def run(**environment):
        clean = {name: x for name, x in os.environ.items() if not name.startswith("JAX_")}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**clean, "XDG_CACHE_HOME": str(tmp_path / "home"), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout), done.stderr

    return run


@pytest.fixture
def entries(tmp_path):
    """The files of the kept program."""
    return lambda: sorted((tmp_path / "home").rglob("jit_doubled-*"))


def test_the_second_run_compiles_nothing_that_the_first_has(run, entries):
    assert run()[0] == 0
    kept = entries()
    assert kept and run()[0] > 0
    assert entries() == kept


@pytest.mark.parametrize("size", [0, 100])
def test_a_damaged_entry_is_written_again_without_a_word(run, entries, size):
    run()
    [entry] = entries()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:size])
    _, said = run()
    assert said == ""
    [mended] = entries()
    assert len(mended.read_bytes()) > size
    assert run()[0] > 0


def test_jaxs_own_settings_win(run, entries, tmp_path):
    run(JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / "home").exists()
    run(
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "named"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    assert not entries() and list((tmp_path / "named").glob("jit_doubled-*"))


def test_a_home_that_cannot_be_written_is_no_error(run, tmp_path):
    (tmp_path / "home").write_text("a file")
    assert run() == (0, "")


def test_the_entries_read_longest_ago_make_room(tmp_path):
    for age, name in enumerate(["newest", "middle", "oldest"]):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    compilation_cache.make_room(tmp_path, most_bytes=200)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["middle", "newest"]
    compilation_cache.make_room(tmp_path, most_bytes=0)
    assert not list(tmp_path.iterdir())
