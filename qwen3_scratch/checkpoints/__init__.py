"""Files <-> a `Checkpoint`: config.json, weights by name and shape, saving as a whole, verifying a folder.

Uses the model's tree, the tokenizer, `trust` for every file that it opens and `hub` for names that are no folder.
"""
