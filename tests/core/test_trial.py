"""A pace is on trial: how many of its requests prove it, and how many undo it. Shares are of refusals before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.pacing._trial import Trial


def counted(trial: Trial, *, accepted: int = 0, refused: int = 0) -> Trial:
    for _ in range(accepted):
        trial.count(False, 10.0)
    for _ in range(refused):
        trial.count(True, 10.0)
    return trial


@pytest.mark.parametrize(
    ("share", "needed"), [(0.8, 7), (1.0, 7), (0.5, 9), (0.2, 30), (0.1, 63), (0.05, 130), (0.01, 130), (0.0, 130)]
)
def test_the_more_were_refused_before_the_fewer_acceptances_prove_a_pace(share: float, needed: int) -> None:
    assert not counted(Trial(share, 0.0), accepted=needed - 1).confirmed
    assert counted(Trial(share, 0.0), accepted=needed).confirmed


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_three_refusals_at_the_beginning_undo_it_and_two_do_not(share: float) -> None:
    assert not counted(Trial(share, 0.0), refused=2).is_undone
    assert counted(Trial(share, 0.0), refused=3).is_undone


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_every_second_refused_undoes_it(share: float) -> None:
    trial = Trial(share, 0.0)
    for _ in range(20):
        counted(trial, accepted=1, refused=1)
    assert trial.is_undone


def test_one_refusal_of_a_proven_pace_leaves_it_as_believable_and_two_do_not() -> None:
    trial = counted(Trial(0.2, 0.0), accepted=100)
    assert trial.is_believable
    assert counted(trial, refused=1).is_believable
    assert not counted(trial, refused=1).is_believable


def test_refusals_that_are_as_many_as_before_undo_it_in_a_while() -> None:
    trial, requests = Trial(0.1, 0.0), 0
    while not trial.is_undone:
        counted(trial, accepted=9, refused=1)
        requests += 10
        assert requests <= 60
    assert not trial.confirmed


def test_a_fourth_of_the_refusals_that_there_were_prove_it() -> None:
    trial = Trial(0.2, 0.0)
    for _ in range(20):
        counted(trial, accepted=19, refused=1)
    assert trial.confirmed
    assert not trial.is_undone


def test_what_was_sent_before_the_pace_says_nothing_of_it() -> None:
    trial = Trial(0.5, 10.0)
    for _ in range(20):
        trial.count(True, 9.9)
    assert not trial.is_undone
    for _ in range(3):
        trial.count(True, 10.0)
    assert trial.is_undone


def test_the_trial_goes_on_a_pace_that_was_proven_is_undone_by_six_refusals_in_a_row() -> None:
    trial = counted(Trial(0.5, 0.0), accepted=1_000)
    assert not counted(trial, refused=5).is_undone
    assert counted(trial, refused=1).is_undone
    assert trial.confirmed


@given(st.floats(0.0, 1.0), st.lists(st.tuples(st.booleans(), st.floats(0.0, 100.0)), max_size=300))
def test_it_is_never_undone_by_an_acceptance_nor_proven_by_a_refusal(
    share: float, answers: list[tuple[bool, float]]
) -> None:
    trial = Trial(share, 50.0)
    for refused, start in answers:
        undone, confirmed = trial.is_undone, trial.confirmed
        trial.count(refused, start)
        assert trial.is_undone <= (undone or (refused and start >= 50.0))
        assert trial.confirmed >= confirmed
        assert trial.confirmed <= (confirmed or (not refused and start >= 50.0))
