"""Problem set 7: Training."""
