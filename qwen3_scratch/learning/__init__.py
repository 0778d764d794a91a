"""How weights come about: `training` from a seed, and `upcycling` a dense model to a mixture.

Uses the model and checkpoints.
"""
