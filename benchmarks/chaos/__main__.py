"""Half an hour of mixed load on a real gateway while everything around it falls: what must hold, and whether it did.

A gateway with two engines of its own, a Servery elsewhere and an API that fails by chance; clients that chat, complete, read
slowly and leave; batches. Engines and servers are killed (SIGKILL) and stopped (SIGSTOP), connections reset, the
configuration read again. At the end every exchange has one outcome, of which client and ledger agree (status, tokens);
answers at temperature 0 or with a seed have the same bytes, whoever gave them; nothing is held that is not used; memory
is flat. Ends with 1 if anything of that does not hold.

python -m benchmarks.chaos [--minutes 30] [--rate 2] [--trouble-every 15] [--seed 1] [--folder DIRECTORY]
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.run import ChaosOptions, run
from benchmarks.result import publish
from benchmarks.served import end_servers_on_sigterm


def main() -> int:
    """Run, print, publish; 1 if something did not hold."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=30.0)
    arguments.add_argument("--rate", type=float, default=2.0, help="questions per second")
    arguments.add_argument("--trouble-every", type=float, default=15.0, help="seconds, on average")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--folder", type=Path, help="where logs and ledger are left; else they are not kept")
    given = arguments.parse_args()
    options = ChaosOptions(minutes=given.minutes, rate=given.rate, trouble_every_s=given.trouble_every, seed=given.seed)
    end_servers_on_sigterm()
    figures = run(options, given.folder)
    table = Table("what", "how often")
    for name, count in {**figures["counts"], **figures["trouble"]}.items():
        table.add_row(name, str(count))
    console = Console(stderr=True)
    console.print(table)
    for violation in figures["violations"]:
        console.print(f"did not hold: {violation}", markup=False, highlight=False)
    settings = {name: value for name, value in vars(given).items() if name != "folder"}
    publish("chaos", {"settings": settings, **figures})
    return 1 if figures["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
