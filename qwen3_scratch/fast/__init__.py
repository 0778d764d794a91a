"""The model's own steps made fast, each proved equal to its namesake in `model.py`.

`eager` reads prompts and decodes without compiling, `dispatch` and `streamed` are other forms of single steps,
`compiled(checkpoint)` and `int8(checkpoint)` give the same checkpoint with a compiled way to decode. Uses checkpoints,
the cache and the model.
"""
