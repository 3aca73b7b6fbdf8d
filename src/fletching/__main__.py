"""``python -m fletching`` is the ``fletching`` command."""

from fletching.cli import main

if __name__ == "__main__":
    main()
