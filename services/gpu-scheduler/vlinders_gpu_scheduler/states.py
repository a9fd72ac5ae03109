"""States: what a worker is, by what is heard of it and when. No I/O, and time is an argument.

    REGISTERING ⟶ ONLINE ⇄ SUSPECT ⟶ OFFLINE, with DRAINING on the way of those that leave in order.

OFFLINE is the end of an epoch. Who comes back after it registers again, with a new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf
from typing import Self

from vlinders_gpu_scheduler.suspicion import Rhythm


class State(StrEnum):
    REGISTERING = "REGISTERING"
    ONLINE = "ONLINE"
    SUSPECT = "SUSPECT"
    DRAINING = "DRAINING"
    OFFLINE = "OFFLINE"


FOLLOWS: Mapping[State, frozenset[State]] = {
    State.REGISTERING: frozenset({State.ONLINE, State.DRAINING, State.OFFLINE}),
    State.ONLINE: frozenset({State.SUSPECT, State.DRAINING, State.OFFLINE}),
    State.SUSPECT: frozenset({State.ONLINE, State.DRAINING, State.OFFLINE}),
    State.DRAINING: frozenset({State.OFFLINE}),
    State.OFFLINE: frozenset(),
}
"""What may come after what, within one epoch."""

LONGEST_STRETCH = 2.0
"""Of beats and leases in a large fleet. A new hub ends nobody for two leases, so whatever another
one has lent is over by then."""

FAILURES = 3
"""Requests in a row that could not be begun on a worker before it is suspect."""


@dataclass(frozen=True)
class Timers:
    """Lengths of time, in seconds."""

    beat: float = 2.0
    """Between two beats of a worker."""

    lease: float = 15.0
    """What a beat is good for. The worker counts it from when it sent the beat."""

    margin: float = 2.0
    """What the hub, which counts from when it received the beat, adds: the worker stops first."""

    registering: float = 60.0
    """From a Hello to the first beat."""

    drain: float = 130.0
    """What a draining worker has to finish what runs."""

    flap: float = 60.0
    """A worker that is suspect twice within this must beat twice to be trusted again."""

    def stretched(self, workers: int, *, beats_per_second: float) -> Self:
        """With so many workers that beats would be too many: longer beats, and leases with them."""
        stretch = min(max(1.0, workers / beats_per_second / self.beat), LONGEST_STRETCH)
        return replace(self, beat=self.beat * stretch, lease=self.lease * stretch)


@dataclass(frozen=True)
class Move:
    """From one state to another, and why."""

    was: State
    now: State
    reason: str


class Life:
    """The state of one worker in one epoch. Each method answers the move it made, if it made one.

    `due` is the moment at which silence, or a limit, makes the next move; `expire` makes it. Who
    asks decides whether to believe its own clock (see `doubt`).
    """

    def __init__(
        self, timers: Timers, now: float, *, state: State = State.REGISTERING, adopted: bool = False
    ) -> None:
        """`adopted`: known from before the hub began, and not heard since."""
        self.timers = timers
        self.state = state
        self.heard_at = now
        self.suspected_at = now if state is State.SUSPECT else -inf
        self._adopted = adopted
        self._rhythm = Rhythm(timers.beat)
        self._ends = now + (timers.drain if state is State.DRAINING else timers.registering)
        self._beats_missing = 1
        self._failures = 0
        self.due = self._due()

    def silent(self, now: float) -> bool:
        """For longer than is like it."""
        return now > self.heard_at + self._allowance

    def by_silence(self, now: float) -> bool:
        """Whether it is silence alone that would end it now, which may be our own fault."""
        return self.state is State.SUSPECT or (self.state is State.DRAINING and now < self._ends)

    def hear(self, now: float) -> None:
        """A sign of life that is no beat: it moves nothing, and the lease runs from here."""
        self._adopted = False
        self._rhythm.interrupt()
        self._heard(now)

    def beat(self, now: float, *, held_up: bool = False) -> Move | None:
        """`held_up`: it may have waited for us: then its moment says nothing about the worker."""
        self._adopted = False
        if held_up:
            self._rhythm.interrupt()
        else:
            self._rhythm.beat(now)
        self._heard(now)
        if self.state is State.REGISTERING:
            return self._move(State.ONLINE, "registered")
        if self.state is State.SUSPECT:
            self._beats_missing -= 1
            if self._beats_missing <= 0:
                self._failures = 0
                return self._move(State.ONLINE, "beats again")
        return None

    def stretch(self, timers: Timers) -> None:
        """Waits longer from now on. The worker may be told after this, not before: its own lease
        must never be the longer one. For the same reason there is no way back in an epoch."""
        self.timers = timers
        self._rhythm = Rhythm(timers.beat)
        self._heard(self.heard_at)

    def suspect(self, now: float, reason: str) -> Move | None:
        if self.state is not State.ONLINE:
            return None
        self._beats_missing = 2 if now - self.suspected_at < self.timers.flap else 1
        self.suspected_at = now
        return self._move(State.SUSPECT, reason)

    def failed(self, now: float) -> Move | None:
        """A request could not be begun on it."""
        self._failures += 1
        return self.suspect(now, "requests fail") if self._failures >= FAILURES else None

    def worked(self) -> None:
        """A request was begun on it."""
        self._failures = 0

    def drain(self, now: float) -> Move | None:
        if State.DRAINING not in FOLLOWS[self.state]:
            return None
        self._ends = now + self.timers.drain
        return self._move(State.DRAINING, "drained")

    def end(self, reason: str) -> Move | None:
        return None if self.state is State.OFFLINE else self._move(State.OFFLINE, reason)

    def expire(self, now: float) -> Move | None:
        """The move that is due."""
        if self.state is State.ONLINE:
            return self.suspect(now, "silent")
        if self.state is State.REGISTERING:
            return self.end("registration took too long")
        return self.end("lease over" if self.by_silence(now) else "drain took too long")

    def restart(self, now: float) -> None:
        """Counts from now all that is counted: the silence so far may have been our own."""
        self._rhythm.interrupt()
        if self.state is State.REGISTERING:
            self._ends = now + self.timers.registering
        self._heard(now)

    @property
    def _allowance(self) -> float:
        # A hub that has just begun hears its workers one by one: none is suspect within a lease.
        lease = self.timers.lease
        return lease if self._adopted else min(self._rhythm.allowance, lease)

    def _due(self) -> float:
        lease_over = self.heard_at + self.timers.lease + self.timers.margin
        match self.state:
            case State.ONLINE:
                return self.heard_at + self._allowance
            case State.SUSPECT:
                return lease_over
            case State.REGISTERING:
                return self._ends
            case State.DRAINING:
                return min(self._ends, lease_over)
            case State.OFFLINE:
                return inf

    def _heard(self, now: float) -> None:
        self.heard_at = now
        self.due = self._due()

    def _move(self, state: State, reason: str) -> Move:
        if state not in FOLLOWS[self.state]:
            raise ValueError(f"{state} does not follow {self.state}")
        move = Move(self.state, state, reason)
        self.state = state
        self.due = self._due()
        return move
