"""The pages that links in mails lead to: a form each, one script, and no other host.

The token of a link is in the fragment of its address, which no browser sends anywhere: the script
takes it out of there, and says it to the canonical API and to nobody else.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from vlinders_gateway.operations import named
from vlinders_gateway.rules import limits_of


@dataclass(frozen=True)
class Page:
    """One of them. Its inputs are the fields of the operation, but for the token."""

    path: str
    operation: str
    title: str
    intro: str
    button: str
    done: str


PAGES = (
    Page(
        "/account/verify-email",
        "VerifyEmail",
        "Verify your e-mail",
        "Press the button to confirm that this address is yours.",
        "Verify the e-mail",
        "Thank you: your e-mail is verified.",
    ),
    Page(
        "/account/reset-password",
        "ResetPassword",
        "Set a new password",
        "Everybody who is signed in with the old one will be signed out.",
        "Set the password",
        "Your password is set. You can sign in with it.",
    ),
    Page(
        "/account/accept-invitation",
        "AcceptInvitation",
        "Accept the invitation",
        "This makes an account for you where you are invited to.",
        "Make the account",
        "Your account is made. You can sign in with your e-mail and password.",
    ),
)

_LABELS = {
    "full_name": "Your name",
    "password": "Password",
    "new_password": "New password",
}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 15vh auto 2rem; max-width: 24rem;
  padding: 0 1rem; color: #1c2024; background: #fff }
label { display: block; margin: 1rem 0 }
input { box-sizing: border-box; display: block; font: inherit; margin-top: .25rem; padding: .5rem;
  width: 100%; border: 1px solid #8b8d98; border-radius: 6px; color: inherit; background: inherit }
button { font: inherit; padding: .6rem 1.2rem; border: 0; border-radius: 6px; cursor: pointer;
  color: #fff; background: #1c2024 }
button:disabled { opacity: .5 }
[hidden] { display: none }
@media (prefers-color-scheme: dark) {
  body { color: #edeef0; background: #18191b } button { color: #1c2024; background: #edeef0 }
}
"""

_SCRIPT = """
"use strict";
const form = document.querySelector("form");
const told = document.querySelector("output");
const button = document.querySelector("button");
const token = new URLSearchParams(location.hash.slice(1)).get("token");
history.replaceState(null, "", location.pathname);
const tell = (text) => { told.textContent = text; };
if (!token) {
  form.hidden = true;
  tell("The link is not whole. Please open the one in your mail again.");
}
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  tell("");
  try {
    const answer = await fetch(form.dataset.at, {
      method: "POST",
      credentials: "omit",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...Object.fromEntries(new FormData(form)), token }),
    });
    if (answer.ok) {
      form.hidden = true;
      tell(form.dataset.done);
      return;
    }
    const { error } = await answer.json();
    tell((error.details ?? [error]).map((each) => each.message).join(" "));
  } catch {
    tell("There was no answer. Please try again.");
  }
  button.disabled = false;
});
"""


def add_to(app: FastAPI) -> None:
    """Adds the pages. They say nothing of anybody, so no limit counts them."""
    for page in PAGES:
        app.add_route(page.path, _always(_written(page)), ["GET"], include_in_schema=False)


def _written(page: Page) -> str:
    operation = named(page.operation)
    inputs = "".join(
        _input(field) for field in operation.descriptor.input_type.fields if field.name != "token"
    )
    at = operation.place.removeprefix("POST ")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(page.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{escape(page.title)}</h1>"
        f'<form method="post" data-at="{escape(at)}" data-done="{escape(page.done)}">'
        f"<p>{escape(page.intro)}</p>{inputs}<button>{escape(page.button)}</button></form>"
        '<p><output role="status"></output></p><noscript>This page needs JavaScript.</noscript>'
        f"<script>{_SCRIPT}</script></html>"
    )


def _input(field: Any) -> str:
    """What asks for a field, within the limits of the contract."""
    rules = limits_of(field)
    secret = field.GetOptions().debug_redact
    kind = 'type="password" autocomplete="new-password"' if secret else 'autocomplete="name"'
    return (
        f'<label>{_LABELS[field.name]}<input name="{field.name}" {kind} required '
        f'minlength="{rules["minLength"]}" maxlength="{rules["maxLength"]}"></label>'
    )


def _always(page: str) -> Callable[[Request], Any]:
    """The handler of a page. What is not written in it does not run and is not loaded."""
    headers = {
        "Content-Security-Policy": (
            f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }

    async def tell(request: Request) -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    return tell


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
