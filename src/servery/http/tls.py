"""TLS to an origin: verified against the system's authorities and the host's name, always."""

import ssl
from collections.abc import Callable

from servery.http.errors import BadUrl
from servery.http.url import TlsFiles


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """A context that trusts the system's authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` move them) and `files.ca`.

    Raises `BadUrl` for a file that is missing or holds no certificate or key.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if files.ca is not None:
        _load("authority's certificate", files.ca, lambda: context.load_verify_locations(files.ca))
    if files.certificate is not None:
        certificate = files.certificate
        # An empty password, so that a key with one fails instead of asking at the terminal.
        _load("client certificate", certificate, lambda: context.load_cert_chain(certificate, files.key, password=""))
    return context


def _load(what: str, path: str, load: Callable[[], None]) -> None:
    try:
        load()
    except OSError as error:  # ssl.SSLError is one
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise BadUrl(f"The {what} {path!r} cannot be used ({reason or error}); give a file in PEM format.") from error
