"""The certificate of a server that talks TLS; tried before a model is loaded."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from mpispec.serve.errors import ServeError


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM form."""

    certificate: Path
    """The server's own certificate first, then those that signed it."""
    key: Path
    """Its private key, not encrypted."""


def find_tls(certificate: Path | None, key: Path | None) -> Tls | None:
    """Return the files of a server that is to talk TLS, None for one that is not. Raises ServeError."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ServeError("TLS takes a certificate and its private key; give --tls-cert and --tls-key.")
    for option, file in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            file.read_bytes()
        except OSError as error:
            raise ServeError(f"{option} {file} cannot be read ({error.strerror}); name a file in PEM form.") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _refuse_to_ask)
    except _Encrypted:
        raise ServeError(
            f"--tls-key {key} is encrypted; write it without a password, for instance by openssl pkey -in {key} -out "
            "plain.pem, and let nobody else read it."
        ) from None
    except ssl.SSLError as error:
        raise ServeError(
            f"--tls-cert {certificate} and --tls-key {key} do not make a certificate and its private key in PEM form "
            f"({error.reason or error}); name the two files that belong together."
        ) from None
    return Tls(certificate, key)


class _Encrypted(Exception):
    """A password would be needed."""


def _refuse_to_ask() -> str:
    """Raise instead of asking for a password at the terminal, which is the chat's."""
    raise _Encrypted
