import re

from msgspec import structs

from servery.engine.scheduler_stats import SchedulerStats
from servery.engine.stats import EngineInfo, EngineStats
from servery.engine.structure.stats import StructureStats
from servery.telemetry.answer_timing import AnswerTiming
from servery.telemetry.metrics import Metrics
from servery.telemetry.residency import ModelState, ReleasedBy, Residency

STATS = EngineStats(
    scheduler=SchedulerStats(
        running=3, waiting=2, waiting_requests=1, waiting_tokens=40, num_blocks=100, free_blocks=60, held_blocks=25,
        cached_blocks=15, prefix_query_tokens=500, prefix_hit_tokens=200, preemptions=4, finished_abort=1,
        draft_rounds=10, drafted_tokens=40, accepted_draft_tokens=30,
    ),
    host_s=0.25, decode_steps=5, decode_s=0.375, decode_host_s=0.125, graphs=3, graph_bytes=3000, graph_s=1.5,
    steps=7, step_s=0.5, step_tokens=90, read_bytes=1000, operations=5000, step_sizes=(4, 0, 2, *[0] * 10, 1), adapters=2, adapter_bytes=300,
    structure=StructureStats(compiled=3, refused=1, hits=9, compile_s=0.125, masks=80, mask_s=0.25, forced_tokens=12),
)  # fmt: skip
INFO = EngineInfo(
    architecture="Qwen3ForCausalLM", vocab_size=8, hidden_size=4, parameters=100, dtype="float32", quantization="gptq", device="cpu",
    kernels="torch", threads=1, max_model_len=64, max_running=4, max_step_tokens=16, block_size=16, num_blocks=100,
    kv_dtype="int8", kv_bytes=5000, kv_bytes_per_token=3, weight_bytes=400, load_s=0.0, pid=1,
)  # fmt: skip


def rendered(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines) if "_created" not in name}


def test_an_engines_figures_are_read_when_the_metrics_are() -> None:
    metrics = Metrics()
    metrics.watch_engine("loading", lambda: None)
    metrics.watch_engine("m", lambda: STATS, lambda: INFO)

    shown = {
        re.sub(r"servery_|model_name=\"m\",?", "", name): value
        for name, value in rendered(metrics).items()
        if 'model_name="m"' in name
    }
    assert shown == {
        "num_requests_running{}": 3,
        "num_requests_waiting{}": 2,
        "num_tokens_waiting{}": 40,
        "kv_cache_usage_perc{}": 0.25,
        "prefix_cache_queries_total{}": 500,
        "prefix_cache_hits_total{}": 200,
        "num_preemptions_total{}": 4,
        "requests_rejected_total{}": 0,
        "requests_expired_total{}": 0,
        "engine_aborted_sequences_total{}": 1,
        "engine_steps_total{}": 7,
        "engine_failed_steps_total{}": 0,
        "engine_interrupted_steps_total{}": 0,
        "engine_step_seconds_total{}": 0.5,
        "engine_step_tokens_total{}": 90,
        "engine_host_seconds_total{}": 0.25,
        "engine_decode_steps_total{}": 5,
        "engine_decode_step_seconds_total{}": 0.375,
        "engine_decode_host_seconds_total{}": 0.125,
        "engine_cuda_graphs{}": 3,
        "engine_cuda_graph_bytes{}": 3000,
        "engine_cuda_graph_seconds_total{}": 1.5,
        "engine_read_bytes_total{}": 1000,
        "engine_operations_total{}": 5000,
        "iteration_tokens_total_count{}": 7,
        "iteration_tokens_total_sum{}": 90,
        **{
            f'iteration_tokens_total_bucket{{le="{bound}",}}': count
            for bound, count in [("1.0", 4), ("8.0", 4), *((f"{2**at}.0", 6) for at in range(4, 15)), ("+Inf", 7)]
        },
        "structured_grammars_compiled_total{}": 3,
        "structured_grammars_refused_total{}": 1,
        "structured_grammar_hits_total{}": 9,
        "structured_compile_seconds_total{}": 0.125,
        "structured_masks_total{}": 80,
        "structured_mask_seconds_total{}": 0.25,
        "structured_forced_tokens_total{}": 12,
        "spec_decode_num_drafts_total{}": 10,
        "spec_decode_num_draft_tokens_total{}": 40,
        "spec_decode_num_accepted_tokens_total{}": 30,
        "spec_decode_draft_acceptance_rate{}": 0.75,
        "spec_decode_mean_accepted_length{}": 4,
        "lora_adapters{}": 2,
        "lora_adapter_bytes{}": 300,
        'kv_blocks{state="free"}': 60,
        'kv_blocks{state="held"}': 25,
        'kv_blocks{state="cached"}': 15,
        'weight_bytes{dtype="gptq",}': 400,
        'kv_cache_bytes{kv_dtype="int8",}': 5000,
        'kv_cache_tokens{kv_dtype="int8",}': 1600,
    }
    assert 'model_name="loading"' not in metrics.render().decode()


def test_what_an_engine_measured_at_its_start_is_shown_where_there_is_such() -> None:
    metrics = Metrics()
    together = structs.replace(
        INFO, workspace_bytes=700, link_bytes_per_s=5e10, tensor_parallel=2, sum_s=0.25, step_sums_s=1.5
    )
    metrics.watch_engine("alone", lambda: None, lambda: INFO)
    metrics.watch_engine("together", lambda: None, lambda: together)
    shown = rendered(metrics)
    names = ("workspace_bytes", "load_link_bytes_per_second", "all_reduce_seconds", "step_all_reduce_seconds")
    values = [
        shown.get(f'servery_engine_{name}{{model_name="{model}"}}') for model in ("together", "alone") for name in names
    ]
    assert values == [700, 5e10, 0.25, 1.5, None, None, None, None]


def test_an_answer_is_counted_in_tokens_and_observed_in_seconds() -> None:
    metrics, timing = Metrics(), AnswerTiming(arrived_s=1.0)
    of_model = metrics.of_model("m")
    of_model.count_prompt(12, 8)
    for now in (1.5, 2.0, 2.5):
        of_model.count_tokens(1, timing.add(0, 1, now))
    of_model.count_finish("stop")
    of_model.observe_queue(0.25)
    of_model.observe_answer(timing, 3.0)

    shown = rendered(metrics)
    label = '{model_name="m"}'
    assert {
        name: shown[f"servery_{name}{label}"]
        for name in (
            "prompt_tokens_total", "prompt_tokens_cached_total", "generation_tokens_total",
            "time_to_first_token_seconds_sum", "inter_token_latency_seconds_sum", "inter_token_latency_seconds_count",
            "request_time_per_output_token_seconds_sum", "e2e_request_latency_seconds_sum",
            "request_queue_time_seconds_sum", "request_prompt_tokens_sum", "request_generation_tokens_sum",
        )
    } == {
        "prompt_tokens_total": 12, "prompt_tokens_cached_total": 8, "generation_tokens_total": 3,
        "time_to_first_token_seconds_sum": 0.5, "inter_token_latency_seconds_sum": 1.0,
        "inter_token_latency_seconds_count": 2, "request_time_per_output_token_seconds_sum": 0.5,
        "e2e_request_latency_seconds_sum": 2.0, "request_queue_time_seconds_sum": 0.25,
        "request_prompt_tokens_sum": 12, "request_generation_tokens_sum": 3,
    }  # fmt: skip
    assert shown['servery_request_success_total{finished_reason="stop",model_name="m"}'] == 1


def test_requests_and_aborts_are_counted_by_bounded_labels() -> None:
    metrics = Metrics()
    metrics.count_request("POST", "/v1/chat/completions", 200)
    metrics.of_model("m").count_abort("client")

    shown = rendered(metrics)
    assert shown['servery_http_requests_total{method="POST",route="/v1/chat/completions",status="200"}'] == 1
    assert shown['servery_request_aborts_total{by="client",model_name="m"}'] == 1


def test_two_servers_in_one_process_do_not_share_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.of_model("m").count_abort("client")

    assert "client" not in other.render().decode()


def test_adapters_are_shown_while_they_can_be_asked_for() -> None:
    metrics, uses = Metrics(), {"sql": 3, "chat": 0}
    metrics.watch_adapters("m", lambda: uses)
    assert {name: value for name, value in rendered(metrics).items() if "lora_requests" in name} == {
        'servery_lora_requests_total{adapter="sql",model_name="m"}': 3,
        'servery_lora_requests_total{adapter="chat",model_name="m"}': 0,
    }
    uses.clear()
    assert not [name for name in rendered(metrics) if "lora_requests" in name]


def test_where_a_model_is_and_how_often_it_came_and_went() -> None:
    metrics = Metrics()
    residency = Residency(
        state=ModelState.SLEEPING, loads=3, failed_loads=1, load_s=2.5, error=None,
        releases={ReleasedBy.ADMIN: 0, ReleasedBy.KEEP_ALIVE: 2, ReleasedBy.MEMORY: 1},
    )  # fmt: skip
    metrics.watch_residence("m", lambda: residency)
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("servery_model_")]
    assert [line for line in lines if not line.startswith("servery_model_state")] == [
        'servery_model_loads_total{model_name="m"} 3.0',
        'servery_model_load_failures_total{model_name="m"} 1.0',
        'servery_model_load_seconds_total{model_name="m"} 2.5',
        'servery_model_releases_total{by="admin",model_name="m"} 0.0',
        'servery_model_releases_total{by="keep_alive",model_name="m"} 2.0',
        'servery_model_releases_total{by="memory",model_name="m"} 1.0',
    ]
    states = {re.findall('state="(.*?)"', line)[0]: line[-3:] for line in lines if "state=" in line}
    assert states == {state.value: "1.0" if state is ModelState.SLEEPING else "0.0" for state in ModelState}
