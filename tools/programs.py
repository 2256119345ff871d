"""Install the programs that tests need and the package index does not have, where this may be done.

As root with apt it installs them; anywhere else it says in one line what is missing, and the tests that need it are
skipped (with CI=true they fail). `tests/programs.txt` is the list: a program and its Debian package in each line.
"""

import os
import shutil
import subprocess
from pathlib import Path

LIST = Path(__file__).resolve().parent.parent / "tests" / "programs.txt"
# Servers lie where users other than root often do not look.
_BESIDES = ("/usr/local/sbin", "/usr/sbin")


def wanted(text: str) -> dict[str, str]:
    """Map program to Debian package, from the lines of the list; `#` starts a comment."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return {words[0]: words[1] for words in lines if words}


def found(program: str) -> str | None:
    """Where a program is; None if it is nowhere."""
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), *_BESIDES)))


def missing(programs: dict[str, str]) -> dict[str, str]:
    """The part of `programs` that is nowhere."""
    return {program: package for program, package in programs.items() if found(program) is None}


def main() -> None:
    """Install what is missing, or say so."""
    absent = missing(wanted(LIST.read_text()))
    if absent and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {', '.join(absent)} ...", flush=True)
        # With the runlevel of a rescue, packages start no service: tests start their own servers.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *absent.values()]
        for command in (["apt-get", "update", "-qq"], install):
            subprocess.run(command, check=False, env=environment, stdout=subprocess.DEVNULL)
        absent = missing(absent)
    for program, package in absent.items():
        print(f"servery: {program} is missing (Debian: {package}); the tests that need it are skipped.")


if __name__ == "__main__":
    main()
