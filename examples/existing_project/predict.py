"""python predict.py CHECKPOINT: how often the model is right on the test digits."""

import sys

import torch
from digits import DigitsData, DigitsNet

model = DigitsNet.load_from_checkpoint(sys.argv[1]).eval()
data = DigitsData()
data.setup()
images, labels = data.test.tensors
with torch.no_grad():
    right = (model(images).argmax(dim=1) == labels).float().mean()
print(f"{right:.4f} of {len(labels)} test digits are recognized.")
