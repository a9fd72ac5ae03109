"""The configured catalogue: two YAML files, read strictly, with every problem told at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from vlinders_inference.prices import NotAPrice, nanos_per_token

OWN = "vlinders"
"""Owner of the models on own workers."""

WORKER = "worker"
"""Who served, in the records of what own workers did."""


class CatalogueInvalid(Exception):
    """The configured catalogue cannot be used; the message has a line for each problem."""


def _price(written: Any) -> int:
    try:
        return nanos_per_token(written)
    except NotAPrice as error:
        raise ValueError(str(error)) from None


def _base_url(written: str) -> str:
    parts = urlsplit(written)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have no user, password, query or fragment; keys go into api_key")
    return written.rstrip("/")


def _listed(written: Any) -> Any:
    return written if isinstance(written, list) else [written]


Nanos = Annotated[int, BeforeValidator(_price)]
"""Nanos per token, written in currency units."""

ModelId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^\S+$")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Traits(_Section):
    """What a model can do and costs; a model that several serve has the same for all."""

    context_length: Count
    """Tokens of prompt and answer together."""
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)]
    embeddings: bool = False
    function_calling: bool = False
    input_price: Nanos
    cached_input_price: Nanos | None = None
    """Of a token of the prompt that the engine had in its cache; without it, as any other."""
    output_price: Nanos = 0

    @model_validator(mode="after")
    def _answers(self) -> Self:
        if not self.embeddings and self.max_tokens == 0:
            raise ValueError("max_tokens must be 1 or more, or embeddings true")
        return self


class OwnModel(Traits):
    """A model on own workers."""

    worker_model: ModelId
    """The name under which workers report it."""
    owned_by: ModelId = OWN


class Offered(Traits):
    """A model as a provider serves it."""

    context_length: Count = 131_072
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] = 16_384
    upstream: ModelId | None = None
    """What the provider calls it; without it, the same."""
    priority: int | None = None
    """Instead of the provider's."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The only name that the provider knows for the bound of an answer."""


class Provider(_Section):
    """An upstream that speaks OpenAI's protocol, with one key, several or none."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
    base_url: Annotated[str, AfterValidator(_base_url)]
    api_key: Annotated[list[SecretStr], BeforeValidator(_listed)] = []
    api_key_env: Annotated[list[str], BeforeValidator(_listed)] = []
    """Variables of the environment that hold keys."""
    priority: int = 0
    """The smallest is tried first; those with the same take turns."""
    always_stream: bool = False
    """It is asked to stream what clients want whole, too: who leaves then pays what had come."""
    models: dict[ModelId, Offered]

    def keys(self, environment: Mapping[str, str]) -> list[SecretStr]:
        """All its keys. Raises KeyError for a variable that is not set."""
        return [*self.api_key, *(SecretStr(environment[name]) for name in self.api_key_env)]


class _Catalogue(_Section):
    models: dict[ModelId, OwnModel]


class _Providers(_Section):
    providers: list[Provider]


class Configured(BaseModel):
    """What the files say, and nothing in it contradicts itself."""

    models: dict[str, OwnModel] = {}
    providers: list[Provider] = []
    keys: dict[str, list[SecretStr]] = {}
    """Provider → its keys."""

    def traits(self) -> dict[str, Traits]:
        """Every model by its id."""
        found: dict[str, Traits] = {}
        for provider in self.providers:
            found.update(provider.models)
        return found | self.models

    def owner(self, id: str) -> str:
        """Whose model it is shown as: the first that has it."""
        if id in self.models:
            return self.models[id].owned_by
        return next(provider.name for provider in self.providers if id in provider.models)


def read(catalogue: Path | None, providers: Path | None, environ: Mapping[str, str]) -> Configured:
    """What the two files configure, with the keys that they name by variables of `environ`.

    Raises CatalogueInvalid, which names file and key of each problem and shows no value.
    """
    configured = Configured()
    if catalogue is not None:
        configured.models = _parsed(catalogue, _Catalogue).models
    if providers is None:
        return configured
    configured.providers = _parsed(providers, _Providers).providers
    problems = []
    for index, provider in enumerate(configured.providers):
        path = f"{providers}: providers[{index}]"
        if provider.name in (OWN, WORKER):
            problems.append(f"{path}.name: {provider.name} is taken; choose another")
        if provider.name in configured.keys:
            problems.append(f"{path}.name: {provider.name} is there twice; make one of the two")
        try:
            configured.keys[provider.name] = provider.keys(environ)
        except KeyError as missing:
            problems.append(f"{path}.api_key_env: set the variable {missing.args[0]}")
        problems.extend(_contradictions(path, provider, configured))
    if problems:
        raise CatalogueInvalid("\n".join(problems))
    return configured


_SHARED = tuple(Traits.model_fields)


def _contradictions(path: str, provider: Provider, configured: Configured) -> list[str]:
    """What others say differently of the provider's models: there is one price, and one bound."""
    problems: list[str] = []
    known = configured.traits()
    for id, offered in provider.models.items():
        other = known[id]
        problems.extend(
            f"{path}.models.{id}.{name}: differs from what else is said of {id}; write the same"
            for name in _SHARED
            if getattr(other, name) != getattr(offered, name)
        )
    return problems


S = TypeVar("S", bound=_Section)


def _parsed(file: Path, kind: type[S]) -> S:
    try:
        return kind.model_validate(yaml.load(file.read_text(), _Loader))
    except OSError as error:
        raise CatalogueInvalid(f"{file}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CatalogueInvalid(f"{file}:{line}: is no valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise CatalogueInvalid(f"{file}: is no valid YAML") from None
    except ValidationError as error:
        lines = [
            f"{file}: {_path(row['loc'])}: {_rule(row['type'], row['msg'])}"
            for row in error.errors(include_input=False, include_url=False)
        ]
        raise CatalogueInvalid("\n".join(lines)) from None


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return path or "file"


def _rule(type: str, message: str) -> str:
    if type == "extra_forbidden":
        return "is not known here; remove it, or correct its spelling"
    if type == "missing":
        return "is missing; add it"
    return message.removeprefix("Value error, ")


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error, and not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)
