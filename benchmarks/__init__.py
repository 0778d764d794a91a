"""How fast the model is beside its peers: one script a question, run as `python -m benchmarks.decode --help`."""
