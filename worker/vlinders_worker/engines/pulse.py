"""The pulse of an engine: whether anything comes from it while answers are waited for."""

import time
from collections.abc import Callable


class Pulse:
    """What all answers of one engine say together of its life.

    One answer may stand still for long: its prompt is long, others go first, its reader is slow. An
    engine that is in the middle of answers and sends nothing on any of them hangs.
    """

    def __init__(
        self, *, first: float, next: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Seconds that it may be silent before it has begun any of the answers, and after."""
        self._first = first
        self._next = next
        self._clock = clock
        self._waiting = {False: 0, True: 0}
        self._heard_at = clock()

    def wait(self, *, begun: bool) -> None:
        """An answer, which has `begun` or not, is waited for from now on."""
        if not (self._waiting[False] or self._waiting[True]):
            self._heard_at = self._clock()
        self._waiting[begun] += 1

    def end_wait(self, *, begun: bool, heard: bool) -> None:
        """Something was `heard`, or it is not waited for any more."""
        self._waiting[begun] -= 1
        if heard:
            self._heard_at = self._clock()

    def restart(self) -> None:
        """Counts from now: the silence so far may have been our own."""
        self._heard_at = self._clock()

    @property
    def hangs(self) -> str | None:
        """In words what shows that it hangs; None while it need not."""
        begun = self._waiting[True] > 0
        if not begun and not self._waiting[False]:
            return None
        most = self._next if begun else self._first
        silent = self._clock() - self._heard_at
        return (
            f"nothing came from it for {silent:.0f} s, and it was asked" if silent > most else None
        )
