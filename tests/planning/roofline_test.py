"""Bounds by hand, on a chip with round numbers."""

import pytest

from detox_jax.planning.chips import Chip, Slice
from detox_jax.planning.collectives import Collective
from detox_jax.planning.roofline import Run, Work, batches, chip_hours, roofline

CHIP = Chip("round", 1000, hbm_bandwidth=100.0, peak_flops=1000.0, link_bandwidth=10.0,
            topologies=("4x4",))  # fmt: skip
TPUS = Slice(CHIP, (4, 4))


def where(i):
    return (i // 4, i % 4)


def bound(**work):
    values = {"flops": 0.0, "computed_flops": 0.0, "hbm_bytes": 0.0, "collectives": ()}
    return roofline(Work(**{**values, **work}), TPUS, where)


def test_the_slowest_part_decides():
    assert bound(flops=16_000.0, computed_flops=32_000.0).seconds == 2
    assert bound(flops=16_000.0, computed_flops=32_000.0).mfu == 0.5
    slow = bound(flops=16_000.0, computed_flops=16_000.0, hbm_bytes=400.0)
    assert (slow.seconds, slow.bound, slow.mfu) == (4, "hbm", 0.25)


@pytest.mark.parametrize(
    ("group", "seconds"),
    [
        ((0, 1, 2, 3), 3 * 600 / 20),  # An axis of four is a ring: two links.
        ((0, 1), 3 * 600 / 10),  # A part of it is a line.
        (tuple(range(16)), 3 * 600 / 40),  # Both axes.
        ((0,), 0),  # Nobody to send to.
    ],
)
def test_links_that_a_group_can_use(group, seconds):
    sent = [Collective("all-gather", count=3, payload=800, sent=600, group=group)]
    assert bound(collectives=sent).ici == pytest.approx(seconds)


def test_two_devices_share_a_chips_links():
    tpus = Slice(Chip("two", 1000, 1.0, 1.0, 10.0, ("4x4",), devices=2), (4, 4))
    assert tpus.num_devices == 32 and tpus.device_hbm == 500
    assert tpus.bandwidth([(0, 0), (0, 1), (0, 2), (0, 3)]) == 10
    assert tpus.bandwidth([(0, 0), (0, 0)]) == 10


def test_the_papers_run():
    run = Run(100_000, 27_300_000, 3, 100_000, 2)
    assert run == Run() and run.train_steps(512 * 2048) == 78
    assert run.train_steps(10**12) == 1
    assert batches(100, 32) == 4
    assert chip_hours(3600, TPUS) == 16
