"""Which engines a host has: the YAML file that lists them."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
Counts = Literal["timings", "continuous_usage", "deltas"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class _Slot(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What every engine is told."""

    id: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._-]{1,64}$")]
    """Name of the slot: unique on this host and stable."""

    model: Name
    """Name of the model, as the catalogue's `worker_model` has it."""

    parallel: PositiveInt = 4
    """Requests that the engine runs at once."""

    context_length: PositiveInt = 4096
    """Tokens of prompt and answer together, for each request."""

    embeddings: bool = False
    """It makes embeddings, not chats."""

    hang_seconds: PositiveInt = 10
    """In the middle of answers it may send nothing on any of them for so long; then it hangs."""

    first_seconds: PositiveInt = 120
    """The same before it has begun any of them: a long prompt takes its time."""

    served_name: str | None = None
    """What the engine itself calls the model, where that differs from what clients say."""


class LlamaCpp(_Slot, frozen=True, kw_only=True, tag="llama.cpp", tag_field="engine"):
    """llama.cpp in a child process of ours, through the `xllamacpp` package."""

    gguf: Name
    """Path of a GGUF file; or `built-in:vlinders-tiny`, `built-in:vlinders-tiny-embedding`."""

    threads: PositiveInt = 1
    """CPU threads that compute."""

    gpu_layers: int = -1
    """Layers of the model that go to the GPU; -1 is all, where the package was built for a GPU."""

    batch: PositiveInt = 512
    """Tokens of prompts that are computed at once; embeddings need it as large as an input."""

    context_total: PositiveInt | None = None
    """Tokens of all requests together, shared as needed; else parallel × context_length."""


class Command(_Slot, frozen=True, kw_only=True, tag="command", tag_field="engine"):
    """Any program that serves OpenAI's shape on a port: vLLM, SGLang, a script."""

    command: Annotated[list[str], msgspec.Meta(min_length=1)]
    """The program and its arguments; `{port}` is where it must listen, on 127.0.0.1."""

    environment: dict[str, str] = msgspec.field(default_factory=dict)
    """Variables beside the agent's own."""

    base_path: str = "/v1"
    """What stands before `/chat/completions`."""

    ready_path: str = "/health"
    """Answers 200 when the engine can be used."""

    start_seconds: PositiveInt = 900
    """How long it may take to load."""

    counts: Counts = "deltas"
    """How its tokens are counted: `continuous_usage` (vLLM), `timings` (llama-server), `deltas`."""


class External(_Slot, frozen=True, kw_only=True, tag="external", tag_field="engine"):
    """A server that runs elsewhere and is not ours to start."""

    url: Name
    """Base URL of its API, with `/v1`."""

    api_key_env: str | None = None
    """Name of the variable that holds its API key."""

    probe_path: str = "/models"
    """Answers 200 when the server can be used; below `url`."""

    counts: Counts = "deltas"
    """As for `command`."""


Configuration = LlamaCpp | Command | External


class _File(msgspec.Struct, forbid_unknown_fields=True):
    engines: list[Configuration]


def load(path: Path) -> list[Configuration]:
    """The engines in `path`, or an exit that says what is wrong with the file."""
    try:
        read: Any = yaml.safe_load(path.read_text())
        engines = msgspec.convert(read, _File).engines
    except OSError as error:
        sys.exit(f"{path}: cannot be read: {error.strerror}")
    except yaml.YAMLError as error:
        sys.exit(f"{path}: is not YAML: {error}")
    except msgspec.ValidationError as error:
        sys.exit(f"{path}: {error}")
    names = [engine.id for engine in engines]
    if len({*names}) < len(names):
        sys.exit(f"{path}: two engines have the same id")
    return engines
