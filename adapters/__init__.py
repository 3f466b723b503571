"""What a TinyLoRA vector is and does: recipes, factors of a base model, codec, reconstruction, imports, vLLM plugin.

No HTTP and no database here; only the `vllm_*` modules import vLLM.
"""
