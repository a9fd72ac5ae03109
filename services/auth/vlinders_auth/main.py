"""`python -m vlinders_auth.main`: the auth service, put together."""

import asyncio

from vlinders_auth.bootstrap import Administrator, bootstrap
from vlinders_auth.carriers import Carrier, Smtp, Spool
from vlinders_auth.mails import Mailing
from vlinders_auth.oauth import OAuthSignIns
from vlinders_auth.oauth_exchange import Exchange, open_http
from vlinders_auth.oauth_registry import Registry
from vlinders_auth.passwords import Passwords
from vlinders_auth.postman import Postman
from vlinders_auth.recipients import Recipients
from vlinders_auth.service import Bounds, Signing, services
from vlinders_auth.settings import AuthSettings
from vlinders_auth.sign_ins import SignIns
from vlinders_auth.upkeep import Upkeep
from vlinders_kit.bus import open_bus
from vlinders_kit.clock import SystemClock
from vlinders_kit.db import Database
from vlinders_kit.process import Process, run
from vlinders_kit.relay import Relay
from vlinders_kit.sealing import Sealer

NAME = "vlinders.auth"


async def main(settings: AuthSettings) -> None:
    async with Process.of(NAME, settings) as process:
        db = Database(settings.database_url.get_secret_value(), application_name=NAME)
        process.closers.append(db.close)
        passwords = Passwords(
            memory_kib=settings.password_memory_kib,
            passes=settings.password_passes,
            threads=settings.password_threads,
            queue=settings.password_queue,
        )
        process.closers.append(passwords.close)
        await bootstrap(db, passwords, _administrator(settings), SystemClock())
        await _serve(process, db, passwords, settings)
        bus = open_bus(settings.bus.get_secret_value(), NAME)
        process.closers.append(bus.close)
        process.background("relay", Relay(db, bus).run)


async def _serve(
    process: Process, db: Database, passwords: Passwords, settings: AuthSettings
) -> None:
    clock = SystemClock()
    sealer = Sealer.load(settings.sealing_key_file)
    upkeep = Upkeep(db, sealer, signing_key_lifetime=settings.signing_key_lifetime, clock=clock)
    await upkeep.turn_keys()
    process.background("upkeep", upkeep.run)
    signing = Signing(upkeep, settings.token_issuer, settings.token_audience, clock)
    sign_ins = SignIns(db, passwords, clock, lifetime=settings.session_lifetime)
    bounds = Bounds(
        keys_per_account=settings.keys_per_account,
        organizations_per_tenant=settings.organizations_per_tenant,
        members_per_organization=settings.members_per_organization,
        invitations_per_tenant=settings.invitations_per_tenant,
    )
    serving = services(
        db,
        passwords,
        sign_ins,
        signing,
        clock,
        sealer,
        bounds=bounds,
        mailing=_mailing(process, db, sealer, settings),
        oauth=_oauth(process, db, sealer, sign_ins, settings),
    )
    for service in serving:
        process.serve(*service)


def _oauth(
    process: Process, db: Database, sealer: Sealer, sign_ins: SignIns, settings: AuthSettings
) -> OAuthSignIns:
    registry = Registry.load(
        settings.oauth_file, public_url=settings.public_url, sandbox=settings.oauth_sandbox
    )
    http = open_http()
    process.closers.append(http.close)
    clock = SystemClock()
    return OAuthSignIns(db, registry, Exchange(http, clock), sign_ins, sealer, clock)


def _mailing(process: Process, db: Database, sealer: Sealer, settings: AuthSettings) -> Mailing:
    """Where mails are asked for. The postman runs where there is anything to send them with."""
    carrier = _carrier(settings)
    told = asyncio.Event()
    if carrier is not None:
        recipients = Recipients(sealer, public_url=settings.public_url)
        clock = SystemClock()
        postman = Postman(db, carrier, recipients, clock, sender=settings.mail_sender, told=told)
        process.background("postman", postman.run)
    return Mailing(
        offered=carrier is not None,
        per_address=settings.mails_per_address,
        per_account=settings.mails_per_account,
        most_waiting=settings.mails_waiting,
        wake=told.set,
    )


def _carrier(settings: AuthSettings) -> Carrier | None:
    if settings.mail_server is not None:
        return Smtp(settings.mail_server)
    return None if settings.mail_folder is None else Spool(settings.mail_folder)


def _administrator(settings: AuthSettings) -> Administrator:
    key = settings.operator_api_key
    return Administrator(
        email=settings.admin_email,
        username=settings.admin_username,
        password=settings.admin_password.get_secret_value(),
        api_key=None if key is None else key.get_secret_value(),
    )


if __name__ == "__main__":
    run(main(AuthSettings.load()))
