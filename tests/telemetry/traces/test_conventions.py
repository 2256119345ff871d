"""The names in traces are the pinned conventions' own, and the documentation has all of them."""

import re
from pathlib import Path

from opentelemetry.semconv import schemas
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes

from servery.telemetry.traces import conventions
from servery.upstream.ask import Api

ROOT = Path(__file__).parents[3]
USED = {name for names in conventions.ATTRIBUTES.values() for name in names}


def test_every_name_is_the_conventions_or_ours() -> None:
    modules = (gen_ai_attributes, error_attributes, http_attributes, server_attributes)
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    assert {name for name in USED if not name.startswith("servery.")} <= known


def test_the_version_is_one_that_there_is() -> None:
    assert conventions.SCHEMA_URL in {each.value for each in schemas.Schemas}
    assert conventions.VERSION in conventions.SOURCE


def test_every_api_has_its_operation() -> None:
    assert set(conventions.OPERATIONS) == {api.value for api in Api}


def test_the_page_names_every_attribute_and_no_other() -> None:
    page = (ROOT / "docs" / "traces.md").read_text()
    assert conventions.VERSION in page
    table = page.partition("| span | attributes |")[2].partition("\n\n")[0]
    content = {conventions.INPUT_MESSAGES, conventions.OUTPUT_MESSAGES}
    assert set(re.findall(r"`([a-z_]+\.[a-z_.]+)`", table)) == USED - content
