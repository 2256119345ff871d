"""`python -m servery` is `servery`."""

import sys

from servery.cli import main

if __name__ == "__main__":
    sys.exit(main())
