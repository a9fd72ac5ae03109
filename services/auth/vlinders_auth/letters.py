"""Letters: what the mails say, as text and as the same in simple HTML."""

import re
from dataclasses import dataclass
from datetime import datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from html import escape

from vlinders_auth.links import Purpose

_POLICY = policy.SMTP.clone(max_line_length=998)
"""Lines as long as SMTP allows, so that a link stays in one."""

_PAGE = """\
<!doctype html><html lang="en"><meta charset="utf-8"><title>{subject}</title>
<body style="font: 16px/1.5 sans-serif; color: #1c2024; max-width: 36rem; margin: 2rem auto">
<p>{why}</p>
<p><a href="{url}" style="display: inline-block; padding: .6rem 1.2rem; border-radius: 6px;
 background: #1c2024; color: #fff; text-decoration: none">{button}</a></p>
<p style="color: #60646c">{until}<br>{otherwise}</p>
</body></html>
"""


@dataclass(frozen=True)
class Letter:
    """One mail, before it is written."""

    id: str
    """Of the mail: each time that it is sent, its Message-Id is the same, so that a server that got
    it twice can tell."""

    to: str
    purpose: Purpose
    url: str
    expires_at: datetime
    tenant: str = ""
    inviter: str = ""
    """Of an invitation: where to, and by whom."""


def write(letter: Letter, *, sender: str, now: datetime) -> EmailMessage:
    """The message, from `sender` (`Name <address>` or an address)."""
    subject, why, button, otherwise = _said(letter)
    until = f"The link works once, until {letter.expires_at:%d %B %Y, %H:%M} UTC."
    message = EmailMessage(_POLICY)
    message["From"] = sender
    message["To"] = letter.to
    message["Subject"] = subject
    message["Date"] = format_datetime(now)
    message["Message-Id"] = f"<{letter.id}@{parseaddr(sender)[1].rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence is to be answered
    message.set_content(f"{why}\n\n{letter.url}\n\n{until}\n{otherwise}\n")
    told = {"subject": subject, "why": why, "button": button, "otherwise": otherwise}
    told |= {"url": letter.url, "until": until}
    page = _PAGE.format(**{name: escape(text) for name, text in told.items()})
    message.add_alternative(page, subtype="html")
    return message


def _said(letter: Letter) -> tuple[str, str, str, str]:
    """Subject, why it comes, what the button says, and what to do if one did not expect it."""
    if letter.purpose is Purpose.VERIFY_EMAIL:
        return (
            "Verify your e-mail",
            "Please confirm that this address is yours.",
            "Verify the e-mail",
            "If you did not ask for this, there is nothing to do.",
        )
    if letter.purpose is Purpose.RESET_PASSWORD:
        return (
            "Set a new password",
            "Somebody, hopefully you, asked to set a new password for your account.",
            "Set a new password",
            "If it was not you, there is nothing to do: your password stays as it is.",
        )
    return (
        f"You are invited to join {_name(letter.tenant)}",
        f"{_name(letter.inviter)} invites you to join {_name(letter.tenant)}.",
        "Accept the invitation",
        "If you do not know them, there is nothing to do.",
    )


def _name(text: str) -> str:
    """A name without what mail readers make links of: it is somebody's, who may want to be read by
    strangers, in our name."""
    return " ".join(re.sub(r"[^\w\s&'()+,-]", "", text).split()) or "somebody"
