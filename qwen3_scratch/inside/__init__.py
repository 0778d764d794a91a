"""What the later notebooks look with: heads, comparisons of two implementations, mistakes on purpose, source listings,
and what it costs to cut a model over devices.

Uses generation, tracing, the slices of `devices` and the embedded checkpoint's questions.
"""
