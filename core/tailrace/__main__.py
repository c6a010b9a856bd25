"""``python -m tailrace`` is ``cdc``."""

from tailrace.cli import main

if __name__ == "__main__":
    main()
