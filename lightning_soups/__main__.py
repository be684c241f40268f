"""``python -m lightning_soups`` is ``lightning-soup``."""

from lightning_soups.cli import main

if __name__ == "__main__":
    main()
