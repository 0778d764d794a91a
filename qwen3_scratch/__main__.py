"""`python -m qwen3_scratch` is the command `qwen3-scratch`."""

from .terminal.commands import main

if __name__ == "__main__":
    main()
