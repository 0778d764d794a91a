"""Files <-> a `Checkpoint`: config.json, names of tensors, weights, adapters, saving as a whole, verifying a folder.

Uses the model's tree, the tokenizer, `trust` for every file that it opens and `hub` for names that are no folder.
"""
