"""Keys and certificates of nodes."""

from __future__ import annotations

import os
import secrets
import ssl
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.files import cannot_write
from clisonix.tide.net.settings import Tls, name_checked


def make_key(folder: Path, site: str) -> Path:
    """A new secret of 32 random bytes in `folder/SITE.key`, that only its owner can read.

    Raises:
        ClisonixError: there is one already, or the folder cannot be written.
    """
    path = folder / f"{name_checked(site)}.key"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    except FileExistsError:
        raise ClisonixError(f"{path} is there already: remove it first, if no site uses it any more") from None
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def read_key(path: Path) -> bytes:
    """The 32 bytes in a key file.

    Raises:
        ClisonixError: it is missing, holds something else, or others than its owner can read it.
    """
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ClisonixError(f"the key {path} can be read by others: run chmod 600 {path}")
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise ClisonixError(f"the key {path} cannot be read ({error.strerror}): make one with tide keys") from error
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ClisonixError(f"the key {path} does not hold 64 hexadecimal digits: make one with tide keys")
    return key


def read_keys(folder: Path) -> dict[str, bytes]:
    """The secrets of all sites in a folder, by name.

    Raises:
        ClisonixError: there is none, or one is unfit.
    """
    keys = {name_checked(path.stem): read_key(path) for path in sorted(folder.glob("*.key"))}
    if not keys:
        raise ClisonixError(f"there is no key in {folder}: make one for each site with tide keys")
    return keys


def tls_context(tls: Tls, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 in which both sides must show a certificate.

    Raises:
        ClisonixError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    for path in (tls.ca, tls.certificate, tls.key):
        if not path.is_file():
            raise ClisonixError(f"{path}, which tls names, is missing: see docs/tide.md on how to make it")
    try:
        context.load_verify_locations(tls.ca)
        context.load_cert_chain(tls.certificate, tls.key)
    except (ssl.SSLError, OSError) as error:
        raise ClisonixError(
            f"the certificate {tls.certificate} cannot be used ({error}): see docs/tide.md"
        ) from error
    return context


def certified_names(connection: ssl.SSLObject | ssl.SSLSocket) -> set[str]:
    """The DNS names in the certificate that the peer has shown."""
    shown = connection.getpeercert() or {}
    pairs: tuple[tuple[str, str], ...] = shown.get("subjectAltName", ())  # type: ignore[assignment]
    return {value for kind, value in pairs if kind == "DNS"}
