"""The names in traces: OpenTelemetry's semantic conventions at one version, and ours, which begin with `servery.`.

The GenAI conventions are in development and change between versions. These are those of `SOURCE`, the last version before
they moved to a repository of their own; a newer one is taken up here, on purpose, and nowhere else.
"""

from collections.abc import Mapping

VERSION = "1.41.1"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{VERSION}"
SOURCE = f"https://github.com/open-telemetry/semantic-conventions/blob/v{VERSION}/docs/gen-ai/gen-ai-spans.md"

# Spans. The request's is called "METHOD /route", that of a batch's request "batch /route", an attempt's "{gen_ai.operation.name} {gen_ai.request.model}".
ADMISSION = "admission"
QUEUE = "queue"
PREFILL = "prefill"
DECODE = "decode"

HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_CHOICES = "gen_ai.request.choice.count"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"

REQUEST_ID = "servery.request_id"
BATCH_ID = "servery.batch_id"
OUTCOME = "servery.outcome"
TASK = "servery.task"
CACHE = "servery.cache"
WAITED = "servery.waited_s"
COST = "servery.cost_usd"
SLO_MET = "servery.slo_met"
ATTEMPTS = "servery.attempts"
DEPLOYMENT = "servery.deployment"
TIER = "servery.tier"
CHOSEN_BECAUSE = "servery.chosen_because"
RESULT = "servery.result"
HEDGE = "servery.hedge"

# Operations by `Api`'s values. The conventions have none for a ranking.
OPERATIONS: Mapping[str, str] = {
    "chat": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "generate": "text_completion",
    "embeddings": "embeddings",
    "rerank": "rerank",
}
# Providers by a deployment's kind, where the conventions know one; the others are called as their kind.
PROVIDERS: Mapping[str, str] = {"bedrock": "aws.bedrock", "embedded": "servery"}

_USED = {RESPONSE_MODEL, INPUT_TOKENS, OUTPUT_TOKENS, CACHED_TOKENS, REASONING_TOKENS, TIME_TO_FIRST_CHUNK, ERROR_TYPE}
_ASKED = {
    *(OPERATION, REQUEST_MODEL, REQUEST_STREAM),
    *(REQUEST_MAX_TOKENS, REQUEST_TEMPERATURE, REQUEST_SEED, REQUEST_CHOICES),
}
# What each span may say, by its part of the tree.
ATTRIBUTES: Mapping[str, frozenset[str]] = {
    "request": frozenset(
        {
            *(
                HTTP_METHOD,
                HTTP_ROUTE,
                HTTP_STATUS,
                REQUEST_ID,
                BATCH_ID,
                OUTCOME,
                TASK,
                CACHE,
                WAITED,
                COST,
                SLO_MET,
                ATTEMPTS,
            ),
            *(RESPONSE_ID, FINISH_REASONS, INPUT_MESSAGES, OUTPUT_MESSAGES),
            *_ASKED,
            *_USED,
        }
    ),
    "attempt": frozenset(
        {
            *(PROVIDER, SERVER_ADDRESS, SERVER_PORT, DEPLOYMENT, TIER, CHOSEN_BECAUSE, RESULT, HEDGE),
            *_ASKED,
            *_USED,
        }
    ),
    ADMISSION: frozenset(),
    QUEUE: frozenset(),
    PREFILL: frozenset({INPUT_TOKENS, CACHED_TOKENS}),
    DECODE: frozenset({OUTPUT_TOKENS}),
}
