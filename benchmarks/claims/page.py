"""The page: every claim with our figure and what it says to it, from a result that was written before."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.claim import SHORT, TITLES, Claim, Reading, Topic, Verdict
from benchmarks.claims.figure import shown
from benchmarks.claims.measurement import Measurement
from servery.bench.page.picture import picture
from servery.bench.page.plot import Plot

PICTURES = "claims"
_COMMAND = "make claims"
_INTRODUCTION = """\
# What is said about serving, measured

Five texts say how large language models are served and what each technique gains. Here is every figure that they state,
held against this stack: measured, or listed with the reason why it cannot be measured here. What was not confirmed says why.

The machine is a CPU with two cores, so absolute times are not those of a GPU. Ratios are of this machine, too: a core turns
from waiting for memory to waiting for arithmetic at some 8 rows in a step, a GPU at some hundred, so what lives from idle
arithmetic (batches, speculation) gains more there.
"""
_METHOD = """\
What is compared takes turns within the run, so that drift of the machine hits all alike; figures are medians, with the smallest
and the largest of the rounds in brackets where there were rounds. Engines of this process compute with one thread on one core,
to which they are pinned; servers have all cores. *amuse* is the embedded model (2.6M parameters, trained); *88M* and *473M* are
random weights in the shapes of Llama and Qwen3, which take the same time as trained ones; *148M* is amuse in the shape of
a larger model, with added weights that do not change its answers. Where a claim has several figures, all must be as
claimed for *confirmed*; some make it *in part*. *Measured* is what the text gives no figure for.
"""


def page(topics: Sequence[Topic], measurements: Mapping[str, Measurement], result: Mapping[str, Any]) -> str:
    """The page in Markdown. Raises `ValueError` for a claim of which a measurement that was run says nothing."""
    readings = read(measurements, result)
    verdicts = {claim.key: _verdict(claim, readings, result) for topic in topics for claim in topic.claims}
    parts = [_INTRODUCTION, _run_line(measurements, result), _summary(topics, verdicts, result), _texts(), _METHOD]
    for topic in topics:
        parts.append(_topic(topic, readings, verdicts))
        parts += [_image(name, plot) for name, plot in _plots_of(topic, topics, measurements, result).items()]
    return "\n".join([*parts, _how(measurements, result)])


def read(measurements: Mapping[str, Measurement], result: Mapping[str, Any]) -> dict[str, list[Reading]]:
    """The figures of every claim that was measured, by its key."""
    found: dict[str, list[Reading]] = {}
    for key, measurement in measurements.items():
        if key in result["runs"]:
            found |= measurement.readings(result["runs"][key])
    return found


def _verdict(claim: Claim, readings: Mapping[str, list[Reading]], result: Mapping[str, Any]) -> Verdict:
    if claim.measured is not None and claim.measured not in result["runs"]:
        return Verdict.NOT_RUN
    return claim.verdict(readings.get(claim.key, []))


def write(
    folder: Path, topics: Sequence[Topic], measurements: Mapping[str, Measurement], result: Mapping[str, Any]
) -> Path:
    """Write the page and its pictures to `folder`."""
    (folder / PICTURES).mkdir(exist_ok=True)
    for key, figures in result["runs"].items():
        for name, plot in measurements[key].plots(figures).items():
            (folder / PICTURES / f"{name}.svg").write_text(picture(plot), encoding="utf-8")
    path = folder / "claims.md"
    path.write_text(page(topics, measurements, result), encoding="utf-8")
    return path


def _run_line(measurements: Mapping[str, Measurement], result: Mapping[str, Any]) -> str:
    made = result["provenance"]
    machine = made["machine"]
    minutes = sum(result["took_s"].get(key, each.budget_s) for key, each in measurements.items()) / 60
    return (
        f"```sh\n{_COMMAND}                      # all of it, {minutes:.0f} minutes\n"
        f'{_COMMAND} ARGS="--render"      # this page again, from the newest result\n```\n\n'
        f"{machine['cpu']}, {machine['cores']} cores; {made['date'][:10]}, version {made['version']}, commit {made['commit']}.\n"
    )


def _summary(topics: Sequence[Topic], verdicts: Mapping[str, Verdict], result: Mapping[str, Any]) -> str:
    count = Counter(verdicts.values())
    told = ", ".join(f"{count[verdict]} {verdict.value}" for verdict in Verdict if count[verdict])
    lines = [f"Of {len(verdicts)} statements: {told}.\n"]
    claims = [claim for topic in topics for claim in topic.claims]
    missing = dict.fromkeys(claim.measured for claim in claims if verdicts[claim.key] is Verdict.NOT_RUN)
    reasons = result.get("left_out", {})
    lines += [f"`{key}` was left out of this run: {reasons.get(key, 'it was not asked for')}.\n" for key in missing]
    refuted = [claim for claim in claims if verdicts[claim.key] is Verdict.NOT_CONFIRMED]
    if refuted:
        lines.append("Not confirmed:\n")
        lines += [f"- {claim.says}." for claim in refuted]
        lines.append("")
    return "\n".join(lines)


def _texts() -> str:
    rows = [f"| {SHORT[key]} | {title} |" for key, title in TITLES.items()]
    return "\n".join(["| called here | text |", "|---|---|", *rows, ""])


def _topic(topic: Topic, readings: Mapping[str, list[Reading]], verdicts: Mapping[str, Verdict]) -> str:
    rows, notes = [], list[str]()
    for claim in topic.claims:
        found, verdict = readings.get(claim.key, []), verdicts[claim.key]
        is_plain = verdict in (Verdict.NOT_HERE, Verdict.NOT_RUN, Verdict.SHOWN)
        word = verdict.value if is_plain else f"**{verdict.value}**"
        if note := _note(claim, verdict):
            notes.append(f"{len(notes) + 1}. {note}")
            word += f" ({len(notes)})"
        missing = f"- ({claim.reason})" if claim.reason else "-"
        ours = "<br>".join(shown(reading, claim.unit) for reading in found) or missing
        texts = ", ".join(SHORT[text] for text in claim.texts)
        by = f"`{claim.measured}`" if claim.measured else ""
        rows.append(f"| {claim.says} | {texts} | {claim.quoted} | {ours} | {word} | {by} |")
    head = ["| claim | text | quoted | ours | verdict | by |", "|---|---|---|---|---|---|"]
    return "\n".join([f"## {topic.title}\n", *head, *rows, "", *notes, ""])


def _note(claim: Claim, verdict: Verdict) -> str:
    explains = verdict in (Verdict.PARTLY, Verdict.NOT_CONFIRMED)
    return " ".join(part for part in (claim.remark, claim.otherwise if explains else "") if part)


def _plots_of(
    topic: Topic, topics: Sequence[Topic], measurements: Mapping[str, Measurement], result: Mapping[str, Any]
) -> dict[str, Plot]:
    """Those of the measurements that say most about this topic."""
    found: dict[str, Plot] = {}
    for key, figures in result["runs"].items():
        shares = [sum(claim.measured == key for claim in each.claims) for each in topics]
        if topics[shares.index(max(shares))] is topic:
            found |= measurements[key].plots(figures)
    return found


def _image(name: str, plot: Plot) -> str:
    return f"![{plot.title}: {plot.y_name} over {plot.x_name}]({PICTURES}/{name}.svg)\n"


def _how(measurements: Mapping[str, Measurement], result: Mapping[str, Any]) -> str:
    notes = {key: f", {note}" for key, note in result.get("notes", {}).items()}
    took = {key: f"{seconds:.0f} s{notes.get(key, '')}" for key, seconds in result["took_s"].items()}
    rows = [
        f"| `{key}` | {each.setting} | {took.get(key, Verdict.NOT_RUN.value)} |" for key, each in measurements.items()
    ]
    told = f'`{_COMMAND} ARGS="--only batching"` measures one of them alone and prints what it says.\n'
    return "\n".join(["## How\n", told, "| by | what was measured | took |", "|---|---|---|", *rows, ""])
