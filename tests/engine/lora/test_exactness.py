"""A request with an adapter gets what the base with that adapter merged into its weights would give it."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servery.engine.adapter_source import AdapterSource
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.errors import UnknownAdapter
from servery.engine.request import NewRequest, Output, SamplingParams
from tests.engine import checkpoints
from tests.engine.lora import adapters

TARGETS = {
    "mixtral": adapters.ATTENTION,
    "qwen3_moe": adapters.ATTENTION,
    "deepseek_v2": ("o_proj",),
    "phi4_mini": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "glm4": (*adapters.ATTENTION, "gate_up_proj", "down_proj"),
}
ARCHITECTURES = ("llama_with_biases", "qwen3_tied", "gemma2", "granite", "olmo2", "smollm3", *TARGETS)
PROMPTS = [[7 + (3 * row * position) % 240 for position in range(4 + 11 * row)] for row in range(6)]
SCALE = 4.0  # lora_alpha 16 over rank 4


def core_of(model: Path, **changes: object) -> EngineCore:
    settings = {"max_loras": 4, "max_lora_rank": 8, "threads": 1, "max_model_len": 256, **changes}
    return EngineCore(EngineConfig(model=model, **settings))  # type: ignore[arg-type]


def request(number: int, adapter: int, prompt: list[int] | None = None, **params: object) -> NewRequest:
    settings = SamplingParams(**{"max_tokens": 10, "ignore_eos": True, "temperature": 0.0, **params})  # type: ignore[arg-type]
    return NewRequest(
        request_id=f"r{number}", prompt=prompt or PROMPTS[number % 6], params=settings, adapter=adapter
    )  # fmt: skip


def run(core: EngineCore) -> dict[str, list[Output]]:
    outputs: dict[str, list[Output]] = {}
    while core.has_work:
        for output in core.step():
            outputs.setdefault(output.request_id, []).append(output)
        core.scheduler.check_integrity()
    return outputs


def tokens(core: EngineCore, *requests: NewRequest) -> dict[str, list[int]]:
    for number, one in enumerate(requests):
        core.add(one, number)
    return {key: [token for output in row for token in output.token_ids] for key, row in run(core).items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_and_greedy_tokens_are_those_of_the_merged_weights(name: str, tmp_path: Path) -> None:
    theirs = checkpoints.MODELS[name]()
    weights = adapters.pairs(theirs, TARGETS.get(name, (*adapters.ATTENTION, *adapters.MLP)), rank=4, seed=1)
    core = core_of(checkpoints.save(theirs, tmp_path / "base"))
    core.load_adapter(1, AdapterSource("a", adapters.write(tmp_path / "a", weights)))
    merged = adapters.merged(theirs, weights, SCALE)
    prompt = PROMPTS[4]
    with torch.inference_mode():
        expected = merged(torch.tensor([prompt])).logits[0].log_softmax(-1)
        generated = merged.generate(
            torch.tensor([prompt]), max_new_tokens=30, min_new_tokens=30, do_sample=False, eos_token_id=None
        )

    core.add(request(0, 1, prompt, max_tokens=30, prompt_logprobs=20), 1)
    outputs = run(core)["r0"]

    scores = outputs[0].prompt_logprobs[1:]
    ours = torch.tensor([[value for _, value in score.top] for score in scores if score])
    theirs_too = torch.stack(
        [expected[row, [token for token, _ in score.top]] for row, score in enumerate(scores) if score]
    )
    assert len(ours) == len(prompt) - 1
    torch.testing.assert_close(ours, theirs_too, rtol=0, atol=1e-4)
    assert [token for output in outputs for token in output.token_ids] == generated[0, len(prompt) :].tolist()


@pytest.mark.parametrize("rounded", [{"dtype": "bfloat16"}, {"quantize": "int8"}], ids=str)
def test_over_a_rounded_base_an_adapter_stays_close(tmp_path: Path, rounded: dict[str, str]) -> None:
    theirs = checkpoints.qwen3()
    weights = adapters.pairs(theirs, (*adapters.ATTENTION, *adapters.MLP), rank=4, seed=1)
    folder = adapters.write(tmp_path / "a", weights)
    base = checkpoints.save(theirs, tmp_path / "base")
    vectors = []
    for changes in ({}, rounded):
        core = core_of(base, **changes)
        core.load_adapter(1, AdapterSource("a", folder))
        core.add(NewRequest(request_id="x", prompt=PROMPTS[4], adapter=1, pooling=True), 1)
        vectors.append(torch.tensor(run(core)["x"][-1].embedding))
    assert torch.cosine_similarity(*vectors, dim=0) > 0.999


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(checkpoints.glm4(), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters that differ in what they change and in rank."""
    root, model = tmp_path_factory.mktemp("adapters"), checkpoints.glm4()
    return [
        adapters.save(root / "0", model, targets=("q_proj", "v_proj"), rank=2, seed=5),
        adapters.save(root / "1", model, targets=("k_proj", "o_proj", "down_proj"), rank=8, seed=6, lora_alpha=20),
        adapters.save(root / "2", model, targets=("gate_up_proj", "q_proj"), rank=4, seed=7),
    ]


def loaded(base: Path, folders: list[Path], **changes: object) -> EngineCore:
    core = core_of(base, **changes)
    for number, folder in enumerate(folders, 1):
        core.load_adapter(number, AdapterSource(f"a{number}", folder))
    return core


@pytest.fixture(scope="module")
def alone(base: Path, folders: list[Path]) -> dict[tuple[int, int], list[int]]:
    """What (prompt, adapter) gives in an engine that computes nothing else; no two are the same."""
    core = loaded(base, folders, prefix_cache=False)
    each = {(p, a): tokens(core, request(p, a))[f"r{p}"] for p in range(6) for a in range(4)}
    assert len({tuple(row) for row in each.values()}) == len(each)
    return each


@pytest.mark.parametrize("changes", [{}, {"max_step_tokens": 16, "max_running": 16}, {"block_size": 4}], ids=str)
def test_a_step_of_many_adapters_gives_each_request_its_own(
    base: Path, folders: list[Path], alone: dict[tuple[int, int], list[int]], changes: dict[str, object]
) -> None:
    core = loaded(base, folders, **changes)
    requests = [request(number, (number * 7) % 4, PROMPTS[number % 6]) for number in range(16)]
    expected = {f"r{number}": alone[number % 6, (number * 7) % 4] for number in range(16)}
    assert tokens(core, *requests) == expected


def test_preemption_does_not_mix_adapters(
    base: Path, folders: list[Path], alone: dict[tuple[int, int], list[int]]
) -> None:
    one = core_of(base)
    core = loaded(base, folders, kv_memory_bytes=17 * 16 * one.info.kv_bytes_per_token, max_running=12)
    requests = [request(number, number % 4) for number in range(12)]
    assert tokens(core, *requests) == {f"r{number}": alone[number % 6, number % 4] for number in range(12)}
    assert core.stats().scheduler.preemptions > 0


def test_a_prefix_is_shared_by_those_with_the_same_adapter_only(base: Path, folders: list[Path]) -> None:
    core = loaded(base, folders)
    cached = []
    for number, adapter in enumerate((0, 1, 2, 1, 0)):
        core.add(request(number, adapter, PROMPTS[5]), 1)
        cached.append(run(core)[f"r{number}"][0].cached_tokens)
    assert cached == [0, 0, 0, 48, 48]


def test_an_adapter_that_is_loaded_again_finds_nothing_of_its_predecessor(base: Path, folders: list[Path]) -> None:
    core = core_of(base, max_loras=1)
    core.load_adapter(1, AdapterSource("a", folders[0]))
    first = tokens(core, request(0, 1, PROMPTS[5]))
    core.unload_adapter(1)
    core.load_adapter(2, AdapterSource("a", folders[1]))
    core.add(request(1, 2, PROMPTS[5]), 1)
    outputs = run(core)["r1"]
    assert outputs[0].cached_tokens == 0
    assert [token for output in outputs for token in output.token_ids] != first["r0"]


@pytest.mark.parametrize("wrong_from", [0, 2, 9])
def test_drafts_of_a_model_that_knows_no_adapter_change_no_answer(
    base: Path, folders: list[Path], alone: dict[tuple[int, int], list[int]], wrong_from: int
) -> None:
    core = loaded(base, folders)
    for number in range(8):
        core.add(request(number, number % 4), number)
    outputs: dict[str, list[int]] = {}
    while core.has_work:
        for sequence in core.scheduler._running:
            done = len(sequence.tokens) - sequence.prompt_len
            right = alone[int(sequence.request_id[1:]) % 6, sequence.parent.adapter][done : done + 3]
            sequence.drafts = [token if at < wrong_from else 3 for at, token in enumerate(right)]
        for output in core.step():
            outputs.setdefault(output.request_id, []).extend(output.token_ids)
        core.scheduler.check_integrity()
    assert outputs == {f"r{number}": alone[number % 6, number % 4] for number in range(8)}
    assert (core.stats().scheduler.accepted_draft_tokens > 0) == (wrong_from > 0)


def test_bytes_read_count_each_adapter_of_a_step_once(base: Path, folders: list[Path]) -> None:
    plain, adapted = loaded(base, folders), loaded(base, folders)
    for number in range(3):
        plain.add(request(number, 0, max_tokens=1), 1)
        adapted.add(request(number, min(number, 1), max_tokens=1), 1)
    plain.step(), adapted.step()
    first = adapted.adapters._places[1].adapter
    assert first is not None
    assert adapted.stats().read_bytes == plain.stats().read_bytes + first.info.nbytes


def test_an_unloaded_adapter_serves_its_requests_to_the_end(
    base: Path, folders: list[Path], alone: dict[tuple[int, int], list[int]]
) -> None:
    core = loaded(base, folders[:1])
    core.add(request(3, 1), 1)
    first = core.step()[0].token_ids
    core.unload_adapter(1)
    with pytest.raises(UnknownAdapter, match="not loaded, or is no longer"):
        core.add(request(4, 1), 1)
    assert (core.stats().adapters, core.stats().adapter_bytes > 0) == (0, True)
    core.add(request(5, 0), 1)
    outputs = {key: [token for each in row for token in each.token_ids] for key, row in run(core).items()}
    assert first + outputs["r3"] == alone[3, 1]
    assert outputs["r5"] == alone[5, 0]
    assert core.stats().adapter_bytes == 0


def test_aborting_the_last_request_frees_an_unloaded_adapter(base: Path, folders: list[Path]) -> None:
    core = loaded(base, folders[:1])
    core.add(request(0, 1), 1)
    core.step()
    core.unload_adapter(1)
    core.abort("r0")
    assert core.stats().adapter_bytes == 0
    core.unload_adapter(1)  # ids that are unknown by now are ignored


def test_embeddings_are_those_of_the_adapter(base: Path, folders: list[Path]) -> None:
    core = loaded(base, folders, max_step_tokens=16, max_running=4)
    for adapter in range(3):
        core.add(NewRequest(request_id=str(adapter), prompt=PROMPTS[4], adapter=adapter, pooling=True), 1)
    together = {key: row[-1].embedding for key, row in run(core).items()}
    for adapter in range(3):
        core.add(NewRequest(request_id="x", prompt=PROMPTS[4], adapter=adapter, pooling=True), 1)
        assert run(core)["x"][-1].embedding == pytest.approx(together[str(adapter)], abs=1e-5)
    assert together["0"] != pytest.approx(together["1"], abs=1e-2)


Action = tuple[str, int]


def actions() -> st.SearchStrategy[list[Action]]:
    kinds = st.sampled_from(["add", "add", "add", "step", "step", "load", "unload", "abort"])
    return st.lists(st.tuples(kinds, st.integers(0, 23)), min_size=5, max_size=40)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(story=actions())
def test_any_order_of_requests_and_adapters_gives_what_each_gives_alone(
    base: Path, folders: list[Path], alone: dict[tuple[int, int], list[int]], story: list[Action]
) -> None:
    machine = Machine(core_of(base, max_loras=2, max_running=6, max_step_tokens=24), folders)
    for kind, number in story:
        getattr(machine, kind)(number)
    machine.finish()
    assert machine.outputs == {name: alone[key] for name, key in machine.expected.items()}
    machine.check_nothing_is_left()


class Machine:
    """An engine, and a naive memory of which adapter is under which id, and of who must get what."""

    def __init__(self, core: EngineCore, folders: list[Path]) -> None:
        self.core, self.folders = core, folders
        self.loaded: dict[int, int] = {}  # the number of the folder, 1 to 3, by adapter id
        self.last_id = self.added = 0
        self.expected: dict[str, tuple[int, int]] = {}
        self.outputs: dict[str, list[int]] = {}
        self.open: list[str] = []

    def add(self, number: int) -> None:
        ids = [0, *self.loaded]
        adapter = ids[number % len(ids)]
        self.added += 1
        name = f"q{self.added}"
        prompt = number % 6
        params = SamplingParams(max_tokens=10, ignore_eos=True, temperature=0.0)
        self.core.add(NewRequest(request_id=name, prompt=PROMPTS[prompt], params=params, adapter=adapter), 1)
        self.expected[name] = prompt, self.loaded.get(adapter, 0)
        self.outputs[name] = []
        self.open.append(name)

    def step(self, _: int) -> None:
        for output in self.core.step():
            self.outputs[output.request_id] += output.token_ids
            if output.finish_reason is not None:
                self.open.remove(output.request_id)
        self.core.scheduler.check_integrity()

    def load(self, number: int) -> None:
        if len(self.core.adapters._places) < 2:
            self.last_id += 1
            folder = number % 3
            self.core.load_adapter(self.last_id, AdapterSource(f"n{self.last_id}", self.folders[folder]))
            self.loaded[self.last_id] = folder + 1

    def unload(self, number: int) -> None:
        if self.loaded:
            adapter = sorted(self.loaded)[number % len(self.loaded)]
            del self.loaded[adapter]
            self.core.unload_adapter(adapter)

    def abort(self, number: int) -> None:
        if self.open:
            name = self.open.pop(number % len(self.open))
            self.core.abort(name)
            del self.expected[name], self.outputs[name]

    def finish(self) -> None:
        while self.core.has_work:
            self.step(0)

    def check_nothing_is_left(self) -> None:
        for adapter in list(self.loaded):
            self.core.unload_adapter(adapter)
        assert self.core.stats().adapter_bytes == 0
        assert self.core.adapters._active.segments == ()
        self.core.scheduler.check_integrity()
