"""The Triton kernels of shrink.py and rotate.py. Products and sums are float32, without tf32.

They are compiled once for each layer's sizes, and not again for a number of tokens that is 1 or a multiple of 16, as
Triton would by itself: the first request of such a number would wait for it.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["tokens"])
def shrink(
    x, v, out, tokens, features, x_stride,
    TERMS: tl.constexpr, PADDED: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """One program: some tokens, and SPLIT features of x, which are read once.

    x (tokens, features) of any float; v (TERMS, features) and out (tokens, parts * TERMS) float32. PADDED is a power of
    two of at least TERMS; TOKENS and FEATURES are how much of x is held at a time.
    """
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    part = tl.program_id(1)
    terms = tl.arange(0, PADDED)
    h = tl.zeros((TOKENS, PADDED), dtype=tl.float32)
    for start in range(0, SPLIT, FEATURES):
        i = part * SPLIT + start + tl.arange(0, FEATURES)
        x_block = tl.load(
            x + t[:, None].to(tl.int64) * x_stride + i[None, :],
            mask=(t < tokens)[:, None] & (i < features)[None, :],
            other=0.0,
        ).to(tl.float32)
        v_block = tl.load(
            v + terms[:, None] * features + i[None, :],
            mask=(terms < TERMS)[:, None] & (i < features)[None, :],
            other=0.0,
        )
        h += tl.sum(x_block[:, None, :] * v_block[None, :, :], axis=2)
    tl.store(
        out + (t[:, None] * tl.num_programs(1) + part) * TERMS + terms[None, :],
        h,
        mask=(t < tokens)[:, None] & (terms < TERMS)[None, :],
    )


@triton.jit(do_not_specialize=["tokens"])
def rotate(
    h, table, slots, modules, out, tokens, h_stride, table_stride,
    PARTS: tl.constexpr, RANK: tl.constexpr, TERMS: tl.constexpr, OUTS: tl.constexpr, PADDED: tl.constexpr,
    TOKENS: tl.constexpr,
):  # fmt: skip
    """One program: some tokens.

    h (tokens, at least PARTS * TERMS) of any float, its last dimension dense; table (slots, .) float32; modules
    (OUTS / RANK,), or None: each module once; out (tokens, OUTS) float32. PADDED: a power of two of at least OUTS.
    """
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    outs = tl.arange(0, PADDED)
    valid = (t < tokens)[:, None] & (outs < OUTS)[None, :]
    module = outs // RANK
    if modules is not None:
        module = tl.load(modules + module, mask=outs < OUTS, other=0)
    slot = tl.load(slots + t, mask=t < tokens, other=0)
    r = table + slot[:, None] * table_stride + (module * RANK * RANK + outs % RANK * RANK)[None, :]
    first = h + t[:, None].to(tl.int64) * h_stride + (module * RANK)[None, :]
    g = tl.zeros((TOKENS, PADDED), dtype=tl.float32)
    for j in tl.static_range(RANK):
        sum_of_parts = tl.zeros((TOKENS, PADDED), dtype=tl.float32)
        for part in range(PARTS):
            sum_of_parts += tl.load(first + part * TERMS + j, mask=valid, other=0.0).to(tl.float32)
        g += tl.load(r + j, mask=valid, other=0.0) * sum_of_parts
    tl.store(out + t[:, None] * OUTS + outs[None, :], g, mask=valid)
