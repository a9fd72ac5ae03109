"""`VAR/access.json`: how to get in, and which process is where."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlinders_embedded.files import write_private
from vlinders_embedded.parts import Stack
from vlinders_embedded.supervisor import Part


def file_of(var: Path) -> Path:
    return var / "access.json"


def write(stack: Stack, running: Iterable[tuple[Part, int]]) -> None:
    """Says how to get in and, of each process of each part, its pid and its addresses."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for part, pid in running:
        parts.setdefault(part.name, []).append({"pid": pid, **part.addresses})
    told = {
        "url": stack.url,
        "admin_email": stack.options.admin_email,
        "admin_password": stack.secrets.admin_password,
        "api_key": stack.secrets.api_key,
        "parts": parts,
    }
    write_private(file_of(stack.options.var), json.dumps(told, indent=2) + "\n")


def welcome(stack: Stack, model: str) -> str:
    """What is printed when everything is ready."""
    secrets, options = stack.secrets, stack.options
    body = json.dumps(
        {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    )
    return f"""
  address        {stack.url}
  documentation  {stack.url}/docs
  administrator  {options.admin_email}
  password       {secrets.admin_password}
  API key        {secrets.api_key}
                 (all of it in {file_of(options.var)}, logs in {options.var / "logs"})

  curl -N {stack.url}/v1/chat/completions \\
    -H 'Authorization: Bearer {secrets.api_key}' \\
    -H 'Content-Type: application/json' \\
    -d '{body}'
"""
