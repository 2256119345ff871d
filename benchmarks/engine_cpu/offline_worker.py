"""`LLM.generate`, as offline programs call it, with text; and how long a model takes from nothing to its first token."""

import json
import sys
import time
from pathlib import Path
from typing import Any

_BEGAN = time.perf_counter()


def offline(model: str, prompts: list[list[int]], tokens: int, threads: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of all prompts together, round by round."""
    from servery import LLM, SamplingParams

    llm = LLM(model, threads=threads, max_running=len(prompts), prefix_cache=False)
    params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=tokens)
    llm.generate(prompts, SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=8), progress=False)  # warm up
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        llm.generate(prompts, params, progress=False)
        rates.append(len(prompts) * tokens / (time.perf_counter() - began))
    return {"rates": rates}


def first_token(model: str, threads: int, dtype: str) -> dict[str, float]:
    """Seconds: of imports, and from then on to the first token."""
    from servery.engine.config import EngineConfig
    from servery.engine.core import EngineCore
    from servery.engine.request import NewRequest, SamplingParams

    imported = time.perf_counter()
    core = EngineCore(EngineConfig(model=Path(model), dtype=dtype, threads=threads, max_model_len=1024))
    loaded = time.perf_counter()
    core.add(NewRequest(request_id="0", prompt=[8] * 16, params=SamplingParams(temperature=0.0, max_tokens=1)), 0)
    while core.has_work:
        core.step()
    ended = time.perf_counter()
    return {"import_s": imported - _BEGAN, "load_s": loaded - imported, "first_token_s": ended - loaded}


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    do = order.pop("do")
    sys.stdout.write(json.dumps(offline(**order) if do == "offline" else first_token(**order)) + "\n")
