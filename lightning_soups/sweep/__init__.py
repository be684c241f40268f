"""Sweeps: N fits over a search space, each leaving ingredients. Needs the ``sweep`` extra (Optuna)."""
