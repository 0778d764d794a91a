"""The embedded checkpoint: the corpus it learned from, the recipe that trains it, the scores that are measured of it.

Uses learning, generation, tracing and plots.
"""
