"""Carriers: what takes a mail further, a mail server or a folder."""

import asyncio
import os
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Literal, Protocol

import aiosmtplib
from aiosmtplib import (
    SMTPDataError,
    SMTPException,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
)

DEADLINE_SECONDS = 30.0
"""For one mail, from the connection to the server's word."""

STEP_SECONDS = 10.0
"""For one step of the conversation."""

Encryption = Literal["starttls", "tls", "none"]


class CarrierAway(Exception):
    """No mail can be handed over at the moment, whichever."""


class Deferred(Exception):
    """This mail is not taken at the moment."""


class Refused(Exception):
    """This mail will never be taken."""


class Carrier(Protocol):
    async def carry(self, message: EmailMessage) -> None:
        """Hands the message over; raises CarrierAway, Deferred and Refused."""
        ...


@dataclass(frozen=True)
class Server:
    """A mail server that speaks SMTP, and how it is spoken to."""

    host: str
    port: int
    encryption: Encryption
    authority: Path | None = None
    """PEM file of the authority whose certificate it shows; without, one that is known to all."""

    username: str | None = None
    password: str | None = None


class Smtp:
    """Hands mails to a server, each on a connection of its own. It is never spoken to in clear
    where encryption is wanted, whatever it offers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._trust = ssl.create_default_context(cafile=server.authority)

    async def carry(self, message: EmailMessage) -> None:
        server = self._server
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            use_tls=server.encryption == "tls",
            start_tls=server.encryption == "starttls",
            tls_context=None if server.encryption == "none" else self._trust,
            username=server.username,
            password=server.password,
            timeout=STEP_SECONDS,
        )
        taken = False
        try:
            async with asyncio.timeout(DEADLINE_SECONDS), client:
                await client.send_message(message)
                taken = True
        except SMTPRecipientsRefused as error:
            _refused(error.recipients[0])
        except SMTPDataError as error:
            _refused(error)
        except (SMTPException, OSError) as error:
            if not taken:  # else it is the farewell that failed
                raise CarrierAway(type(error).__name__) from None


class Spool:
    """Writes mails into a folder, a file each, for somebody to fetch or read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def carry(self, message: EmailMessage) -> None:
        try:
            await asyncio.to_thread(self._write, message)
        except OSError as error:
            raise CarrierAway(type(error).__name__) from None

    def _write(self, message: EmailMessage) -> None:
        """Whole or not at all; what is written again takes the place of the first."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = message["Message-Id"].strip("<>").partition("@")[0]
        half = self._folder / f".{name}"
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(message.as_bytes())
            file.flush()
            os.fsync(file.fileno())
        half.rename(self._folder / f"{name}.eml")


def _refused(error: SMTPRecipientRefused | SMTPResponseException) -> None:
    """Raises what a server's word on one mail means: 5xx is its last (RFC 5321 4.2.1)."""
    raise (Refused if error.code >= 500 else Deferred)(str(error.code)) from None
