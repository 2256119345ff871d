"""Tasks in lm-eval's format made of amuse's own questions: one of each kind of request that lm-eval knows.

`choice` scores four answers and takes the likeliest (loglikelihood), `answer` compares what is generated (generate_until),
`passage` scores texts as a whole (loglikelihood_rolling).
"""

import gzip
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from servery import amuse
from servery.engine.chat_template import ChatTemplate

TASKS = ("amuse_choice", "amuse_answer", "amuse_passage")
_STRATA = ("arithmetic", "lookup", "reasoning", "freetext")
_CHOICES = 4
END = "<|end|>"

_TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_text: "{{{{prompt}}}}"
target_delimiter: ""
metadata:
  version: 1
"""
_OF_TASK = {
    "amuse_choice": """\
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: correct
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "amuse_answer": f"""\
output_type: generate_until
doc_to_target: expected
generation_kwargs:
  until: ["{END}"]
  max_gen_toks: 96
  temperature: 0
metric_list:
  - metric: exact_match
""",
    "amuse_passage": """\
output_type: loglikelihood_rolling
doc_to_target: "{{prompt}}{{expected}}"
metric_list:
  - metric: bits_per_byte
  - metric: byte_perplexity
""",
}


def write_tasks(folder: Path, checkpoint: Path, count: int, seed: int) -> None:
    """Write the tasks and their data, `count` questions drawn by `seed`; prompts are chats as the model reads them."""
    template = ChatTemplate.load(checkpoint)
    assert template is not None
    questions = [each for each in _questions() if each["stratum"] in _STRATA]
    chosen = random.Random(seed).sample(questions, count)
    rows = [_row(each, chosen, template, random.Random(f"{seed}/{each['id']}")) for each in chosen]
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "amuse.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in TASKS:
        (folder / f"{name}.yaml").write_text(_TASK.format(name=name, data=json.dumps(str(data))) + _OF_TASK[name])


def _questions() -> Iterable[Mapping[str, Any]]:
    with gzip.open(amuse.TASKS, "rt") as lines:
        yield from map(json.loads, lines)


def _row(
    question: Mapping[str, Any], others: Sequence[Mapping[str, Any]], template: ChatTemplate, chance: random.Random
) -> Mapping[str, Any]:
    """The wrong answers are right ones of other questions."""
    right = question["expected"]
    wrong = sorted({other["expected"] for other in others} - {right})
    choices = [right, *chance.sample(wrong, _CHOICES - 1)]
    chance.shuffle(choices)
    prompt = template.render(question["messages"])
    return {"prompt": prompt, "expected": right, "choices": choices, "correct": choices.index(right)}
