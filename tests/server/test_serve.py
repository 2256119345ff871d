import socket

import msgspec
import pytest

from servery.engine.stats import EngineInfo
from servery.server.address import listening_socket, url_of
from servery.server.option_error import OptionError
from servery.server.told_start import _held, told_engine

INFO = EngineInfo(
    architecture="Qwen3ForCausalLM", vocab_size=1536, hidden_size=96, parameters=2_600_000, dtype="float32",
    device="cpu", kernels="torch", threads=2, max_model_len=4096, max_running=64, max_step_tokens=256,
    block_size=16, num_blocks=512, kv_dtype="int8", kv_bytes=32 << 20, kv_bytes_per_token=4096,
    weight_bytes=10 << 20, load_s=0.25, pid=77,
)  # fmt: skip


def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            OptionError, match=f"on 127.0.0.1 port {port}: Address already in use; choose another with --port"
        ):
            listening_socket("127.0.0.1", port)


def test_an_address_of_another_machine_is_told_apart_from_a_port_that_is_taken() -> None:
    said = "cannot listen on 192.0.2.1 port 0: .*; --host takes an address of this machine, or 0.0.0.0 for all of them"
    with pytest.raises(OptionError, match=said):
        listening_socket("192.0.2.1", 0)


def test_an_unknown_host_is_an_error_that_names_it() -> None:
    with pytest.raises(OptionError, match=r"the host 'no\.such\.host\.invalid' cannot be resolved"):
        listening_socket("no.such.host.invalid", 0)


def test_the_url_has_the_port_that_the_system_chose() -> None:
    with listening_socket("127.0.0.1", 0) as sock:
        assert url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_what_was_resolved_is_told_with_units() -> None:
    assert told_engine("amuse", INFO) == (
        "amuse: Qwen3ForCausalLM, 2.6M parameters, weights float32 in 10485760 bytes (10 MiB), on cpu with 2 threads, "
        "kernels: torch, process 77\n"
        "       context 4096 tokens; KV cache int8 in 33554432 bytes (32 MiB) holds 8192 tokens of 4096 bytes, in blocks "
        "of 16; up to 64 sequences, 256 tokens per step; loaded in 0.2 s"
    )


def test_several_processes_and_the_link_to_a_gpu_are_told() -> None:
    replace = msgspec.structs.replace
    together = replace(INFO, tensor_parallel=4, pipeline_parallel=2, nnodes=2, sum_s=1e-5, step_sums_s=0.00065)
    assert told_engine("amuse", together) == (
        told_engine("amuse", INFO)
        + "\n       4 processes share each layer, in 2 stages, on 2 machines, whose sums take 0.65 ms of a token's step"
    )
    staged = replace(INFO, pipeline_parallel=2)
    assert told_engine("amuse", staged).endswith("\n       2 processes, in 2 stages")
    linked = replace(INFO, link_bytes_per_s=5e10)
    assert told_engine("amuse", linked).endswith("loaded in 0.2 s, the weights at 50.0 GB/s over the link")


def test_who_drafts_is_told() -> None:
    drafting = msgspec.structs.replace(INFO, speculate="draft", draft_weight_bytes=1 << 20, draft_kv_bytes=2 << 20)
    assert told_engine("amuse", drafting) == (
        told_engine("amuse", INFO)
        + "\n       drafts ahead with a model of 1048576 bytes (1 MiB), whose KV cache takes "
        "2097152 bytes (2 MiB) besides"
    )
    looking = msgspec.structs.replace(INFO, speculate="ngram")
    assert told_engine("amuse", looking).endswith("\n       drafts ahead by looking tokens up in the text so far")


def test_quantized_weights_are_told_with_the_type_of_computation() -> None:
    info = msgspec.structs.replace(INFO, quantization="int4")
    assert _held(info) == "int4 (computed in float32)"
    assert info.weight_dtype == "int4"
