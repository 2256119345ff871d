import os
import re
from pathlib import Path

import pytest

from servery.cli import parser
from servery.config.errors import ConfigError
from servery.config.types import LedgerConfig
from servery.server.command import serve_options
from servery.server.option_error import OptionError
from servery.server.options import ServeOptions

FILE = """
server: {{ port: 1234, api_keys: [secret-key], ledger: rows.sqlite, drain_timeout: 3s }}
deployments:
  here: {{ kind: embedded, model: amuse, engine: {engine} }}
  there: {{ kind: openai, model: gpt, api_key: k, url: "http://127.0.0.1:9/v1", price: free }}
models:
  chat: {{ deployments: [[here], [there]], timeouts: {{ total: 5m }} }}
"""


def options(
    folder: Path, *arguments: str, engine: str = "{ max_running: 3, kv_memory: 4MiB, no_prefix_cache: true }"
) -> ServeOptions:
    file = folder / "servery.yaml"
    file.write_text(FILE.format(engine=engine))
    defaults = vars(parser().parse_args(["serve"]))
    return serve_options(parser().parse_args(["serve", "--config", str(file), *arguments]), defaults)


def test_the_file_says_what_the_command_line_would(tmp_path: Path) -> None:
    made = options(tmp_path)
    said = (made.port, made.api_keys, made.ledger, made.drain_timeout_s, made.request_timeout_s)
    assert said == (1234, ("secret-key",), LedgerConfig(path=tmp_path / "rows.sqlite"), 3.0, 300.0)
    (engine,) = made.models
    assert engine.name == "here"
    assert (engine.engine.max_running, engine.engine.kv_memory_bytes, engine.engine.prefix_cache) == (3, 4 << 20, False)
    assert made.config is not None
    assert list(made.config.models) == ["chat"]


def test_what_is_of_this_machine_may_stand_beside_the_file(tmp_path: Path) -> None:
    made = options(tmp_path, "--port", "0", "--host", "0.0.0.0", "--api-key", "other", "--admin-key", "boss")
    assert (made.port, made.host, made.api_keys, made.admin_keys) == (0, "0.0.0.0", ("secret-key", "other"), ("boss",))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["amuse"], "MODEL"), (["--max-running", "9"], "--max-running"), (["--alias", "a=b"], "--alias")],
)
def test_what_belongs_into_the_file_is_refused_beside_it(tmp_path: Path, arguments: list[str], named: str) -> None:
    with pytest.raises(OptionError, match=f"^{named} cannot be given beside --config; say it in the file"):
        options(tmp_path, *arguments)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            "{ max_runing: 3 }",
            "line 4: deployments.here.engine.max_runing: an engine has no such setting. Did you mean 'max_running'?",
        ),
        ("{ max_running: many }", "line 4: deployments.here.engine.max_running: 'many' is not a whole number"),
        ("{ dtype: float8 }", "line 4: deployments.here.engine.dtype: invalid choice"),
    ],
)
def test_a_setting_that_no_engine_has_is_refused_with_its_line_and_key(
    tmp_path: Path, engine: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        options(tmp_path, engine=engine)


def test_a_file_that_is_wrong_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 4: deployments\.here"):
        options(tmp_path, engine="{}, nonsense: 1")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    asked = parser().parse_args(["serve", "--config", os.fspath(tmp_path / "none.yaml")])
    with pytest.raises(ConfigError, match="cannot be read"):
        serve_options(asked, vars(parser().parse_args(["serve"])))
