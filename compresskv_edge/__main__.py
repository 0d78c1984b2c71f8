"""`python -m compresskv_edge` is `compresskv`."""

from .cli import main

if __name__ == "__main__":
    main()
