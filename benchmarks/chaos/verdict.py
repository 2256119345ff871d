"""What must hold when it is over: of every exchange, of its row in the ledger, and of what the gateway still holds. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.chaos.client import Temper
from benchmarks.chaos.faulty import TEXT
from benchmarks.chaos.load import Batch, Seen
from servery.telemetry.ledger.row import LedgerRow

_TERMINAL = frozenset(("completed", "client_gone", "timeout", "shutdown", "refused", "failed"))
_LEAVERS = (Temper.LEAVES, Temper.RESETS)


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds when nobody asks anything of it: descriptors by kind, threads, tasks of its loop."""

    files: Mapping[str, int]
    threads: int
    tasks: int


@dataclass(slots=True)
class Verdict:
    """`violations` in words; `counts` of what was looked at."""

    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def judge(seen: Sequence[Seen], batches: Sequence[Batch], rows: Sequence[LedgerRow]) -> Verdict:
    """Whether clients and ledger agree on every exchange, and answers that must be the same are."""
    verdict = Verdict()
    by_request: defaultdict[str, list[LedgerRow]] = defaultdict(list)
    for row in rows:
        by_request[row.request_id].append(row)
    texts = _references(seen, by_request)
    for one in seen:
        _judge_one(one, by_request.pop(one.id, []), texts, verdict)
    for batch in batches:
        _judge_batch(batch, by_request, texts, verdict)
    for row in (row for left in by_request.values() for row in left):
        verdict.violations.append(f"row {row.id} ({row.api}) is of an exchange that nobody had: {_row_shown(row)}")
    return verdict


def leaks(before: Held, after: Held, allowed: Held) -> list[str]:
    """What more is held than before, by more than is allowed."""
    kinds = [
        (f"{kind} descriptors", before.files.get(kind, 0), count, allowed.files.get(kind, 0))
        for kind, count in after.files.items()
    ]
    kinds += [("threads", before.threads, after.threads, allowed.threads)]
    kinds += [("tasks", before.tasks, after.tasks, allowed.tasks)]
    return [f"{name}: {was} before, {now} after" for name, was, now, more in kinds if now > was + more]


Key = tuple[str, int, str]


def _references(seen: Sequence[Seen], rows: Mapping[str, Sequence[LedgerRow]]) -> dict[Key, str]:
    """The first whole answer of every kind that was asked of one deployment alone, and not of the faulty ones."""
    found: dict[Key, str] = {}
    for one in seen:
        key, model = one.question.key, one.question.model
        attempts = {row.attempts for row in rows.get(one.id, ())}
        if key is not None and key not in found and model != "api" and attempts == {1} and one.told.is_ended:
            found[key] = one.told.text
    return found


def _judge_one(one: Seen, rows: Sequence[LedgerRow], texts: Mapping[Key, str], verdict: Verdict) -> None:
    verdict.counts["exchanges"] += 1
    wrong = [*_ends(one), *_agrees(one, rows, verdict), *_repeats(one, texts, verdict)]
    asked = one.question
    told = f"{one.id} ({asked.api}, {asked.model}, {'stream' if asked.is_stream else 'whole'}, {one.temper.value})"
    for each in wrong:
        verdict.violations.append(f"{told}: {each}; {_shown(one)}; rows {[_row_shown(row) for row in rows]}")


def _ends(one: Seen) -> list[str]:
    """Whether the client was told how its exchange ended."""
    heard, told = one.heard, one.told
    if heard.lost is not None:  # after an error in the stream the connection is closed: whoever missed it knows then
        is_told = heard.status == 200 and told.error is not None and not told.is_ended
        return [] if is_told else [heard.lost]
    if heard.has_left:
        return []
    if heard.status is None:
        return ["no answer, and no error"]
    if heard.status != 200:
        return [] if told.error is not None else ["an error without a code"]
    return [] if told.is_ended is not (told.error is not None) else [f"ended {told.is_ended}, error {told.error}"]


def _agrees(one: Seen, rows: Sequence[LedgerRow], verdict: Verdict) -> list[str]:
    """Whether the ledger says what the client saw."""
    heard, told = one.heard, one.told
    if not rows and heard.has_left and heard.status is None:
        verdict.counts["left before the gateway had read the request"] += 1
        return []
    if len(rows) != 1:
        return [f"{len(rows)} rows in the ledger"]
    (row,) = rows
    verdict.counts[f"outcome {row.outcome}"] += 1
    wrong = [] if row.outcome in _TERMINAL else [f"outcome {row.outcome}"]
    if heard.has_left:
        is_so = row.outcome in ("client_gone", "completed") or (row.outcome in ("failed", "refused") and row.error)
        return wrong if is_so else [*wrong, "its client left"]
    if heard.status == 200 and told.is_ended:
        if (row.outcome, row.status) != ("completed", 200):
            wrong.append("whole for the client")
        if told.usage is not None and told.usage != (row.prompt_tokens, row.generated_tokens):
            wrong.append(f"usage {told.usage}")
        verdict.counts["usages compared"] += told.usage is not None
        verdict.counts["asked more than once"] += row.attempts > 1
        verdict.counts["gone on with elsewhere"] += row.attempts > int(heard.headers.get("x-servery-attempts", "0"))
        return wrong
    if heard.status == 200:
        verdict.counts["told of an error in the stream"] += 1
        # A refusal comes in the stream if a comment broke the silence before: no word of an answer had been sent.
        ends = ("failed", "timeout", "shutdown") if told.text else ("failed", "timeout", "shutdown", "refused")
        return wrong if row.outcome in ends else [*wrong, f"in-band error {told.error}"]
    if row.status != heard.status or row.outcome not in ("failed", "refused", "timeout"):
        wrong.append(f"status {heard.status}")
    return wrong


def _repeats(one: Seen, texts: Mapping[Key, str], verdict: Verdict) -> list[str]:
    """Whether what must be the same answer is, as far as the client has it."""
    key = one.question.key
    known = [TEXT] if one.question.model == "api" else []
    if key is None:
        return []
    if key not in texts:
        return []
    known.append(texts[key])
    verdict.counts["texts compared"] += 1
    text = one.told.text
    is_same = text in known if one.told.is_ended else any(each.startswith(text) for each in known)
    return [] if is_same else [f"another text: {_difference(text, known[-1])}"]


def _judge_batch(batch: Batch, rows: dict[str, list[LedgerRow]], texts: Mapping[Key, str], verdict: Verdict) -> None:
    """Takes the batch's rows out of `rows`: a line that was refused by a full server was asked again, and has several."""
    verdict.counts["batches"] += 1
    if batch.status != "completed" or len(batch.answers) + len(batch.errors) != batch.lines:
        verdict.violations.append(f"a batch ended as {batch.status} with {len(batch.answers)} of {batch.lines} lines")
    for line, error in batch.errors.items():
        verdict.violations.append(f"line {line} of a batch failed: {error}")
    for name, (request_id, text, usage) in batch.answers.items():
        own = rows.pop(request_id, [])
        verdict.counts["lines of batches"] += 1
        verdict.counts["rows of batches"] += len(own)
        ends = [(row.prompt_tokens, row.generated_tokens) for row in own if row.outcome == "completed"]
        if ends != [usage]:
            verdict.violations.append(f"line {name} of a batch: usage {usage}, rows {[_row_shown(row) for row in own]}")
        key = ("chat", int(name.partition("/")[0]), "greedy")
        if key in texts and text != texts[key]:
            verdict.violations.append(f"line {name} of a batch: another text: {_difference(text, texts[key])}")


def _difference(text: str, known: str) -> str:
    at = next((at for at, (a, b) in enumerate(zip(text, known, strict=False)) if a != b), min(len(text), len(known)))
    return f"from character {at} of {len(text)}: {text[at : at + 40]!r}, where {known[at : at + 40]!r} was known"


def _shown(one: Seen) -> str:
    heard, told = one.heard, one.told
    return f"status {heard.status}, ended {told.is_ended}, error {told.error}, usage {told.usage}, {heard.took_s:.1f} s"


def _row_shown(row: LedgerRow) -> str:
    tokens = f"{row.prompt_tokens}+{row.generated_tokens}"
    return f"{row.outcome} {row.status} {row.error} at {row.deployment}, {row.attempts} attempts, {tokens} tokens"
