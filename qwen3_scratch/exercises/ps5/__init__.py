"""Problem set 5: Sampling and chat."""
