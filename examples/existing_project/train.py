"""python train.py fit --config config.yaml --trainer.logger.version lr-0.01 --model.lr 0.01"""

from lightning.pytorch.cli import LightningCLI

if __name__ == "__main__":
    LightningCLI()
