"""`python -m servery.telemetry.monitoring FOLDER`: write the files into a folder."""

import argparse
import sys
from pathlib import Path

from servery.telemetry import monitoring


def main() -> int:
    """Write them and name them; 1 where that cannot be done, and nothing that was there is overwritten."""
    parser = argparse.ArgumentParser(prog="python -m servery.telemetry.monitoring", description=monitoring.__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder: Path = parser.parse_args().folder
    try:
        paths = monitoring.write(folder)
    except FileExistsError as error:
        sys.stderr.write(f"{error.filename} is there already; name another folder, or move it away.\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{folder} cannot be written to: {error.strerror}.\n")
        return 1
    sys.stdout.write("".join(f"{path}\n" for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
