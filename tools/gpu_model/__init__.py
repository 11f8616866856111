"""Predicts, without a GPU, how near each hot kernel comes to the copy bandwidth of a GPU, and why it falls short.

`launches` records what the operators launch at real sizes, `sass` reads the machine code of those kernels, `walk` follows one
warp through it, and `multiprocessor` times the warps of one multiprocessor on the figures of `gpus`. `__main__`
writes the record.
"""
