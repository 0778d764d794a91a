"""The command `qwen3-scratch`: `commands` are its words, `screen` is how it talks, `report` what it tells.

Uses every other room but exercises.
"""
