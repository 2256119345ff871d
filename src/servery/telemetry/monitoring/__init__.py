"""Files for whoever watches a server: rules for Prometheus, a dashboard for Grafana, a collector's configuration for AWS.

`python -m servery.telemetry.monitoring FOLDER` writes them.
"""

from importlib.resources import files
from pathlib import Path

NAMES = ("rules.yaml", "prometheus.yaml", "grafana.json", "collector-aws.yaml")


def shipped(name: str) -> str:
    """One of `NAMES` as it is; raises `KeyError` for another."""
    if name not in NAMES:
        raise KeyError(f"{name} is none of {', '.join(NAMES)}")
    return (files(__name__) / name).read_text()


def write(folder: Path) -> list[Path]:
    """Write all of them into a folder, where none of them is yet; raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in NAMES]
    for path in paths:
        with path.open("x") as file:
            file.write(shipped(path.name))
    return paths
