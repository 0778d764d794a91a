"""Problem set 6: Find the bug."""
