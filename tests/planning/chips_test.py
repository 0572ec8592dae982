"""Chips and slices by name."""

import sys

import pytest

from detox_jax.errors import UserError
from detox_jax.planning import chips


def test_a_slice_by_name():
    tpus = chips.parse("v5p:8x8x8")
    assert (tpus.name, tpus.num_chips, tpus.num_devices) == ("v5p:8x8x8", 512, 512)
    assert tpus.device_hbm == round(95.74 * 2**30)
    two = chips.parse("TPU7x:2x2x1")
    assert (two.num_chips, two.num_devices, two.device_hbm) == (4, 8, 94.75 * 2**30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5p", "expected CHIP:SHAPE"),
        ("v5p:8x8x", "expected CHIP:SHAPE"),
        ("v9:8x8", "no such chip; one of v4, v5e, v5p, v6e, tpu7x"),
        ("v5e:3x3", "no such slice; of v5e there are 1x1, 2x2"),
        ("v5e:2x2x1", "no such slice"),
    ],
)
def test_what_does_not_exist(text, message):
    with pytest.raises(UserError, match=message):
        chips.parse(text)


def test_slices_grow():
    for chip in chips.CHIPS.values():
        sizes = [each.num_chips for each in chips.slices(chip)]
        assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)


def test_without_the_compiler(monkeypatch):
    from jax.experimental import topologies

    def missing(*args, **options):
        raise RuntimeError("libtpu.so not found")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'detox-jax\[tpu\]'"):
        chips.devices_of(chips.parse("v5e:2x2"))
    monkeypatch.setattr(chips.importlib.util, "find_spec", sys.modules.get)
    monkeypatch.setenv("TPU_LIBRARY_PATH", "somewhere")
    with pytest.raises(UserError, match="the compiler refuses: libtpu.so not found"):
        chips.devices_of(chips.parse("v5e:2x2"))
