"""``python -m tailrace_demo`` is ``cdc demo``."""

import sys

from tailrace_demo.demo import main

if __name__ == "__main__":
    sys.exit(main())
