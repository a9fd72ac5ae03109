"""Admission from leases: never more than was lent, and exactly what the balance is worth."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlinders_inference import admission
from vlinders_inference.admission import Answer, CreditBook, Granted, Recall, Return
from vlinders_inference.errors import CreditUnavailable, InsufficientCredit
from vlinders_inference.leases import Hold
from vlinders_kit.clock import ManualClock

pytestmark = pytest.mark.anyio

LIFETIME = 60.0
RECALL = Recall("ten_1", ["lease_of_another"])


@dataclass
class Wallet:
    """Billing as the contract has it, in memory: recalls idle credit before it refuses."""

    balance: int
    books: list[CreditBook] = field(default_factory=list)
    leases: dict[str, int] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    asked: list[tuple[int, int]] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    away: bool = False
    loses_answers: bool = False
    """Leases are made, and nobody hears of it."""
    greatest: int = 10**18
    """The most that one lease is granted."""

    async def acquire(self, lease_id: str, tenant_id: str, *, least: int, wanted: int) -> Granted:
        await self._reached()
        self.asked.append((least, wanted))
        for book in self.books if self.balance < least else ():
            book.recall(Recall(tenant_id, [lease_id]))
            await book._flush()
        granted = min(max(wanted, least), max(self.greatest, least), self.balance)
        if granted < least:
            raise InsufficientCredit(needed_nanos=least)
        self.balance -= granted
        self.leases[lease_id] = granted
        if self.loses_answers:
            raise CreditUnavailable
        return Granted(granted, LIFETIME)

    async def renew(self, lease_ids: Sequence[str]) -> tuple[float, Sequence[str]]:
        await self._reached()
        self.renewed.extend(lease_ids)
        return LIFETIME, self.gone

    async def give_back(self, returns: Sequence[Return], answers: Sequence[Answer]) -> None:
        await self._reached()
        self.answers.extend(answers)
        for row in returns:
            if row.lease_id not in self.leases:
                continue  # it was never made
            assert row.lease_id not in self.closed, "nothing comes back of a closed lease"
            # Who has not heard what was lent gives back what he wanted.
            nanos = min(row.nanos, self.leases[row.lease_id]) if self.loses_answers else row.nanos
            self.leases[row.lease_id] -= nanos
            self.balance += nanos
            assert self.leases[row.lease_id] >= 0, "no more comes back than was lent"
            if row.close:
                self.closed.add(row.lease_id)

    async def recalls(self) -> AsyncIterator[Recall]:
        await asyncio.Event().wait()
        yield Recall("", ())

    async def _reached(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise CreditUnavailable


def books(wallet: Wallet, count: int = 1, clock: ManualClock | None = None) -> list[CreditBook]:
    wallet.books = [CreditBook(wallet, clock or ManualClock()) for _ in range(count)]
    return wallet.books


async def admitted(*requests: "asyncio.Future[Hold]") -> list[Hold]:
    results = await asyncio.gather(*requests, return_exceptions=True)
    refused = [row for row in results if not isinstance(row, Hold)]
    assert all(isinstance(row, InsufficientCredit) for row in refused)
    return [row for row in results if isinstance(row, Hold)]


@settings(deadline=None, max_examples=60)
@given(
    ceiling=st.integers(1, 1000),
    worth=st.integers(0, 30),
    rest=st.integers(0, 999),
    count=st.integers(1, 4),
    greatest=st.integers(1, 5000),
)
async def test_a_balance_worth_k_calls_admits_exactly_k_of_many_at_once(
    ceiling: int, worth: int, rest: int, count: int, greatest: int
) -> None:
    wallet = Wallet(balance=worth * ceiling + rest % ceiling, greatest=greatest)
    replicas = books(wallet, count)

    holds = await admitted(
        *(asyncio.ensure_future(replicas[n % count].take("ten_1", ceiling)) for n in range(40))
    )

    assert len(holds) == min(worth, 40)


@pytest.mark.parametrize("greatest", [10**18, 150])
async def test_a_lease_that_nobody_heard_of_goes_back_at_once(greatest: int) -> None:
    wallet = Wallet(balance=1_000, greatest=greatest, loses_answers=True)
    [book] = books(wallet)

    with pytest.raises(CreditUnavailable):
        await book.take("ten_1", 100)
    assert wallet.balance < 1_000
    await book._flush()

    assert wallet.balance == 1_000
    assert wallet.closed == set(wallet.leases)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "settle", "recall", "tick", "away"]),
        st.integers(0, 1),
        st.integers(1, 3_000),
        st.floats(0, 1),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(lent=st.integers(0, 10_000), steps=STEPS)
async def test_what_is_admitted_never_exceeds_what_was_lent(
    lent: int, steps: list[tuple[str, int, int, float]]
) -> None:
    wallet, clock = Wallet(balance=lent), ManualClock()
    replicas = books(wallet, 2, clock)
    running: list[Hold] = []
    charged = 0
    for step, which, ceiling, share in steps:
        book = replicas[which]
        if step == "take":
            with suppress(InsufficientCredit, CreditUnavailable):
                running.append(await book.take("ten_1", ceiling))
        elif step == "settle" and running:
            hold = running.pop(int(share * (len(running) - 1)))
            charge = int(share * hold.ceiling)
            hold.settle(charge)
            charged += charge
        elif step == "recall":
            book.recall(RECALL)
        elif step == "tick":
            clock.advance(share * LIFETIME)
            await book.tick()
        elif step == "away":
            wallet.away = not wallet.away
        assert charged + sum(hold.ceiling for hold in running) <= lent
    for hold in running:
        hold.settle(0)
    wallet.away = False
    for book in replicas:
        await book.close()
    assert wallet.balance <= lent - charged


async def test_what_was_not_charged_can_be_admitted_again() -> None:
    wallet = Wallet(balance=200)
    (book,) = books(wallet)

    for _ in range(51):
        (await book.take("ten_1", 100)).settle(2)

    with pytest.raises(InsufficientCredit):
        await book.take("ten_1", 100)


async def test_everything_unused_goes_back_at_the_end() -> None:
    wallet = Wallet(balance=1_000)
    (book,) = books(wallet)
    hold = await book.take("ten_1", 300)
    hold.settle(120)

    await book.close()

    assert wallet.balance == 880
    assert wallet.closed == wallet.leases.keys()


async def test_requests_that_wait_at_once_ask_billing_together() -> None:
    wallet = Wallet(balance=10**9)
    (book,) = books(wallet)

    await asyncio.gather(*(book.take("ten_1", 100) for _ in range(100)))

    assert len(wallet.asked) <= 2


async def test_those_who_wait_at_once_are_refused_together() -> None:
    wallet = Wallet(balance=250)
    (book,) = books(wallet)

    holds = await admitted(*(asyncio.ensure_future(book.take("ten_1", 100)) for _ in range(100)))

    assert len(holds) == 2
    assert len(wallet.asked) <= 3


async def test_a_scarce_wallet_is_asked_for_one_ceiling() -> None:
    wallet = Wallet(balance=250)
    (book,) = books(wallet)
    await asyncio.gather(*(book.take("ten_1", 100) for _ in range(3)), return_exceptions=True)

    wallet.balance = 1_000
    await book.take("ten_1", 100)

    assert wallet.asked[-1] == (100, 100)


async def test_leases_grow_with_the_rate_of_spending() -> None:
    wallet, clock = Wallet(balance=10**12), ManualClock()
    (book,) = books(wallet, clock=clock)
    for _ in range(200):
        (await book.take("ten_1", 100)).settle(100)
        clock.advance(0.01)

    assert wallet.asked[0][1] < 1_000 < 5_000 < wallet.asked[-1][1]


async def test_nothing_is_admitted_from_a_lease_that_has_expired() -> None:
    wallet, clock = Wallet(balance=10_000), ManualClock()
    (book,) = books(wallet, clock=clock)
    await book.take("ten_1", 1_000)
    wallet.away = True
    clock.advance(LIFETIME)

    with pytest.raises(CreditUnavailable):
        await book.take("ten_1", 1)


async def test_a_lease_counts_from_when_it_was_asked_for() -> None:
    wallet, clock = Wallet(balance=10_000), ManualClock()
    (book,) = books(wallet, clock=clock)
    answer = wallet.acquire

    async def slowly(*args: str, **kwargs: int) -> Granted:
        granted = await answer(*args, **kwargs)
        clock.advance(LIFETIME - 1)
        return granted

    wallet.acquire = slowly  # type: ignore[method-assign]
    await book.take("ten_1", 100)
    wallet.away = True
    clock.advance(1)

    with pytest.raises(CreditUnavailable):
        await book.take("ten_1", 100)


async def test_open_leases_go_on_while_billing_is_away() -> None:
    wallet, clock = Wallet(balance=10_000), ManualClock()
    (book,) = books(wallet, clock=clock)
    (await book.take("ten_1", 1_000)).settle(0)
    wallet.away = True
    clock.advance(LIFETIME - 1)

    await book.tick()

    assert (await book.take("ten_1", 1_000)).ceiling == 1_000


async def test_nothing_is_admitted_from_a_lease_that_billing_says_is_over() -> None:
    wallet, clock = Wallet(balance=10_000), ManualClock()
    (book,) = books(wallet, clock=clock)
    first = await book.take("ten_1", 1_000)
    wallet.gone = [first.lease_id]
    clock.advance(LIFETIME / 2)
    await book.tick()

    second = await book.take("ten_1", 100)

    assert second.lease_id != first.lease_id


async def test_a_lease_in_use_is_prolonged() -> None:
    wallet, clock = Wallet(balance=10_000), ManualClock()
    (book,) = books(wallet, clock=clock)
    hold = await book.take("ten_1", 1_000)
    for _ in range(10):
        clock.advance(LIFETIME / 2)
        await book.tick()

    assert set(wallet.renewed) == {hold.lease_id}
    hold.settle(0)
    assert (await book.take("ten_1", 1_000)).lease_id == hold.lease_id


async def test_an_idle_lease_goes_back_by_itself() -> None:
    wallet, clock = Wallet(balance=10_000), ManualClock()
    (book,) = books(wallet, clock=clock)
    (await book.take("ten_1", 1_000)).settle(400)
    clock.advance(admission.IDLE_SECONDS)

    await book.tick()
    await book._flush()

    assert wallet.balance == 9_600


async def test_a_recall_leaves_what_running_requests_may_need() -> None:
    wallet = Wallet(balance=10_000)
    (book,) = books(wallet)
    first, second = await asyncio.gather(book.take("ten_1", 400), book.take("ten_1", 600))
    second.settle(0)

    book.recall(RECALL)
    await book._flush()

    assert wallet.balance == 10_000 - 400
    assert wallet.answers == [Answer(*RECALL.ids, [first.lease_id])]
    first.settle(400)


async def test_a_lease_of_which_something_is_idle_is_not_said_to_be_busy() -> None:
    wallet = Wallet(balance=1_000)
    (book,) = books(wallet)
    hold = await book.take("ten_1", 600)
    waiting = asyncio.ensure_future(book.take("ten_1", 1_000))
    await asyncio.sleep(0)  # it waits: what is idle is for itself first
    hold.settle(0)

    book.recall(RECALL)
    await book._flush()

    assert wallet.answers == []
    await asyncio.gather(waiting, return_exceptions=True)


async def test_nothing_is_said_of_a_lease_that_is_on_its_way() -> None:
    """It may turn out to be larger than who waits for it needs."""
    arrives = asyncio.Event()

    class Far(Wallet):
        async def acquire(self, *lease: str, least: int, wanted: int) -> Granted:
            granted = await super().acquire(*lease, least=least, wanted=wanted)
            await arrives.wait()
            return granted

    wallet = Far(balance=1_000)
    (book,) = books(wallet)
    waiting = asyncio.ensure_future(book.take("ten_1", 1_000))
    while not wallet.leases:
        await asyncio.sleep(0)

    book.recall(RECALL)
    await book._flush()

    assert wallet.answers == []
    arrives.set()
    await waiting


async def test_a_caller_who_leaves_while_waiting_holds_nothing() -> None:
    wallet = Wallet(balance=1_000)
    (book,) = books(wallet)
    waiting = asyncio.ensure_future(book.take("ten_1", 1_000))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert (await book.take("ten_1", 1_000)).ceiling == 1_000


async def test_what_costs_nothing_needs_no_lease() -> None:
    wallet = Wallet(balance=0)
    (book,) = books(wallet)

    hold = await book.take("ten_1", 0)

    assert (hold.lease_id, wallet.asked) == ("", [])
