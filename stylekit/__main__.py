"""`python -m stylekit`, which is `stylekit`."""

from stylekit.cli import main

if __name__ == "__main__":
    main()
