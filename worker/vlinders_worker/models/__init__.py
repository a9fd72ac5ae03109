"""Models: GGUF files by path, and those that the worker writes with its own code on first start."""

import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = 1
"""Of the built-in models: raise it with each change of what they are, and new files are written."""

SCHEME = "built-in:"
BUILT_IN = {
    "vlinders-tiny": "vlinders_worker.models.chat",
    "vlinders-tiny-embedding": "vlinders_worker.models.embedding",
}
"""Name of each and the module that writes it."""


def find(name: str, models_dir: Path) -> Path:
    """The file of `built-in:NAME`, written if it is not there yet, or of a path as it stands.

    Raises FileNotFoundError.
    """
    if not name.startswith(SCHEME):
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there is no GGUF file {path}")
        return path
    model = name.removeprefix(SCHEME)
    if model not in BUILT_IN:
        raise FileNotFoundError(f"there is no built-in model {model}; known: {', '.join(BUILT_IN)}")
    path = models_dir / f"{model}-{VERSION}.gguf"
    if not path.exists():
        models_dir.mkdir(parents=True, exist_ok=True)
        _write(BUILT_IN[model], path)
    return path


def _write(module: str, path: Path) -> None:
    """Aside and then renamed, so that a file of this name is always whole.

    A process of its own does it: what that takes does not stay in the agent's memory.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        draft = Path(aside) / path.name
        subprocess.run([sys.executable, "-m", module, str(draft)], check=True)
        draft.replace(path)
