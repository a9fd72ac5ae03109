"""The databases of a stack: one a service, with an owner of its own and closed to the others."""

from collections.abc import Mapping

import psycopg
from psycopg.sql import SQL, Identifier, Literal


def ensure(url: str, passwords: Mapping[str, str]) -> None:
    """Sees to it that each database exists, that only the role of its name can open it, and that
    this role has the given password. `url` is the superuser's."""
    with psycopg.connect(url, autocommit=True) as connection:
        roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
        databases = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for name, password in passwords.items():
            verb = "ALTER" if name in roles else "CREATE"
            role = SQL("{} ROLE {} LOGIN PASSWORD {}")
            connection.execute(role.format(SQL(verb), Identifier(name), Literal(password)))
            if name not in databases:
                create = SQL("CREATE DATABASE {} OWNER {}")
                connection.execute(create.format(Identifier(name), Identifier(name)))
            close = SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC")
            connection.execute(close.format(Identifier(name)))
