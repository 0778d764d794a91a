"""One model on many devices: `slices` of weights and the sums where they meet, and the `launch` of many processes.

Uses checkpoints and the model; `generate` and `forward` run on slices as they are.
"""
