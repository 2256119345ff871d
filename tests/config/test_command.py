"""`servery config`: a file is judged, and the shipped example is right by every measure."""

import json
import os
from datetime import date
from pathlib import Path

import jsonschema
import pytest
import yaml

from servery.cli import main
from servery.config.catalog import shipped_catalog
from servery.config.types import Kind


def test_the_example_is_right_and_fits_the_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "example"]) == 0
    example = capsys.readouterr().out
    file = tmp_path / "servery.yaml"
    file.write_text(example)
    assert main(["config", "check", str(file)]) == 0
    assert f"{file} is right: 3 models, 6 deployments." in capsys.readouterr().out
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(example))


def test_prices_say_where_they_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "servery.yaml"
    file.write_text(
        "deployments:\n"
        "  a: {kind: openai, model: gpt-5.4-mini, api_key: k}\n"
        "  b: {kind: anthropic, model: claude-opus-5, api_key: k}\n"
        "  c: {kind: openai, model: gpt-5, api_key: k, price: {input: 1, output: 2}}\n"
        "models:\n  m: {deployments: [a, b, c]}\n"
    )
    assert main(["config", "check", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  price of a: read 2026-11-21 at https://github.com/BerriAI/litellm (1.106.2), at second hand",
        "  price of b: read 2026-11-21 at https://platform.claude.com/docs/en/about-claude/pricing",
    ]


def test_every_price_of_the_catalog_has_a_place_and_a_day() -> None:
    catalog = shipped_catalog()
    for kind in (Kind.OPENAI, Kind.ANTHROPIC):
        for name in catalog.names(kind):
            source = catalog.source(kind, name)
            assert source is not None, name
            assert source.url.startswith("https://")
            date.fromisoformat(source.read)


@pytest.mark.parametrize("wrong", ["{ttft: 5, tpot: 1s}", "{ttft: 5s}", "{ttft: 5 parsecs, tpot: 1s}"])
def test_the_schema_finds_what_an_editor_should_underline(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "schema"])
    schema = json.loads(capsys.readouterr().out)
    text = f"deployments: {{a: {{kind: embedded}}}}\nmodels: {{m: {{deployments: [a], slo: {wrong}}}}}"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema)


def test_a_wrong_file_is_told_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "servery.yaml"
    file.write_text("deployments:\n  a: {kind: vlm}\nmodels:\n  m: {deployments: [a], place: near}\n")
    assert main(["config", "check", str(file)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" is no choice")[0] for line in told] == [
        f"{file}: line 2: deployments.a.kind: 'vlm'",
        f"{file}: line 4: models.m.place: 'near'",
    ]
    assert main(["config", "check", str(tmp_path / "none.yaml")]) == 1
    assert os.strerror(2) in capsys.readouterr().err
