"""What the soak (benchmarks/promises/soak.py, half an hour) would notice."""

from __future__ import annotations

from random import Random

from benchmarks.promises.kills import Tally
from benchmarks.promises.soak import Sample, Trend, problems, settled

NAMES = ("resident_mb", "descriptors", "threads", "tasks")


def samples(leak_mb: float = 0.0, descriptors_every: int = 1_000) -> list[Sample]:
    """Of half an hour: the memory and the connections go up and down, and up by so much for each job."""
    random = Random(1)
    megabytes = (100 + random.uniform(0, 8) + leak_mb * n for n in range(900))
    descriptors = (14 + random.randrange(8) + n // descriptors_every for n in range(900))
    return [Sample(2.0 * n, mb, open, 5, 1, 0) for n, (mb, open) in enumerate(zip(megabytes, descriptors, strict=True))]


def found(given: list[Sample], kills: int = 1) -> list[str]:
    return list(problems([Trend.of(name, given) for name in NAMES], given, Tally(kills=kills)))


def test_a_short_run_has_half_of_its_time_to_settle() -> None:
    whole = samples()
    assert settled(whole)[0].seconds > 0.2 * whole[-1].seconds
    short = whole[:151]
    assert (short[-1].seconds, settled(short)[0].seconds) == (300.0, 152.0)


def test_what_goes_up_and_down_is_no_slope() -> None:
    assert found(samples()) == []


def test_six_kilobytes_a_job_are_a_slope() -> None:
    assert [problem.split()[1] for problem in found(samples(leak_mb=0.007))] == ["resident_mb"]


def test_a_descriptor_every_quarter_of_an_hour_is_a_slope() -> None:
    assert [problem.split()[1] for problem in found(samples(descriptors_every=400))] == ["descriptors"]


def test_a_soak_without_kills_is_none() -> None:
    assert found(samples(), kills=0) == ["no worker was killed"]
