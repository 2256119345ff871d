"""Run the tasks through the API and offline, and write both as JSON; a program for the environment that has lm-eval."""

import argparse
import json
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate  # type: ignore[import-not-found]
from lm_eval.models.openai_completions import LocalCompletionsAPI  # type: ignore[import-not-found]
from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

from conformance.harness.offline import OfflineModel
from conformance.harness.tasks import TASKS


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--url", "--model", "--checkpoint", "--tasks", "--out"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    api = LocalCompletionsAPI(
        base_url=f"{given.url}/v1/completions",
        model=given.model,
        tokenizer_backend="huggingface",
        tokenizer=given.checkpoint,
        num_concurrent=4,
        max_length=4096,
        max_retries=1,
    )
    offline = OfflineModel(Path(given.checkpoint), kv_memory_bytes=64 << 20)
    scored = {name: _scored(model, given.tasks) for name, model in (("api", api), ("offline", offline))}
    Path(given.out).write_text(json.dumps(scored))


def _scored(model: Any, tasks: str) -> dict[str, Any]:
    """Each task's metrics, and its samples' answers in the order of the questions."""
    done = simple_evaluate(
        model=model,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=tasks),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = {name: sorted(done["samples"][name], key=lambda sample: sample["doc_id"]) for name in TASKS}
    return {
        name: {
            "metrics": {key: value for key, value in done["results"][name].items() if isinstance(value, float)},
            "answers": [sample["filtered_resps"] for sample in samples[name]],
        }
        for name in TASKS
    }


if __name__ == "__main__":
    main()
