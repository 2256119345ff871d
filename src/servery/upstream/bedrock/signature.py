"""Requests signed as AWS wants it (Signature Version 4), with whatever credentials botocore finds."""

import asyncio
from collections.abc import Sequence
from typing import Any

from servery.upstream.failure import Kind, UpstreamFailure

_SERVICE = "bedrock"
_ADVICE = (
    "set api_key to a Bedrock API key, or give credentials as AWS's own tools take them (AWS_ACCESS_KEY_ID, a profile, "
    "the role of the machine)"
)


class Signer:
    """Signs for Bedrock in `region`; botocore, which finds, refreshes and applies credentials, is loaded at the first use."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._credentials: Any = None

    async def headers(self, method: str, url: str, body: bytes) -> Sequence[tuple[str, str]]:
        """The headers that sign a request; raises `UpstreamFailure` where there are no credentials.

        To find and to refresh them may take files, processes and the network, so that happens in a thread.
        """
        if self._credentials is None:
            self._credentials = await asyncio.to_thread(_find_credentials)
        frozen = await asyncio.to_thread(_frozen, self._credentials)
        return self._signed(frozen, method, url, body)

    def _signed(self, frozen: Any, method: str, url: str, body: bytes) -> Sequence[tuple[str, str]]:
        from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
        from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]

        request = AWSRequest(method=method, url=url, data=body)
        SigV4Auth(frozen, _SERVICE, self._region).add_auth(request)
        return [(name.lower(), value) for name, value in request.headers.items()]


def _find_credentials() -> Any:
    try:
        from botocore.session import Session  # type: ignore[import-untyped]
    except ImportError as error:
        advice = "set api_key to a Bedrock API key, or pip install 'servery[bedrock]'"
        raise UpstreamFailure(Kind.REFUSED, f"Bedrock needs credentials: {advice}.") from error
    found = Session().get_credentials()
    if found is None:
        raise UpstreamFailure(Kind.REFUSED, f"Bedrock needs credentials, and none were found: {_ADVICE}.")
    return found


def _frozen(credentials: Any) -> Any:
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    try:
        return credentials.get_frozen_credentials()
    except BotoCoreError as error:
        raise UpstreamFailure(Kind.REFUSED, f"the credentials for Bedrock cannot be refreshed: {error}") from error
