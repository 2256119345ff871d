"""AWS's own client, kept from the network: what it would send, what it reads out of bytes."""

import base64
import copy
import io
import json
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.awsrequest import AWSResponse

REGION = "eu-west-1"


class _Raw(io.BytesIO):
    """A body as the client's HTTP library would hand it over."""

    def stream(self, amt: int = 1024, decode_content: bool | None = None) -> Any:
        while data := self.read(amt):
            yield data


class Aws:
    """A client of Bedrock's runtime; `sent` is (path, body, headers) of the last request that it made."""

    def __init__(self) -> None:
        session = botocore.session.Session()
        session.set_credentials("AKIDEXAMPLE", "wJalrXUtnFEMI", "token")
        self._client = session.create_client("bedrock-runtime", region_name=REGION)
        self._client.meta.events.register("before-send.bedrock-runtime", self._send)
        self.answer = b"{}"
        self.sent: tuple[str, dict[str, Any], dict[str, str]] = ("", {}, {})

    def converse(self, model: str, body: dict[str, Any], *, is_stream: bool = False) -> Any:
        """The official client's own call with what `body` has; it raises for what its service's model does not allow."""
        call = self._client.converse_stream if is_stream else self._client.converse
        return call(modelId=model, **_with_bytes(body))

    def _send(self, request: Any, **_: Any) -> AWSResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.sent = (urlsplit(request.url).path, json.loads(request.body), headers)
        kind = "application/vnd.amazon.eventstream" if request.url.endswith("-stream") else "application/json"
        return AWSResponse(request.url, 200, {"content-type": kind}, _Raw(self.answer))


def _with_bytes(body: dict[str, Any]) -> dict[str, Any]:
    """The body as a caller of the client writes it: images in bytes, which the client encodes."""
    body = copy.deepcopy(body)

    def walk(value: Any) -> None:
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(each)
        if isinstance(value, dict) and isinstance(value.get("bytes"), str):
            value["bytes"] = base64.b64decode(value["bytes"])

    walk(body)
    return body
