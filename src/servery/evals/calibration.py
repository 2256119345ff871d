"""The text that weights were calibrated on, as part of the settings of a run: by its hash, not by its name alone."""

from pathlib import Path
from typing import Any

from servery.evals.errors import OptionError
from servery.evals.fingerprint import sha256_of

_PATH, _SHA256 = "calibration", "calibration_sha256"


def bound(engine: dict[str, Any]) -> dict[str, Any]:
    """Settings of the engine with the text's full path and SHA-256, if they name one.

    Raises `OptionError` if it cannot be read.
    """
    if engine.get(_PATH) is None:
        return engine
    path = Path(engine[_PATH]).resolve()
    try:
        return engine | {_PATH: str(path), _SHA256: sha256_of(path)}
    except OSError as error:
        raise OptionError(f"the calibration text {engine[_PATH]} cannot be read: {error.strerror}.") from error


def problem(engine: dict[str, Any]) -> str | None:
    """What is wrong now with the text that settings name; None: it is the same, or there is none."""
    if engine.get(_PATH) is None:
        return None
    path = Path(engine[_PATH])
    try:
        is_same = sha256_of(path) == engine.get(_SHA256)
    except OSError as error:
        return f"calibration text {path} cannot be checked: {error.strerror}"
    return None if is_same else f"calibration text {path} is not the one that was used"
