"""Problem set 4: Forward pass and cache."""
