"""What the texts state, and what a measurement says to it. Pure, but for reading the lists in `stated`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

STATED = Path(__file__).parent / "stated"
# By the name that the lists use: what the page calls a text, and its title.
SHORT = {
    "serving": "Chapter 12",
    "optimization": "Lesson",
    "explained": "Explained",
    "deployment": "Chapter 7",
    "roundtable": "Roundtable",
}
TITLES = {
    "serving": "LLM Production: Serving & Inference (Chapter 12, Section 8)",
    "optimization": "Making LLMs Fast and Affordable at Production Scale",
    "explained": "LLM Serving Explained: Deploying Language Models at Scale",
    "deployment": "Chapter 7: Deployment & Serving",
    "roundtable": "Serving LLMs in Production: Performance, Cost & Scale (CAST AI roundtable)",
}


class Verdict(Enum):
    """What became of a claim; the values are the page's words."""

    CONFIRMED = "confirmed"
    PARTLY = "in part"
    NOT_CONFIRMED = "not confirmed"
    SHOWN = "measured"  # the text gives no figure to hold it to
    NOT_HERE = "not measurable here"
    NOT_RUN = "not in this run"


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure of ours, with the smallest and the largest of the rounds where there were several; `of` says of what."""

    of: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement. `quoted` is the figure as the text has it; `at_least` and `at_most` are what readings are held to.

    `measured` names the measurement; where there is none, `reason` says why. `remark` is what a reader should know of
    the figures; `otherwise` explains why the claim is not confirmed, and is only told where it is not.
    """

    key: str
    says: str
    texts: tuple[str, ...]
    quoted: str = ""
    measured: str | None = None
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    remark: str = ""
    otherwise: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        strange = [text for text in self.texts if text not in TITLES]
        if strange or not self.texts:
            raise ValueError(f"claim {self.key}: texts are {list(self.texts)}; known are {', '.join(TITLES)}")
        if (self.measured is None) != bool(self.reason):
            raise ValueError(f"claim {self.key}: give either `measured`, or the `reason` why it is not")

    def holds(self, reading: Reading) -> bool:
        """Whether one figure of ours is what was claimed."""
        is_enough = self.at_least is None or reading.value >= self.at_least
        return is_enough and (self.at_most is None or reading.value <= self.at_most)

    def verdict(self, readings: Sequence[Reading]) -> Verdict:
        """Confirmed if all figures are as claimed. Raises `ValueError` for a measured claim without any."""
        if self.measured is None:
            return Verdict.NOT_HERE
        if not readings:
            raise ValueError(f"claim {self.key}: the measurement {self.measured} gave no figure for it")
        if self.at_least is None and self.at_most is None:
            return Verdict.SHOWN
        held = [self.holds(reading) for reading in readings]
        if all(held):
            return Verdict.CONFIRMED
        return Verdict.PARTLY if any(held) else Verdict.NOT_CONFIRMED


@dataclass(frozen=True, slots=True)
class Topic:
    """Claims that are told together."""

    title: str
    claims: tuple[Claim, ...]


def stated(folder: Path = STATED) -> list[Topic]:
    """Every claim, by topic, in the order of the files' names. Raises `ValueError` for a list that cannot be used."""
    topics = [_topic(tomllib.loads(file.read_text(encoding="utf-8"))) for file in sorted(folder.glob("*.toml"))]
    keys = [claim.key for topic in topics for claim in topic.claims]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"claims are named twice: {', '.join(twice)}")
    return topics


def _topic(fields: Mapping[str, Any]) -> Topic:
    claims = [Claim(**{**one, "texts": tuple(one["texts"])}) for one in fields["claim"]]
    return Topic(fields["title"], tuple(claims))
