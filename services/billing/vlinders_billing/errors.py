"""What can go wrong in billing, as callers see it."""

from vlinders_kit.errors import AlreadyExists, FailedPrecondition, Violation


class InsufficientBalance(FailedPrecondition):
    """What is available in {account_id} does not cover this."""

    account_id: str


class BalanceHeld(FailedPrecondition):
    """Requests that may be running hold {held_nanos} nanos of it."""

    held_nanos: int

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation("balance_nanos", str(self), self.reason),)


class InsufficientCredit(FailedPrecondition):
    """The wallet can lend {available_nanos} nanos, and this needs {needed_nanos}."""

    available_nanos: int
    needed_nanos: int


class TransferConflict(AlreadyExists):
    """The transfer {transfer_id} has been made already, with other content."""

    transfer_id: str


class LeaseConflict(AlreadyExists):
    """The lease {lease_id} was asked for already, with other content."""

    lease_id: str


class LeaseOver(FailedPrecondition):
    """The lease {lease_id} is over: nothing may be admitted from it."""

    lease_id: str


class ReturnConflict(AlreadyExists):
    """The return {return_id} was made already, with other content."""

    return_id: str
