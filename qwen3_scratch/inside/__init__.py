"""What the later notebooks look with: heads, comparisons of two implementations, mistakes on purpose, source listings.

Uses generation, tracing and the embedded checkpoint's questions.
"""
