"""llama.cpp through llama-cpp-python: its own decoding of a batch, with the likeliest token taken by numpy."""

import ctypes
from pathlib import Path
from typing import Any

import numpy
import torch

from qwen3_scratch import Error

from .contestants import Decoded, Decoder, Prompts
from .measure import need, now

NOT_INSTALLED = "llama-cpp-python is not installed"
# Kinds of numbers of its key/value cache, as ggml counts them. fp16 is its default, kept where the weights are bf16.
CACHE_KINDS = {"float32": 0, "bfloat16": 1}
# Its flash attention computes partly in fp16: in a batch, tokens of fp32 weights then differ from everyone else's. So
# it is off for fp32, and left to llama.cpp (-1), which takes it, for bf16.
FLASH_ATTENTION = {"float32": 0, "bfloat16": -1}


class Llama:
    """A GGUF model on the CPU with as many threads as torch uses; `close` frees it."""

    def __init__(self, path: Path, dtype: str):
        try:
            import llama_cpp
        except ImportError:
            raise Error(NOT_INSTALLED) from None
        self.api, self.dtype = llama_cpp, dtype
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(quiet(llama_cpp), ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        need(self.model is not None, f"{path}: llama.cpp cannot load this file: delete it, so that it is written anew")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def close(self) -> None:
        self.api.llama_model_free(self.model)

    def decoder(self) -> Decoder:
        """A context of its own for each run, as large as the run needs."""

        def decode(prompts: Prompts, steps: int) -> Decoded:
            rows, length = len(prompts), len(prompts[0])
            context = self.context(rows, length + steps + 1)
            try:
                token_ids = self.feed(context, prompts, 0)
                chosen, start = [token_ids], now()
                for step in range(steps):
                    token_ids = self.feed(context, [[token] for token in token_ids], length + step)
                    chosen.append(token_ids)
                return Decoded((now() - start) / steps, [list(row) for row in zip(*chosen, strict=True)])
            finally:
                self.api.llama_free(context)

        return decode

    def context(self, rows: int, length: int) -> Any:
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = rows * (-(-length // 256) * 256), rows
        params.n_batch = params.n_ubatch = max(rows * length, 32)
        params.n_threads = params.n_threads_batch = torch.get_num_threads()
        params.type_k = params.type_v = CACHE_KINDS[self.dtype]
        params.flash_attn_type = FLASH_ATTENTION[self.dtype]
        context = self.api.llama_init_from_model(self.model, params)
        need(context is not None, f"llama.cpp makes no context for {rows} rows of {length} tokens: ask for fewer")
        return context

    def feed(self, context: Any, tokens: Prompts, start: int) -> list[int]:
        """Reads new tokens of every row, of one length, at positions from `start` on; each row's likeliest next one."""
        length = len(tokens[0])
        batch = self.api.llama_batch_init(len(tokens) * length, 0, 1)
        try:
            batch.n_tokens = len(tokens) * length
            for place in range(batch.n_tokens):
                row, column = divmod(place, length)
                batch.token[place], batch.pos[place] = tokens[row][column], start + column
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
                batch.logits[place] = column == length - 1
            failed = self.api.llama_decode(context, batch)
            need(failed == 0, f"llama.cpp answers {failed} to {batch.n_tokens} tokens, expected 0: ask for fewer")
            found = self.api.llama_get_logits(context)
            logits = numpy.ctypeslib.as_array(found, shape=(len(tokens), self.vocab_size))
            return logits.argmax(axis=-1).tolist()
        finally:
            self.api.llama_batch_free(batch)


_QUIET: list[Any] = []  # the library calls it for as long as the process lives


def quiet(api: Any) -> Any:
    if not _QUIET:
        _QUIET.append(api.llama_log_callback(lambda level, text, data: None))
    return _QUIET[0]


def system_info() -> str | None:
    """Which instructions llama.cpp was built with, in its own words; None where it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        return None
    return llama_cpp.llama_print_system_info().decode().strip(" |")
