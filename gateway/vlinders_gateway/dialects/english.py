"""What is wrong with a field, in English: where the rule's own words are not for people."""

from collections.abc import Mapping
from typing import Any

from vlinders_kit.errors import Violation

REQUIRED = "is required"

WORDS: Mapping[str, str] = {
    "avatar_url string.pattern": "must be an absolute http or https URL",
    "username string.pattern": "may have letters, digits, dots, hyphens and underscores",
    "string.pattern": "does not have the form that it must have",
    "string.email_empty": REQUIRED,
    "enum.not_in": REQUIRED,
}
"""Rule, with the name of its field before it or alone → what is said of a field that breaks it."""


def english(broken: Violation, limits: Mapping[str, Any]) -> str:
    """What is wrong with a field; `limits` are what its rules allow, as JSON schema names them."""
    if broken.rule == "string.min_len" and limits.get("minLength") == 1:
        return REQUIRED
    if broken.rule == "repeated.min_items" and limits.get("minItems") == 1:
        return REQUIRED
    return WORDS.get(f"{broken.field} {broken.rule}") or WORDS.get(broken.rule) or broken.message
