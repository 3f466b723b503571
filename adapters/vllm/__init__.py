"""TinyLoRA in vLLM: the plugin, the manager in LoRA's place, the layer, and the table of matrices."""
