"""What changes whom a credential stands for: events of auth, and what clients ask for here."""

from collections.abc import Mapping

from google.protobuf.message import Message

from vlinders.auth.v1 import events_pb2 as events

TOPICS = ("vlinders.auth",)

BY_EVENT: Mapping[str, tuple[type[Message], str]] = {
    kind.DESCRIPTOR.full_name: (kind, name)
    for kind, name in (
        (events.ApiKeyRevoked, "api_key_id"),
        (events.AccountDisabled, "account_id"),
        (events.AccountEnabled, "account_id"),
        (events.RolesChanged, "account_id"),
        (events.SessionRevoked, "session_id"),
        (events.TenantPlanChanged, "tenant_id"),
    )
}
"""Events that make what is known void, and the field that says of whom."""

BY_OPERATION: Mapping[str, tuple[str, str]] = {
    "RevokeApiKey": ("request", "api_key_id"),
    "Logout": ("caller", "session_id"),
    "ChangePassword": ("caller", "account_id"),
    "SetAccountStatus": ("answer", "id"),
    "UpdateAccount": ("answer", "id"),
    "SetMemberRole": ("answer", "id"),
}
"""Operations that void what is known, and the field that says of whom: whoever is told that it is
done finds it so with his next request, before the event has come."""

PARDONS = frozenset(
    ("SetAccountStatus", "UpdateAccount", events.AccountEnabled.DESCRIPTOR.full_name)
)
"""What may let an account in again."""
