"""Where an OpenAI-compatible server listens, read from the address that a user types."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from servery.bench.errors import BadAddress


@dataclass(frozen=True, slots=True)
class Address:
    """One server: `api` is the path under which `/chat/completions` lies, `root` the path of `/metrics`.

    `http://host:8000` means the API under `/v1`; an address with a path is taken as it is, like the `base_url`
    of OpenAI's clients, so that `https://host/openai/v1` and `https://host/v1beta/openai` both work.
    """

    scheme: str
    host: str
    port: int
    api: str
    root: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises `BadAddress` with what was given and an example."""
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            port = parts.port
        except ValueError as error:
            raise BadAddress(
                f"{text!r} is not an address ({error}); write one such as http://127.0.0.1:8000."
            ) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise BadAddress(f"{text!r} is not an address; write one such as http://127.0.0.1:8000.")
        path = parts.path.rstrip("/")
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or (443 if parts.scheme == "https" else 80),
            api=path or "/v1",
            root=path.removesuffix("/v1"),
        )

    @property
    def is_tls(self) -> bool:
        """Whether the bytes are encrypted."""
        return self.scheme == "https"

    @property
    def is_loopback(self) -> bool:
        """Whether the server runs on this machine, as far as its address tells."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def authority(self) -> str:
        """`host:port` as in a Host header; the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{'' if self.api == '/v1' else self.api}"
