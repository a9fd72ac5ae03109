"""A database for each test: a copy of a template that is migrated once a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from vlinders_kit.migrations import migrate


def named(package: str) -> Any:
    """The fixture that says whose database `db` is: `package = named("vlinders_billing")`."""

    @pytest.fixture(scope="session", name="package")
    def of_service() -> str:
        return package

    return of_service


class Cluster:
    """The PostgreSQL server that all tests of a run share, by its superuser's URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._admin = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._admin.close()

    @contextmanager
    def database(self, package: str | None = None) -> Iterator[str]:
        """The URL of a database for this block, migrated for `package`; an empty one without."""
        name = f"test_{uuid4().hex}"
        template = "template0" if package is None else self._template(package)
        self._run("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, template)
        try:
            yield self._url(name)
        finally:
            self._run("DROP DATABASE {} WITH (FORCE)", name)

    def _template(self, package: str) -> str:
        """The migrated template of `package`: the first that asks, of all processes, makes it."""
        name = f"template_{package}"
        self._admin.execute("SELECT pg_advisory_lock(hashtext(%s))", (name,))
        try:
            made = "SELECT 1 FROM pg_database WHERE datname = %s AND datistemplate"
            if self._admin.execute(made, (name,)).fetchone() is None:
                self._run("DROP DATABASE IF EXISTS {}", name)
                self._run("CREATE DATABASE {}", name)
                migrate(self._url(name), package)
                self._run("ALTER DATABASE {} IS_TEMPLATE true", name)
        finally:
            self._admin.execute("SELECT pg_advisory_unlock(hashtext(%s))", (name,))
        return name

    def _run(self, statement: str, *names: str) -> None:
        self._admin.execute(SQL(statement).format(*map(Identifier, names)))

    def _url(self, database: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))
