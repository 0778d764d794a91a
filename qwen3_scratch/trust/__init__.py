"""What is asked of things that others made before they are used: files, weight tables, tokenizers, templates, memory.

Uses nothing of this package but its errors.
"""
