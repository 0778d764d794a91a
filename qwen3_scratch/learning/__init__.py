"""How weights come about: `training` from a seed, `upcycling` a dense model to a mixture, `other_routers` to try.

Uses the model and checkpoints.
"""
