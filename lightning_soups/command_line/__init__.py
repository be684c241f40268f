"""What the command line does besides calling a trainer."""
