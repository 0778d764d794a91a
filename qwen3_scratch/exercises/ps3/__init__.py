"""Problem set 3: Router and experts."""
