"""What a recipe can ask, and how Lightning's validate loop answers."""
