"""What the tests of auth share: the service on a real channel, by a clock that a test can move."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from sqlalchemy import select, text

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import accounts_pb2 as accounts_pb
from vlinders.auth.v1 import api_keys_pb2 as keys_pb
from vlinders.auth.v1 import identity_pb2 as identity_pb
from vlinders.auth.v1 import sessions_pb2 as sessions_pb
from vlinders.auth.v1.accounts_pb2_grpc import AccountAdminServiceStub, AccountServiceStub
from vlinders.auth.v1.api_keys_pb2_grpc import ApiKeyServiceStub
from vlinders.auth.v1.identity_pb2_grpc import IdentityServiceStub
from vlinders.auth.v1.links_pb2_grpc import LinkServiceStub
from vlinders.auth.v1.members_pb2_grpc import MemberServiceStub
from vlinders.auth.v1.oauth_pb2_grpc import OAuthServiceStub
from vlinders.auth.v1.organizations_pb2_grpc import OrganizationServiceStub
from vlinders.auth.v1.sessions_pb2_grpc import SessionServiceStub
from vlinders_auth import accounts
from vlinders_auth.accounts import Person
from vlinders_auth.carriers import Spool
from vlinders_auth.mails import Mailing
from vlinders_auth.models import Tenant
from vlinders_auth.oauth import OAuthSignIns
from vlinders_auth.oauth_exchange import Exchange, open_http
from vlinders_auth.oauth_providers import PROVIDERS
from vlinders_auth.oauth_registry import Registry
from vlinders_auth.passwords import Passwords
from vlinders_auth.postman import Postman
from vlinders_auth.recipients import Recipients
from vlinders_auth.service import Bounds, Signing, services
from vlinders_auth.sign_ins import SignIns
from vlinders_auth.upkeep import Upkeep
from vlinders_kit.api_keys import digest
from vlinders_kit.clock import ManualClock, SystemClock
from vlinders_kit.db import Database
from vlinders_kit.errors import Failure, failure_of
from vlinders_kit.events import outbox
from vlinders_kit.sealing import Sealer
from vlinders_kit.testing import Served, a_part, a_user, named, served

package = named("vlinders_auth")

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAYS_30 = timedelta(days=30)
PASSWORD = "correct horse battery staple"
SEALER = Sealer({"k1": bytes(32)}, "k1")
KEYS_PER_ACCOUNT = 5
BOUNDS = Bounds(
    keys_per_account=KEYS_PER_ACCOUNT,
    organizations_per_tenant=4,
    members_per_organization=4,
    invitations_per_tenant=3,
)
THREADS, QUEUE = 2, 64
PUBLIC_URL = "https://vlinders.example"
SENDER = "Vlinders <no-reply@vlinders.example>"
MAILS_WAITING = 6


def token_in(mail: EmailMessage) -> str:
    """The token of the link that a mail brings."""
    found = re.search(r"#token=(\S+)", text_of(mail))
    assert found is not None
    return found[1]


def text_of(mail: EmailMessage, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    assert part is not None
    text: str = part.get_content()
    return text


@dataclass
class Auth:
    """Auth as its callers see it, and a few calls that most tests begin with."""

    db: Database
    upkeep: Upkeep
    passwords: Passwords
    clock: ManualClock
    postman: Postman
    mail_folder: Path
    registry: Registry = field(default_factory=lambda: Registry(PUBLIC_URL, {}, dict(PROVIDERS)))
    """OAuth's: a test fills it."""
    server: Served = field(init=False)

    def _stub(self, kind: Any, caller: Caller) -> Any:
        return kind(self.server.channel(caller))

    def accounts(self, caller: Caller | None = None) -> Any:
        return self._stub(AccountServiceStub, caller or anybody())

    def sessions(self, caller: Caller | None = None) -> Any:
        return self._stub(SessionServiceStub, caller or anybody())

    def administration(self, caller: Caller) -> Any:
        return self._stub(AccountAdminServiceStub, caller)

    def keys(self, caller: Caller) -> Any:
        return self._stub(ApiKeyServiceStub, caller)

    def identity(self, caller: Caller | None = None) -> Any:
        return self._stub(IdentityServiceStub, caller or a_part("gateway"))

    def oauth(self, caller: Caller | None = None) -> Any:
        return self._stub(OAuthServiceStub, caller or anybody())

    def organizations(self, caller: Caller) -> Any:
        return self._stub(OrganizationServiceStub, caller)

    def members(self, caller: Caller | None = None) -> Any:
        return self._stub(MemberServiceStub, caller or anybody())

    def links(self, caller: Caller | None = None) -> Any:
        return self._stub(LinkServiceStub, caller or anybody())

    async def mails(self) -> list[EmailMessage]:
        """The mails that have been sent since it was asked last, oldest first."""
        while await self.postman.turn():
            continue
        files = sorted(self.mail_folder.glob("*.eml"))
        read = [message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]
        for file in files:
            file.unlink()
        return read

    async def register(self, email: str = "ada@example.com", **over: Any) -> Caller:
        """Signs somebody up, and answers with him as the gateway would know him."""
        usual = {"password": PASSWORD, "full_name": "Ada", "tenant_name": "Engines"}
        request = accounts_pb.RegisterRequest(**{"email": email, **usual, **over})
        made = await self.accounts().Register(request)
        return a_user(account_id=made.user_id, tenant_id=made.tenant_id)

    async def colleague(self, of: Caller, name: str, *roles: api.Role) -> Caller:
        """Another account in the tenant of `of`: a developer unless told otherwise."""
        person = Person(f"{name}@example.com", "", name.title())
        wanted = roles or (api.ROLE_DEVELOPER,)
        async with self.db.begin() as tx:
            tenant = await tx.get_one(Tenant, of.tenant_id)
            made = await accounts.join(tx, tenant, person, wanted, now=NOW)
        return a_user(account_id=made.id, tenant_id=of.tenant_id, roles=wanted)

    async def login(
        self,
        email: str = "ada@example.com",
        password: str = PASSWORD,
        address: str = "192.0.2.1",
        dialect: str = "",
    ) -> sessions_pb.SignIn:
        request = sessions_pb.LoginRequest(email=email, password=password)
        caller = anybody(client_address=address, dialect=dialect)
        return await self.sessions(caller).Login(request)

    async def user(self, signed_in: sessions_pb.SignIn, **over: Any) -> Caller:
        """Whoever has signed in, as the gateway knows him."""
        known = (await self.introspect(session_id=session_of(signed_in.access_token))).caller
        known.MergeFrom(Caller(**{"client_address": "192.0.2.1", **over}))
        return known

    async def key(self, caller: Caller, **over: Any) -> keys_pb.CreateApiKeyResponse:
        usual = {"name": "laptop", "permissions": ["inference:write"]}
        return await self.keys(caller).CreateApiKey(
            keys_pb.CreateApiKeyRequest(**{**usual, **over})
        )

    async def introspect(self, **credential: Any) -> identity_pb.IntrospectResponse:
        if "api_key" in credential:
            credential = {"api_key_sha256": digest(credential["api_key"])}
        return await self.identity().Introspect(identity_pb.IntrospectRequest(**credential))

    async def published(self, *kinds: type[Message]) -> list[Message]:
        """The events of these kinds that wait to be told, in their order."""
        by_name = {kind.DESCRIPTOR.full_name: kind for kind in kinds}
        async with self.db.begin() as tx:
            rows = await tx.execute(select(outbox.c.type, outbox.c.body).order_by(outbox.c.seq))
            return [by_name[name].FromString(body) for name, body in rows if name in by_name]


def session_of(token: str) -> str:
    """What an access token says of its session."""
    payload = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=="))["sid"])


async def at_once(auth: Auth, statement: str, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """What becomes of calls that all wait for one another, or for the rows that `statement` locks.

    So that of a race that is to be decided, nobody has won before all have come.
    """
    waiting = text("""
        SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()
    """)
    async with auth.db.begin() as tx:
        await tx.execute(text(statement))
        running = [asyncio.create_task(call) for call in calls]
        async with asyncio.timeout(30):
            while await _alone(auth.db, waiting) != len(calls):
                await asyncio.sleep(0.01)
    return await asyncio.gather(*running, return_exceptions=True)


async def _alone(db: Database, query: Any) -> Any:
    """Its answer in a transaction of its own: in one, the activity of others stands still."""
    async with db.begin() as tx:
        return await tx.scalar(query)


def reasons(answers: list[Any]) -> list[str]:
    """Why those were refused that were."""
    return [failure_of(one).reason for one in answers if isinstance(one, grpc.aio.AioRpcError)]


async def failed(call: Awaitable[Any]) -> Failure:
    """What a call that is refused is told."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return failure_of(refused.value)


async def refused(call: Awaitable[Any]) -> str:
    """The reason for which a call is refused."""
    return (await failed(call)).reason


def anybody(**over: Any) -> Caller:
    usual = {"kind": Caller.KIND_ANONYMOUS, "client_address": "192.0.2.1"}
    return Caller(**{**usual, **over})


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords(memory_kib=19 * 1024, passes=2, threads=THREADS, queue=QUEUE)
    yield made
    await made.close()


@pytest.fixture
async def auth(db: Database, passwords: Passwords, tmp_path: Path) -> AsyncIterator[Auth]:
    clock = ManualClock(NOW)
    upkeep = Upkeep(db, SEALER, signing_key_lifetime=DAYS_30, clock=clock)
    await upkeep.turn_keys()
    told = asyncio.Event()
    recipients = Recipients(SEALER, public_url=PUBLIC_URL)
    spool = Spool(tmp_path / "mail")
    postman = Postman(db, spool, recipients, clock, sender=SENDER, told=told)
    mailing = Mailing(
        offered=True, per_address=3, per_account=4, most_waiting=MAILS_WAITING, wake=told.set
    )
    running = Auth(db, upkeep, passwords, clock, postman, tmp_path / "mail")
    signing = Signing(upkeep, "vlinders", "vlinders", clock)
    sign_ins = SignIns(db, passwords, clock, lifetime=DAYS_30)
    async with open_http() as http:
        # What providers sign is of their own moment.
        exchange = Exchange(http, SystemClock())
        oauth = OAuthSignIns(db, running.registry, exchange, sign_ins, SEALER, clock)
        rim = services(
            *(db, passwords, sign_ins, signing, clock, SEALER),
            bounds=BOUNDS,
            mailing=mailing,
            oauth=oauth,
        )
        async with served("vlinders.auth", *rim) as running.server:
            yield running
