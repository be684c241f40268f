"""One file for each kind of checkpoint; :func:`~lightning_soups.weights.read_checkpoint` chooses. Nothing runs code."""
