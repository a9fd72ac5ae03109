"""Mails: handed to a real SMTP server or a folder, once, whatever dies in between."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from sqlalchemy import select

from vlinders.api.v1.options_pb2 import ROLE_DEVELOPER
from vlinders.auth.v1 import links_pb2 as pb
from vlinders.auth.v1.members_pb2 import InviteMemberRequest
from vlinders_auth import carriers, letters, mails
from vlinders_auth.carriers import (
    Carrier,
    CarrierAway,
    Deferred,
    Encryption,
    Refused,
    Server,
    Smtp,
    Spool,
)
from vlinders_auth.errors import MailUnavailable
from vlinders_auth.letters import Letter
from vlinders_auth.links import Purpose
from vlinders_auth.mails import Asked, Mailing
from vlinders_auth.models import Mail
from vlinders_auth.postman import Postman
from vlinders_auth.recipients import Recipients
from vlinders_kit.db import Database
from vlinders_kit.silence import DatabaseSilent
from vlinders_kit.testing.certificates import Authority

from .conftest import NOW, PUBLIC_URL, SEALER, SENDER, Auth, refused, text_of, token_in

LETTER = Letter(
    "mail_1",
    "ada@example.com",
    Purpose.ACCEPT_INVITATION,
    f"{PUBLIC_URL}/account/accept-invitation#token=vlinders_lt_{'x' * 65}",
    NOW + timedelta(days=7),
    tenant="Engines & Söhne",
    inviter="Ada",
)


@dataclass
class Inbox:
    """What a mail server got, and what it says to a mail."""

    answers: list[str] = field(default_factory=list)
    """To the next mails; without, each is taken."""

    got: list[EmailMessage] = field(default_factory=list)
    to: list[str] = field(default_factory=list)
    signed_in: list[bytes] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if self.answers and self.answers[0].startswith("rcpt "):
            return self.answers.pop(0).removeprefix("rcpt ")
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.arrived.set()
        if self.answers:
            return self.answers.pop(0)
        self.got.append(message_from_bytes(envelope.content, policy=policy.default))
        self.to += envelope.rcpt_tos
        return "250 OK"

    def signs_in(self, server: Any, session: Any, envelope: Any, kind: str, data: Any) -> Any:
        self.signed_in.append(data.password)
        return AuthResult(success=data.password == b"secret", handled=False)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@asynccontextmanager
async def mail_server(
    inbox: Inbox,
    tmp_path: Path,
    authority: Authority,
    *,
    encryption: Encryption = "starttls",
    password: str | None = "secret",
) -> AsyncIterator[Server]:
    """A server of aiosmtpd's, and how it is spoken to."""
    shown = authority.part("localhost")
    files = {"certificate": shown.certificate, "key": shown.key, "authority": shown.authority}
    for name, content in files.items():
        (tmp_path / f"{name}.pem").write_bytes(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    starts, wrapped = encryption == "starttls", encryption == "tls"

    def speak() -> SMTP:
        return SMTP(
            inbox,
            hostname="localhost",
            tls_context=context if starts else None,
            require_starttls=starts,
            authenticator=inbox.signs_in if password else None,
            auth_required=starts and password is not None,
            auth_require_tls=starts,
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(speak, "127.0.0.1", 0, ssl=context if wrapped else None)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Server(
            "localhost",
            port,
            encryption,
            authority=tmp_path / "authority.pem",
            username="vlinders" if password else None,
            password=password,
        )
    finally:
        server.close()
        await server.wait_closed()


def message() -> EmailMessage:
    return letters.write(LETTER, sender=SENDER, now=NOW)


def postman(auth: Auth, carrier: Carrier, chance: Callable[[], float] = lambda: 0.0) -> Postman:
    recipients = Recipients(SEALER, public_url=PUBLIC_URL)
    told = asyncio.Event()
    return Postman(
        auth.db, carrier, recipients, auth.clock, sender=SENDER, told=told, chance=chance
    )


async def ask(auth: Auth, email: str = "ada@example.com") -> None:
    await auth.links().RequestPasswordReset(pb.RequestPasswordResetRequest(email=email))


async def waiting(auth: Auth) -> list[Mail]:
    async with auth.db.begin() as tx:
        return list((await tx.scalars(select(Mail).where(Mail.due_at.is_not(None)))).all())


@dataclass
class Kept:
    """A carrier that keeps what it is given, unless it is told to fail."""

    failures: list[Exception] = field(default_factory=list)
    got: list[EmailMessage] = field(default_factory=list)
    hangs: bool = False

    async def carry(self, message: EmailMessage) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.failures:
            raise self.failures.pop(0)
        self.got.append(message)


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
async def test_a_server_gets_the_mail_over_tls_from_who_signs_in(
    tmp_path: Path, authority: Authority, encryption: Encryption
) -> None:
    inbox = Inbox()
    async with mail_server(inbox, tmp_path, authority, encryption=encryption) as server:
        await Smtp(server).carry(message())

    [got] = inbox.got
    assert (inbox.to, inbox.signed_in) == (["ada@example.com"], [b"secret"])
    assert got["From"] == SENDER
    assert got["Subject"] == "You are invited to join Engines & Söhne"
    assert got["Message-Id"] == "<mail_1@vlinders.example>"
    assert got["Auto-Submitted"] == "auto-generated"
    for kind in ("plain", "html"):
        assert LETTER.url in text_of(got, kind)
        assert "08 March 2026, 12:00 UTC" in text_of(got, kind)


async def test_a_server_in_the_house_is_spoken_to_without_encryption_where_that_is_said(
    tmp_path: Path, authority: Authority
) -> None:
    inbox = Inbox()
    async with mail_server(inbox, tmp_path, authority, encryption="none", password=None) as server:
        await Smtp(server).carry(message())

    assert len(inbox.got) == 1


async def test_a_server_that_offers_no_encryption_hears_neither_password_nor_mail(
    tmp_path: Path, authority: Authority
) -> None:
    inbox = Inbox()
    async with mail_server(inbox, tmp_path, authority, encryption="none") as server:
        insisting = Server(
            server.host, server.port, "starttls", server.authority, "vlinders", "secret"
        )
        with pytest.raises(CarrierAway):
            await Smtp(insisting).carry(message())

    assert (inbox.got, inbox.signed_in) == ([], [])


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
async def test_a_server_whose_certificate_nobody_vouches_for_hears_nothing(
    tmp_path: Path, authority: Authority, encryption: Encryption
) -> None:
    inbox = Inbox()
    async with mail_server(inbox, tmp_path, authority, encryption=encryption) as server:
        (tmp_path / "other.pem").write_bytes(Authority().certificate)
        trusting = Server(
            server.host, server.port, encryption, tmp_path / "other.pem", "vlinders", "secret"
        )
        with pytest.raises(CarrierAway):
            await Smtp(trusting).carry(message())

    assert (inbox.got, inbox.signed_in) == ([], [])


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("rcpt 550 No such user", Refused),
        ("rcpt 450 Come back later", Deferred),
        ("554 Not wanted", Refused),
        ("451 Not now", Deferred),
    ],
)
async def test_a_servers_word_on_a_mail_is_its_last_if_it_says_so(
    tmp_path: Path, authority: Authority, answer: str, failure: type[Exception]
) -> None:
    async with mail_server(Inbox(answers=[answer]), tmp_path, authority) as server:
        with pytest.raises(failure, match=answer.removeprefix("rcpt ")[:3]):
            await Smtp(server).carry(message())


async def test_a_wrong_password_is_no_fault_of_the_mail(
    tmp_path: Path, authority: Authority
) -> None:
    async with mail_server(Inbox(), tmp_path, authority, password="another") as server:
        with pytest.raises(CarrierAway, match="SMTPAuthenticationError"):
            await Smtp(server).carry(message())


async def test_a_server_that_takes_connections_and_says_nothing_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carriers, "DEADLINE_SECONDS", 0.2)
    over = asyncio.Event()

    async def silent(reader: Any, writer: Any) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(CarrierAway):
        await Smtp(Server("127.0.0.1", port, "none")).carry(message())
    over.set()
    server.close()
    await server.wait_closed()


async def test_a_folder_gets_each_mail_whole_under_its_id_for_its_owner_alone(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "spool" / "mails"

    await Spool(folder).carry(message())
    await Spool(folder).carry(message())

    [file] = folder.iterdir()
    assert file.name == "mail_1.eml"
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert f"\r\n{LETTER.url}\r\n".encode() in file.read_bytes()


async def test_a_folder_that_cannot_be_written_to_is_away(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(CarrierAway):
        await Spool(tmp_path / "file" / "mails").carry(message())


async def test_names_that_somebody_chose_make_no_links_and_no_html(tmp_path: Path) -> None:
    letter = Letter(
        **{
            **vars(LETTER),
            "tenant": "<b>Win</b> at https://evil.example/?x",
            "inviter": "evil.example\r\nBcc: all@example.com",
        }
    )

    written = letters.write(letter, sender=SENDER, now=NOW)

    assert written["Subject"] == "You are invited to join bWinb at httpsevilexamplex"
    assert written["Bcc"] is None
    for kind in ("plain", "html"):
        assert "evil.example" not in text_of(written, kind)
        assert "<b>" not in text_of(written, kind)


async def test_a_mail_that_was_not_taken_is_sent_again_later_and_later_as_the_same(
    auth: Auth,
) -> None:
    await auth.register()
    await ask(auth)
    kept = Kept([Deferred("450"), Deferred("450")])
    sends = postman(auth, kept)

    for seconds in (30, 60):
        await sends.turn()
        auth.clock.advance(seconds - 1)
        assert await sends.turn() == 0
        auth.clock.advance(1)
    await sends.turn()

    [got] = kept.got
    assert got["Message-Id"].startswith("<mail_")
    assert await waiting(auth) == []
    token = token_in(got)
    request = pb.ResetPasswordRequest(token=token, new_password="another one, as good")
    await auth.links().ResetPassword(request)


async def test_waits_are_less_up_to_half_by_chance(auth: Auth) -> None:
    await auth.register()
    await ask(auth)

    await postman(auth, Kept([Deferred("450")]), chance=lambda: 1.0).turn()

    [mail] = await waiting(auth)
    assert mail.due_at == NOW + timedelta(seconds=15)


async def test_a_mail_that_is_refused_is_not_sent_again(auth: Auth) -> None:
    await auth.register()
    await ask(auth)

    await postman(auth, Kept([Refused("550")])).turn()

    assert await waiting(auth) == []


async def test_while_the_server_is_away_mails_wait(auth: Auth) -> None:
    await auth.register()
    await ask(auth)
    kept = Kept([CarrierAway("SMTPConnectError")])
    sends = postman(auth, kept)

    with pytest.raises(CarrierAway):
        await sends.turn()
    auth.clock.advance(30)
    await sends.turn()

    assert len(kept.got) == 1


async def test_a_mail_is_not_sent_once_its_link_has_expired_or_was_used(auth: Auth) -> None:
    await auth.register()
    await ask(auth)
    kept = Kept([Deferred("450")])
    sends = postman(auth, kept)
    await sends.turn()
    auth.clock.advance(timedelta(minutes=30))

    assert await sends.turn() == 1

    assert kept.got == []
    assert await waiting(auth) == []


async def test_a_mail_is_not_sent_again_once_another_invitation_has_taken_its_place(
    auth: Auth,
) -> None:
    ada = await auth.register()
    kept = Kept([Deferred("450")])
    sends = postman(auth, kept)
    await auth.members(ada).InviteMember(invitation("bob@example.com"))
    await sends.turn()
    await auth.members(ada).InviteMember(invitation("bob@example.com"))
    auth.clock.advance(30)

    await sends.turn()

    assert len(kept.got) == 1
    assert await waiting(auth) == []


async def test_a_fault_of_ours_over_one_mail_holds_up_no_other(auth: Auth) -> None:
    for name in ("ada", "bob"):
        await auth.register(f"{name}@example.com")
        await ask(auth, f"{name}@example.com")
    kept = Kept([ZeroDivisionError()])
    sends = postman(auth, kept)

    assert await sends.turn() == 2
    auth.clock.advance(30)
    assert await sends.turn() == 1

    assert {got["To"] for got in kept.got} == {"ada@example.com", "bob@example.com"}


async def test_a_mail_survives_whoever_died_over_it_and_is_the_same(auth: Auth) -> None:
    await auth.register()
    await ask(auth)
    hanging = asyncio.create_task(postman(auth, Kept(hangs=True)).turn())
    while not (await waiting(auth))[0].tries:
        await asyncio.sleep(0.01)
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    [mail] = await waiting(auth)
    kept = Kept()
    other = postman(auth, kept)

    assert await other.turn() == 0  # it could still be about it
    auth.clock.advance(mails.LEASE)
    assert await other.turn() == 1

    [got] = kept.got
    assert got["Message-Id"] == f"<{mail.id}@vlinders.example>"
    assert await waiting(auth) == []


async def test_postmen_of_several_processes_send_each_mail_once(auth: Auth) -> None:
    emails = [f"p{number}@example.com" for number in range(6)]
    for email in emails:
        await auth.register(email)
        await ask(auth, email)
    kept = Kept()

    await asyncio.gather(*(postman(auth, kept).turn() for _ in range(4)))

    assert sorted(got["To"] for got in kept.got) == emails


async def test_a_mail_that_is_asked_for_is_sent_without_delay(
    auth: Auth, tmp_path: Path, authority: Authority
) -> None:
    inbox = Inbox()
    await auth.register()
    async with mail_server(inbox, tmp_path, authority) as server:
        told = asyncio.Event()
        recipients = Recipients(SEALER, public_url=PUBLIC_URL)
        running = asyncio.create_task(
            Postman(auth.db, Smtp(server), recipients, auth.clock, sender=SENDER, told=told).run()
        )
        mailing = Mailing(offered=True, per_address=3, per_account=3, most_waiting=3, wake=told.set)
        async with auth.db.begin() as tx:
            mail = Asked(Purpose.RESET_PASSWORD, "ada@example.com")
            await mailing.ask(tx, mail, now=NOW)
        async with asyncio.timeout(60):
            await inbox.arrived.wait()
        while await waiting(auth):
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert inbox.to == ["ada@example.com"]


@dataclass
class Unsteady:
    """A database that does not answer at first."""

    db: Database
    silences: int = 3

    def begin(self) -> Any:
        if self.silences:
            self.silences -= 1
            raise DatabaseSilent("the database does not answer")
        return self.db.begin()


async def test_mails_go_on_after_the_database_was_silent(auth: Auth) -> None:
    await auth.register()
    await ask(auth)
    kept, told = Kept(), asyncio.Event()
    recipients = Recipients(SEALER, public_url=PUBLIC_URL)
    unsteady: Any = Unsteady(auth.db)
    sends = Postman(unsteady, kept, recipients, auth.clock, sender=SENDER, told=told)
    running = asyncio.create_task(sends.run())

    async with asyncio.timeout(60):
        while await waiting(auth):
            await asyncio.sleep(0.01)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(kept.got) == 1


async def test_what_is_rolled_back_sends_no_mail(auth: Auth) -> None:
    ada = await auth.register()
    for number in range(4):
        await auth.members(ada).InviteMember(invitation(f"p{number % 3}@example.com"))

    assert await refused(auth.members(ada).InviteMember(invitation("p0@example.com"))) == (
        "TOO_MANY_MAILS"
    )

    assert len(await auth.mails()) == 3  # one was for a link that has been replaced


def invitation(email: str) -> Any:
    return InviteMemberRequest(email=email, role=ROLE_DEVELOPER)


async def test_one_address_gets_no_more_mails_in_an_hour_than_it_may(auth: Auth) -> None:
    answers = await asyncio.gather(*(ask(auth) for _ in range(6)), return_exceptions=True)

    assert sum(answer is None for answer in answers) == 3
    assert await refused(ask(auth, "ADA@example.com")) == "TOO_MANY_MAILS"
    auth.clock.advance(mails.WINDOW)
    await ask(auth)


async def test_when_too_many_wait_no_more_are_taken(auth: Auth) -> None:
    for number in range(6):
        await ask(auth, f"p{number}@example.com")

    assert await refused(ask(auth)) == "MAIL_UNAVAILABLE"

    assert await auth.mails() == []  # nobody has these addresses
    await ask(auth)


async def test_without_anything_to_send_them_with_no_mail_is_taken(auth: Auth) -> None:
    mailing = Mailing(
        offered=False, per_address=3, per_account=3, most_waiting=3, wake=lambda: None
    )
    mail = Asked(Purpose.RESET_PASSWORD, "ada@example.com")
    async with auth.db.begin() as tx:
        with pytest.raises(MailUnavailable):
            await mailing.ask(tx, mail, now=NOW)
