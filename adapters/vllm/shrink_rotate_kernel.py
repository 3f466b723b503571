"""The Triton kernel of shrink_rotate.py: one program for some tokens, which reads their x once."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def kernel(
    x, shrink, table, slots, out, tokens, features, x_stride, table_stride,
    RANK: tl.constexpr, TERMS: tl.constexpr, PADDED: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """x (tokens, features) of any float; shrink (TERMS, features), table (slots, .) and out (tokens, TERMS) float32.

    PADDED is a power of two of at least TERMS; TOKENS and FEATURES are how much of x is held at a time.
    """
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    terms = tl.arange(0, PADDED)
    h = tl.zeros((TOKENS, PADDED), dtype=tl.float32)
    for start in range(0, features, FEATURES):
        i = start + tl.arange(0, FEATURES)
        x_block = tl.load(
            x + t[:, None] * x_stride + i[None, :], mask=(t < tokens)[:, None] & (i < features)[None, :], other=0.0
        ).to(tl.float32)
        v_block = tl.load(
            shrink + terms[:, None] * features + i[None, :],
            mask=(terms < TERMS)[:, None] & (i < features)[None, :],
            other=0.0,
        )
        h += tl.sum(x_block[:, None, :] * v_block[None, :, :], axis=2)
    slot = tl.load(slots + t, mask=t < tokens, other=0)
    row, column = terms[:, None], terms[None, :]
    same_module = (row // RANK == column // RANK) & (row < TERMS) & (column < TERMS)
    place = (row // RANK) * RANK * RANK + (row % RANK) * RANK + column % RANK
    r = tl.load(
        table + slot[:, None, None] * table_stride + place[None, :, :],
        mask=(t < tokens)[:, None, None] & same_module[None, :, :],
        other=0.0,
    )
    g = tl.sum(r * h[:, None, :], axis=2)
    tl.store(out + t[:, None] * TERMS + terms[None, :], g, mask=(t < tokens)[:, None] & (terms < TERMS)[None, :])
