"""The upstream for a deployment that runs elsewhere, by its kind."""

from collections.abc import Callable

from servery.config.types import DeploymentConfig, Kind
from servery.http.client import HttpClient
from servery.upstream.openai.preset import PRESETS
from servery.upstream.provider import Provider
from servery.upstream.providers.anthropic import AnthropicProvider
from servery.upstream.providers.bedrock import BedrockProvider, address
from servery.upstream.providers.openai import OpenAIProvider
from servery.upstream.remote import RemoteUpstream


def remote_upstream(config: DeploymentConfig, client: Callable[[], HttpClient]) -> RemoteUpstream:
    """What speaks to the deployment, with the HTTP client that `client` gives where the event loop runs.

    Raises `BadUrl` for an address that is none, `ValueError` for a kind that runs here.
    """
    url, provider = _spoken(config)
    return RemoteUpstream(config, url, provider, client)


def _spoken(config: DeploymentConfig) -> tuple[str, Provider]:
    if config.kind in PRESETS:
        return config.url or "", OpenAIProvider(config)
    if config.kind is Kind.ANTHROPIC:
        return config.url or "", AnthropicProvider(config)
    if config.kind is Kind.BEDROCK:
        return address(config), BedrockProvider(config)
    raise ValueError(f"a deployment of kind {config.kind.value} does not run elsewhere")
