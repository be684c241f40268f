"""The command line of the project."""

from lightning.pytorch.cli import LightningCLI

if __name__ == "__main__":
    LightningCLI()
