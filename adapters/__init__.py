"""What a TinyLoRA vector is and does. No HTTP and no database here; only `adapters.vllm` imports vLLM.

    vector       recipes, bytes and numbers of a vector, mixing, the fixed random projection
    factors      U, S, V of a base model's matrices, in one file
    apply        vector and factors to matrices: for the engine, and for training
    checkpoints  other libraries' checkpoints, in and out
    vllm         the plugin by which vLLM applies adapters per request

Imports go up this list and never down (checkpoints and vllm know nothing of each other).
The capital letters behind names of tensors are their dimensions: docs/tensor-names.md.
"""
