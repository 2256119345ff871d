"""`servery bench report`: read measurements that were written as JSON, and make their page."""

from pathlib import Path
from typing import Any

import msgspec
import orjson

from servery.bench.comparison import SCHEMA as COMPARE
from servery.bench.comparison import CompareReport
from servery.bench.comparison import write as write_comparison
from servery.bench.errors import ClientError
from servery.bench.goodput import SCHEMA as GOODPUT
from servery.bench.goodput import CapacityReport, conclusion
from servery.bench.page import write_page
from servery.bench.report import SCHEMA as RUN
from servery.bench.report import Report
from servery.bench.sweep import SCHEMA as SWEEP
from servery.bench.sweep import SweepReport

_FORMS: dict[str, Any] = {RUN: Report, SWEEP: SweepReport, GOODPUT: CapacityReport, COMPARE: CompareReport}


class BadReport(ClientError):
    """A file is no measurement of this version."""

    kind = "bad_report"


def run(files: list[str], html: Path | None, *, wants_schema: bool) -> int:
    """Write the page, or print the schema. Raises `BadReport`, `OSError`."""
    if wants_schema:
        print(orjson.dumps(schema(), option=orjson.OPT_INDENT_2).decode())
        return 0
    if not files or html is None:
        raise BadReport("Name at least one file that --json wrote, and the page to write with --html.")
    read_all = [read(Path(name)) for name in files]
    runs = [one for each in read_all for one in _runs(each)]
    found = read_all[0]
    if len(read_all) == 1 and isinstance(found, CapacityReport):
        write_page(html, runs, conclusion=conclusion(found), capacity=found.capacity)
    elif len(read_all) == 1 and isinstance(found, CompareReport):
        write_comparison(found, html)
    else:
        write_page(html, runs)
    return 0


def read(path: Path) -> Report | SweepReport | CapacityReport | CompareReport:
    """What was measured. Raises `BadReport`, `OSError`."""
    data = path.read_bytes()
    try:
        form = _FORMS[orjson.loads(data)["schema"]]
        found: Report | SweepReport | CapacityReport | CompareReport = msgspec.json.decode(data, type=form)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise BadReport(f"{path} is no measurement: its schema is none of {', '.join(_FORMS)}.") from None
    except msgspec.ValidationError as error:
        raise BadReport(f"{path} is not what its schema says: {error}.") from None
    return found


def schema() -> dict[str, Any]:
    """The JSON Schema of all forms of these files."""
    found, definitions = msgspec.json.schema_components(list(_FORMS.values()), ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "anyOf": found, "$defs": definitions}


def _runs(found: Report | SweepReport | CapacityReport | CompareReport) -> list[Report]:
    if isinstance(found, Report):
        return [found]
    return [*found.a, *found.b] if isinstance(found, CompareReport) else found.runs
