"""A row to begin with, for tests."""

from servery.telemetry.ledger.row import LedgerRow

ROW = LedgerRow(
    id="a", request_id="r", at_s=1.5, api="chat", key_id="k1", owner="ann", task=None, model="m", served_model="n",
    deployment="d", tier="api", is_stream=True, prompt_tokens=3, cached_tokens=1, generated_tokens=7, reasoning_tokens=2,
    extra_tokens=4, is_estimated=False, queue_s=0.5, ttft_s=0.25, tpot_s=None, e2e_s=1.0, is_slo_met=None, cost_nanousd=12_345,
    dearest_nanousd=20_000, cache="prefix", route="place=first tier=1/1", attempts=2, outcome="completed", status=200,
    error=None, generation=4,
)  # fmt: skip
