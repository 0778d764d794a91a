"""The command `qwen3-scratch`: `commands` are its words, `command_line` the options that they share, `keyboard` and
`screen` how it listens and talks, `report` what it tells.

Uses every other room but exercises.
"""
