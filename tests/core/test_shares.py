"""Shares of limits and of budgets: never more than the whole, even where all want more, and soon right again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.shares import (
    BUDGET_PART,
    LEASE_SECONDS,
    LONGEST_PAUSE,
    Account,
    Ask,
    BudgetState,
    Lease,
    ToldLimit,
    draw,
    give_back,
    lease,
    leave,
    read_state,
    wanted_share,
    write_state,
)
from aembed.errors import ConfigError


def ask_all(account: Account, wants: dict[str, float], now: float) -> tuple[Account, dict[str, Lease]]:
    leases = {}
    for worker, want in wants.items():
        account, leases[worker] = lease(account, Ask(worker, want), now)
    return account, leases


def shares(leases: dict[str, Lease]) -> dict[str, float]:
    return {worker: held.share for worker, held in leases.items()}


def test_one_worker_has_all() -> None:
    account, held = lease(Account(), Ask("a", 1.0), 100.0)
    assert (held.share, held.due, held.workers, held.pause) == (1.0, 1.0, 1, None)
    assert account.workers["a"].ends_at == 100.0 + LEASE_SECONDS


def test_a_newcomer_waits_until_the_others_have_renewed() -> None:
    account, first = ask_all(Account(), dict.fromkeys("abcd", 1.0), 100.0)
    assert shares(first) == {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    _, second = ask_all(account, dict.fromkeys("abcd", 1.0), 102.0)
    assert shares(second) == dict.fromkeys("abcd", 0.25)


def test_what_one_does_not_want_the_others_have() -> None:
    wants = {"a": 0.1, "b": 1.0, "c": 1.0}
    account, _ = ask_all(Account(), wants, 100.0)
    _, held = ask_all(account, wants, 101.0)
    assert shares(held) == pytest.approx({"a": 0.1, "b": 0.45, "c": 0.45})


def test_who_wants_more_again_gets_an_even_part() -> None:
    account, _ = ask_all(Account(), {"a": 0.02, "b": 1.0}, 100.0)
    account, held = ask_all(account, {"a": 1.0, "b": 1.0}, 101.0)
    assert held["a"].share == pytest.approx(0.02)
    _, held = ask_all(account, {"a": 1.0, "b": 1.0}, 103.0)
    assert held["a"].share == held["b"].share == 0.5


def test_the_share_of_a_dead_worker_is_free_once_its_seconds_are_over() -> None:
    account, _ = ask_all(Account(), dict.fromkeys("ab", 1.0), 100.0)
    account, _ = ask_all(account, dict.fromkeys("ab", 1.0), 101.0)
    account, held = lease(account, Ask("b", 1.0), 101.0 + LEASE_SECONDS - 0.01)
    assert held.share == 0.5
    _, held = lease(account, Ask("b", 1.0), 101.0 + LEASE_SECONDS)
    assert held.share == 1.0


@pytest.mark.parametrize("later", [3_600.0, -3_600.0, 60.0])
def test_whose_lease_is_not_there_any_more_gets_no_more_than_it_goes_on_with(later: float) -> None:
    account, _ = ask_all(Account(), dict.fromkeys("ab", 1.0), 1e6)
    account, held = ask_all(account, dict.fromkeys("ab", 1.0), 1e6 + 1.0)
    assert shares(held) == {"a": 0.5, "b": 0.5}
    account, held_a = lease(account, Ask("a", 1.0, held=0.5), 1e6 + later)
    account, held_b = lease(account, Ask("b", 1.0, held=0.5), 1e6 + later)
    assert held_a.share == held_b.share == 0.5


def test_until_all_are_back_nobody_gets_more_than_it_goes_on_with() -> None:
    """Of three that went on while the database was away one comes back later than the others."""
    account, held = lease(Account(), Ask("a", 1.0, held=0.4), 1_000.0)
    assert held.share == 0.4
    account, held = lease(account, Ask("a", 1.0, held=0.4), 1_002.0)
    assert held.share == 0.4
    account, held = lease(account, Ask("b", 1.0, held=0.3), 1_003.0)
    assert held.share == 0.3
    account, held = lease(account, Ask("c", 1.0, held=0.3), 1_004.0)
    assert held.share == pytest.approx(0.3)
    account, held = lease(account, Ask("a", 1.0, held=0.4), 1_004.5)
    assert held.share == pytest.approx(1 / 3)
    account, held = lease(account, Ask("b", 1.0, held=0.3), 1_007.0)
    assert held.share == 0.3
    account, held = lease(account, Ask("c", 1.0, held=0.3), 1_008.0)
    account, held = lease(account, Ask("b", 1.0, held=0.3), 1_009.0)
    assert held.share == pytest.approx(1 / 3)


def test_who_leaves_leaves_its_share() -> None:
    account, _ = ask_all(Account(), dict.fromkeys("ab", 1.0), 100.0)
    _, held = lease(leave(account, "a"), Ask("b", 1.0), 100.0)
    assert (held.share, held.workers) == (1.0, 1)


@pytest.mark.parametrize("step", [-1e6, -30.0, 30.0, 1e6])
def test_x9_a_step_of_the_databases_clock_holds_up_nobody(step: float) -> None:
    account, _ = ask_all(Account(), dict.fromkeys("ab", 1.0), 1e7)
    _, held = lease(account, Ask("c", 1.0), 1e7 + step)
    assert held.share == 1.0


@given(
    wants=st.lists(st.floats(0.02, 1.0), min_size=1, max_size=9),
    events=st.lists(st.tuples(st.integers(0, 8), st.floats(0.0, 3.0), st.booleans()), max_size=60),
)
def test_leases_that_hold_are_never_more_than_the_whole(
    wants: list[float], events: list[tuple[int, float, bool]]
) -> None:
    """Each lease counts from when it was asked for, as its worker counts; some leave."""
    account, now, held = Account(), 1000.0, dict[str, tuple[float, float]]()
    for number, pause, leaves in events:
        now += pause
        name = str(number % len(wants))
        if leaves:
            account = leave(account, name)
            held.pop(name, None)
        else:
            account, got = lease(account, Ask(name, wants[int(name)]), now)
            held[name] = got.share, now + LEASE_SECONDS
        assert sum(share for share, until in held.values() if now < until) <= 1.0 + 1e-9
    for at in (now + 1.0, now + 2.0, now + 3.0):
        account, leases = ask_all(account, {str(n): want for n, want in enumerate(wants)}, at)
    least = min(1.0 / len(wants), *wants) if len(wants) > 1 else wants[0]
    assert all(got.share >= least - 1e-9 for got in leases.values())
    assert sum(got.share for got in leases.values()) == pytest.approx(min(1.0, sum(wants)))


def test_what_one_has_learned_all_know() -> None:
    told = {"tokens": ToldLimit(3e6, 60.0)}
    account, _ = lease(Account(), Ask("a", 1.0, limits=told), 100.0)
    _, held = lease(account, Ask("b", 1.0), 100.1)
    assert held.limits == told
    account, _ = lease(account, Ask("b", 1.0, limits={"tokens": ToldLimit(5e6, 60.0)}), 100.2)
    _, held = lease(account, Ask("a", 1.0), 100.3)
    assert held.limits["tokens"].per_minute == 5e6


def test_a_newcomer_learns_how_many_requests_the_others_were_left_with() -> None:
    account, _ = lease(Account(), Ask("a", 1.0, slots=2), 100.0)
    account, held = lease(account, Ask("b", 1.0, slots=5), 100.0)
    assert held.slots == 2
    account, held = lease(account, Ask("c", 1.0), 100.0)
    assert held.slots == 3
    assert lease(account, Ask("a", 1.0, slots=2), 100.0)[1].slots == 5


def test_a_pause_that_one_was_told_all_make() -> None:
    account, _ = lease(Account(), Ask("a", 1.0, pause_seconds=20.0, limited=True), 100.0)
    account, held = lease(account, Ask("b", 1.0), 105.0)
    assert held.pause is not None
    assert (held.pause_seconds, held.pause.limited) == (15.0, True)
    account, held = lease(account, Ask("b", 1.0, pause_seconds=5.0), 106.0)
    assert held.pause_seconds == 14.0
    resumed, _ = lease(account, Ask("b", 1.0, resumes=True), 107.0)
    assert resumed.pause is None
    _, held = lease(account, Ask("c", 1.0), 120.0)
    assert held.pause is None


def test_a_pause_has_an_end_whatever_it_was_told() -> None:
    account, _ = lease(Account(), Ask("a", 1.0, pause_seconds=1e9), 100.0)
    _, held = lease(account, Ask("b", 1.0), 100.0)
    assert held.pause_seconds == LONGEST_PAUSE
    _, held = lease(account, Ask("b", 1.0), 50.0 - LONGEST_PAUSE)
    assert held.pause is None


def test_the_share_that_is_wanted() -> None:
    assert wanted_share(0.1, held_up=True) == 1.0
    assert wanted_share(0.1, held_up=False) == pytest.approx(0.22)
    assert wanted_share(0.0, held_up=False) == 0.02
    assert wanted_share(0.9, held_up=False) == 1.0


@given(
    most=st.integers(0, 10_000),
    events=st.lists(st.tuples(st.integers(0, 400), st.floats(0.0, 1e4), st.integers(1, 9), st.booleans()), max_size=60),
)
def test_no_more_is_drawn_than_there_is(most: int, events: list[tuple[int, float, int, bool]]) -> None:
    budget, held = BudgetState(), 0
    for need, minute, workers, gives_back in events:
        budget, granted = draw(budget, 0, need, minute, workers, most)
        held += granted
        assert granted == 0 or granted >= need
        assert budget.taken == held <= most
        if gives_back:
            budget, held = give_back(budget, held), 0
    budget, granted = draw(budget, 0, most - held, 0.0, 1, most)
    assert budget.taken == most


def test_a_draw_is_a_part_of_an_even_share_and_at_least_what_is_needed() -> None:
    assert draw(BudgetState(), 0, 10, 1e9, 8, 32_000)[1] == BUDGET_PART * 32_000 / 8
    assert draw(BudgetState(), 0, 10, 300.0, 8, 32_000)[1] == 300
    assert draw(BudgetState(), 0, 5_000, 300.0, 8, 32_000)[1] == 5_000
    assert draw(BudgetState(taken=31_000), 0, 1_001, 300.0, 8, 32_000) == (BudgetState(taken=31_000), 0)


def test_what_is_owed_is_taken_also_where_nothing_is_left() -> None:
    assert draw(BudgetState(taken=90), 20, 5, 5.0, 1, 100) == (BudgetState(taken=110), 0)
    assert draw(BudgetState(taken=50), 20, 5, 5.0, 1, 100) == (BudgetState(taken=75), 5)


def test_what_is_written_is_read_again() -> None:
    account, _ = lease(Account(), Ask("a", 0.5, 0.1, {"tokens": ToldLimit(1e6, 60.0)}, 3, 5.0, limited=True), 100.0)
    assert read_state(Account, write_state(account)) == account
    assert read_state(BudgetState, write_state(BudgetState(taken=7))) == BudgetState(taken=7)
    assert read_state(BudgetState, None) == BudgetState()


@pytest.mark.parametrize("written", [b"\x00\x01", b"[]", b'{"taken": "x"}', b"\xff"])
def test_t38_what_aembed_has_not_written_is_refused(written: bytes) -> None:
    with pytest.raises(ConfigError, match="name another one"):
        read_state(BudgetState, written)


def test_t38_a_later_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="pip install -U aembed"):
        read_state(Account, write_state(replace(Account(), version=2)))


def test_what_rounding_leaves_is_no_share() -> None:
    account, _ = ask_all(Account(), dict.fromkeys("abcdefg", 1.0), 100.0)
    account, held = ask_all(account, dict.fromkeys("abcdefg", 1.0), 102.0)
    assert sum(shares(held).values()) != 1.0
    _, newcomer = lease(account, Ask("h", 1.0), 102.5)
    assert (newcomer.share, newcomer.due) == (0.0, 0.125)
