"""Problem set 2: Attention."""
