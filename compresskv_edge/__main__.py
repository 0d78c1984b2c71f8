"""`python -m compresskv_edge` is `compresskv`."""

from .apps.cli import main

if __name__ == "__main__":
    main()
