"""A scheduler driven by hand: the fake runner computes its steps, and its books are checked after each of them."""

from servery.engine.request import NewRequest, Output, SamplingParams
from servery.engine.scheduler import Scheduler, SchedulerConfig, SchedulerStats, Step
from tests.engine.fake_runner import FakeRunner

SEED = 3


def config(**changes) -> SchedulerConfig:
    settings = {
        "num_blocks": 64,
        "block_size": 4,
        "max_model_len": 64,
        "max_running": 8,
        "max_step_tokens": 32,
        "watermark": 0.0,
        "target_step_s": None,
        "vocab_size": 1000,
    }
    return SchedulerConfig(**(settings | changes))


def request(request_id: str, prompt: int | list[int] = 8, **fields) -> NewRequest:
    """A request of `prompt` tokens (a list as it is) that goes on until max_tokens."""
    tokens = list(range(100, 100 + prompt)) if isinstance(prompt, int) else prompt
    params = {name: fields.pop(name) for name in list(fields) if name in SamplingParams.__struct_fields__}
    params = SamplingParams(**({"ignore_eos": True} | params))
    return NewRequest(request_id=request_id, prompt=tokens, params=params, **fields)


def other(start: int, count: int) -> list[int]:
    """A prompt that shares no block with the others."""
    return list(range(start, start + count))


class Drive:
    """A scheduler with the fake runner; integrity is checked after every step."""

    def __init__(self, **changes) -> None:
        self.scheduler = Scheduler(config(**changes))
        self.runner = FakeRunner(self.scheduler)
        self.outputs: list[Output] = []

    def add(self, *requests: NewRequest, now: float = 0.0) -> None:
        for each in requests:
            self.scheduler.add(each, SEED, now)

    def schedule(self, now: float = 0.0) -> Step:
        step = self.scheduler.schedule(now)
        self.scheduler.check_integrity()
        return step

    def step(self, now: float = 0.0) -> dict[str, int]:
        """One whole step; what each sequence computed."""
        step = self.schedule(now)
        self.commit(step, now)
        return counts(step)

    def commit(self, step: Step, now: float = 0.0) -> list[Output]:
        outputs = self.scheduler.commit(step, self.runner.run(step), now)
        self.scheduler.check_integrity()
        self.outputs += outputs
        return outputs

    def finish(self) -> None:
        for _ in range(1000):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError("it never ends")

    def tokens(self, request_id: str, index: int = 0) -> list[int]:
        mine = [out for out in self.outputs if (out.request_id, out.index) == (request_id, index)]
        return [token for out in mine for token in out.token_ids]

    def last(self, request_id: str, index: int = 0) -> Output:
        return [out for out in self.outputs if (out.request_id, out.index) == (request_id, index)][-1]

    @property
    def stats(self) -> SchedulerStats:
        return self.scheduler.stats()


def counts(step: Step) -> dict[str, int]:
    return {f"{item.sequence.request_id}/{item.sequence.index}": item.count for item in step.scheduled}
