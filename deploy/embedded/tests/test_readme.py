"""Every variable of `make up` is read, handed on by the Makefile, and described to people."""

import re
from pathlib import Path

EMBEDDED = Path(__file__).parents[1]
ROOT = EMBEDDED.parents[1]


def test_the_variables_are_the_same_everywhere() -> None:
    options = (EMBEDDED / "vlinders_embedded" / "options.py").read_text()
    read = {*re.findall(r'given(?:\.get\(|, |\[)"([A-Z_]+)"', options), "DETACH"}
    exports = re.findall(r"^export (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    handed_on = {name for line in exports for name in re.findall(r"\b[A-Z_]{3,}\b", line)}

    assert handed_on == read
    described = (EMBEDDED / "README.md").read_text()
    assert not [name for name in sorted(read) if f"`{name}`" not in described]
