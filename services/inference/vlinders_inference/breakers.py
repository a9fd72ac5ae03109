"""Breakers and budgets: a failing engine is not asked, and retries do not pile up."""

from dataclasses import dataclass

FAILURES = 5
"""Failures in a row that open a breaker."""

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 60.0
"""How long a breaker stays open: doubling from the first, each time that the probe fails."""

RETRIES_PER_REQUEST = 0.1
"""What each request adds to the budget of retries: under trouble they add a tenth to the load."""

RESERVE = 20.0
"""Retries that may be saved up, so that few requests can all be retried."""


@dataclass(slots=True)
class Breaker:
    """One way to an engine. Closed it lets pass; open it does not, and then lets one probe pass."""

    failures: int = 0
    open_until: float = 0.0
    probing: bool = False
    _seconds: float = FIRST_SECONDS

    def lets_pass(self, now: float) -> bool:
        if self.open_until == 0.0:
            return True
        return now >= self.open_until and not self.probing

    def begin(self) -> None:
        """Notes that somebody passes: while open, as the probe."""
        self.probing = self.open_until != 0.0

    def succeeded(self) -> None:
        """The engine answered, whatever it said."""
        self.failures = 0
        self.open_until = 0.0
        self.probing = False
        self._seconds = FIRST_SECONDS

    def abandoned(self) -> None:
        """The attempt ended without saying anything of the engine."""
        self.probing = False

    def failed(self, now: float, rest: float | None = None) -> None:
        """The engine failed; with `rest` it is left alone for so many seconds at once."""
        self.failures += 1
        probe, self.probing = self.probing, False
        if rest is not None:
            self.open_until = now + min(max(rest, 1.0), LONGEST_SECONDS)
        elif probe or self.failures >= FAILURES:
            self.open_until = now + self._seconds
            self._seconds = min(self._seconds * 2, LONGEST_SECONDS)


@dataclass(slots=True)
class RetryBudget:
    """How many retries this process may still make."""

    left: float = RESERVE

    def request(self) -> None:
        """Notes a request."""
        self.left = min(self.left + RETRIES_PER_REQUEST, RESERVE)

    def retry(self) -> bool:
        """Takes one retry; False when there is none left."""
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True
