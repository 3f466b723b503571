"""The base model that answers: what the gateway asks of an engine (protocol), and vLLM as one (vllm)."""
