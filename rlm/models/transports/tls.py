"""The TLS context for an authority, built once per process."""

from __future__ import annotations

import os
import ssl
import threading
from functools import lru_cache

from rlm.errors import UsageError

_building = threading.Lock()


def tls_context(verify: ssl.SSLContext | str | None) -> ssl.SSLContext:
    """The TLS context for an authority file or directory, or for the system's (SSL_CERT_FILE and SSL_CERT_DIR count).

    Built once per process for each of them: it costs 17 ms. Raises `UsageError` where the file cannot be used.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    with _building:
        return _build(verify, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


def h2_context(verify: ssl.SSLContext | str | None) -> ssl.SSLContext:
    """As `tls_context`, offering HTTP/2 and nothing else; a caller's own context offers that from now on."""
    if isinstance(verify, ssl.SSLContext):
        context = verify
    else:
        with _building:
            # of its own, for httpx2 writes its own offer into the context that it is given
            context = _build(verify, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), "h2")
    context.set_alpn_protocols(["h2"])
    return context


@lru_cache(maxsize=1)
def no_tls_context() -> ssl.SSLContext:
    """A context that trusts nobody, for URLs that never use one: an HTTP library would build its own."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@lru_cache(maxsize=16)
def _build(path: str | None, cert_file: str | None, cert_dir: str | None, _: str = "") -> ssl.SSLContext:
    try:
        if path is not None:
            cert_file, cert_dir = (None, path) if os.path.isdir(path) else (path, None)
        if cert_file or cert_dir:  # both, as OpenSSL has it: httpx2 would pass over the directory
            return ssl.create_default_context(cafile=cert_file or None, capath=cert_dir or None)
        import httpx2

        return httpx2.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        source = f"verify={path}" if path is not None else f"SSL_CERT_FILE={cert_file or ''}"
        raise UsageError(f"{source} holds no usable certificates: {error}") from error
