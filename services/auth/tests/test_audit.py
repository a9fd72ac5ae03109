"""Audit: every change and sign-in is told, with who, from where, and no secret."""

from vlinders.auth.v1 import accounts_pb2 as pb
from vlinders.auth.v1 import api_keys_pb2, sessions_pb2
from vlinders.auth.v1.events_pb2 import Audited

from .conftest import NOW, PASSWORD, Auth, anybody, failed

NEW = "a quite different one"


async def told(auth: Auth) -> list[Audited]:
    return [event for event in await auth.published(Audited) if isinstance(event, Audited)]


async def test_what_somebody_does_with_his_account_is_told_in_its_order(auth: Auth) -> None:
    made = await auth.accounts(anybody()).RegisterByName(
        pb.RegisterByNameRequest(username="ada", email="ada@example.com", password=PASSWORD)
    )
    ada = await auth.user(await auth.login("ada"))
    me = auth.accounts(ada)
    await me.UpdateMyAccount(pb.UpdateMyAccountRequest(full_name="Ada", username="ada-l"))
    await me.ChangePassword(pb.ChangePasswordRequest(current_password=PASSWORD, new_password=NEW))
    key = await auth.key(ada)
    await auth.keys(ada).RevokeApiKey(api_keys_pb2.RevokeApiKeyRequest(api_key_id=key.id))
    await auth.sessions(ada).Logout(sessions_pb2.LogoutRequest())

    events = await told(auth)

    assert [(event.action, event.resource_type, event.resource_id) for event in events] == [
        ("user.register", "user", made.id),
        ("user.login", "user", made.id),
        ("user.update", "user", made.id),
        ("user.password", "user", made.id),
        ("api_key.create", "api_key", key.id),
        ("api_key.revoke", "api_key", key.id),
        ("user.logout", "user", made.id),
    ]
    assert {(event.actor_account_id, event.tenant_id) for event in events} == {
        (made.id, made.tenant_id)
    }
    assert dict(events[2].details) == {"fields": "full_name,username"}
    said = b"".join(event.SerializeToString() for event in events)
    for secret in (PASSWORD, NEW, key.key):
        assert secret.encode() not in said


async def test_it_is_told_where_from_and_by_which_request(auth: Auth) -> None:
    caller = anybody(client_address="203.0.113.9", request_id="req_1", dialect="owl")
    await auth.register()

    await auth.sessions(caller).Login(
        sessions_pb2.LoginRequest(email="ada@example.com", password=PASSWORD)
    )

    event = (await told(auth))[-1]
    assert (event.client_address, event.request_id, event.dialect) == (
        "203.0.113.9",
        "req_1",
        "owl",
    )
    assert event.at.ToDatetime(NOW.tzinfo) == NOW


async def test_what_fails_is_not_told_as_done(auth: Auth) -> None:
    await auth.register()
    before = await told(auth)

    await failed(auth.register())
    await failed(auth.login(password="wrong"))

    assert await told(auth) == before
