"""TLS between parts: each shows a certificate that names it, and takes none but its authority's.

Optional. A certificate is for the name of a part, as `vlinders.auth` in its subject alternative
names: who holds the one of a worker cannot answer for auth, wherever it runs.
"""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509


@dataclass(frozen=True)
class Tls:
    """What a part shows and what it trusts, in PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes

    @classmethod
    def load(cls, certificate: Path, key: Path, authority: Path) -> "Tls":
        return cls(certificate.read_bytes(), key.read_bytes(), authority.read_bytes())

    @property
    def expires_at(self) -> datetime:
        """When the certificate ends."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def for_server(self) -> grpc.ServerCredentials:
        """Refuses whoever shows no certificate of the authority."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.authority,
            require_client_auth=True,
        )

    def for_listener(self) -> ssl.SSLContext:
        """As `for_server`, for what listens by itself."""
        context = self._context(ssl.Purpose.CLIENT_AUTH)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def for_client(self, audience: str) -> dict[str, Any]:
        """What `create_connection` is told to reach nobody but `audience`."""
        return {"ssl": self._context(ssl.Purpose.SERVER_AUTH), "server_hostname": audience}

    def _context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        context = ssl.create_default_context(purpose, cadata=self.authority.decode())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        # OpenSSL reads files alone; this one is in memory.
        with open(os.memfd_create("certificate"), "wb") as file:
            file.write(self.certificate + b"\n" + self.key)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context


def open_channel(
    target: str,
    audience: str,
    tls: Tls | None,
    *,
    options: Sequence[tuple[str, int | str]],
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> grpc.aio.Channel:
    """A channel to `target`; with `tls`, encrypted, and to nobody but `audience`."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    shown = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
    options = (*options, ("grpc.ssl_target_name_override", audience))
    return grpc.aio.secure_channel(target, shown, options=options, interceptors=interceptors)
