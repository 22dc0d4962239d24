"""Chunks of matrices over threads, one processor each: small products gain little from several threads of BLAS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch


def for_each(work: Callable[[slice], None], chunks: Sequence[slice], device: torch.device) -> None:
    """Call `work` on every chunk: on a CPU with several threads at once, if there are several chunks.

    There are as many threads as torch may use in the calling one (`torch.get_num_threads`), each with one thread of
    BLAS. Without a barrier at each product the call is not held up where other programs use the processors, too. The
    calling thread's own number of threads never changes, and threads that start later get it again.

    Raises:
        Exception: The error of the first chunk that raised one.
    """
    threads = min(torch.get_num_threads(), len(chunks)) if device.type == "cpu" else 1
    if threads < 2:
        for chunk in chunks:
            work(chunk)
        return
    kept = torch.get_num_threads()
    inference = torch.is_inference_mode_enabled()
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            for done in [pool.submit(_quietly, work, chunk, inference) for chunk in chunks]:
                done.result()
    finally:
        torch.set_num_threads(kept)


def _quietly(work: Callable[[slice], None], chunk: slice, inference: bool) -> None:
    """Without gradients, which are recorded or not for each thread on its own."""
    with torch.inference_mode() if inference else torch.no_grad():
        work(chunk)
