"""All fields of vLLM's requests to the model, as of the version that is pinned; see the test that compares them."""

# fmt: off
KNOWN_FIELDS = frozenset((
    "add_generation_prompt", "add_special_tokens", "allowed_token_ids", "apply_softmax", "audio", "background",
    "bad_words", "best_of", "cache_salt", "chat_template", "chat_template_kwargs", "content_parts",
    "continue_final_message", "data", "data_1", "data_2", "dimensions", "documents", "early_stopping",
    "ec_transfer_params", "echo", "embed_dtype", "enable_response_messages", "encoding_format", "endianness",
    "features", "frequency_penalty", "guided_decoding_backend", "ignore_eos", "images", "include", "include_reasoning",
    "include_stop_str_in_output", "input", "instruction", "instructions", "item_first", "items", "kv_transfer_params",
    "label_token_ids", "length_penalty", "logit_bias", "logprob_token_ids", "logprobs", "max_completion_tokens",
    "max_output_tokens", "max_tokens", "max_tokens_per_doc", "max_tokens_per_query", "max_tool_calls",
    "media_io_kwargs", "messages", "metadata", "min_p", "min_tokens", "mm_payload", "mm_processor_kwargs", "model", "n",
    "output_config", "output_mode", "padding", "parallel_tool_calls", "presence_penalty", "previous_input_messages",
    "previous_response_id", "priority", "prompt", "prompt_cache_key", "prompt_embeds", "prompt_logprobs", "queries",
    "query", "questions", "reasoning", "reasoning_effort", "reasoning_ended", "reasoning_parser_kwargs",
    "repetition_detection", "repetition_penalty", "request_id", "response_format", "return_mm_kwargs",
    "return_prompt_text", "return_token_ids", "return_token_offsets", "return_tokens_as_token_ids",
    "routed_experts_prompt_start", "sampling_params", "seed", "service_tier", "session_id", "skip_special_tokens",
    "spaces_between_special_tokens", "state", "stop", "stop_sequences", "stop_token_ids", "store", "stream",
    "stream_interval", "stream_options", "structured_outputs", "suffix", "system", "task", "temperature", "text",
    "text_1", "text_2", "thinking", "thinking_token_budget", "token_ids", "token_offsets", "tool_choice", "tools",
    "top_k", "top_logprobs", "top_n", "top_p", "truncate_prompt_tokens", "truncation", "truncation_side",
    "use_activation", "use_beam_search", "user", "videos", "vllm_xargs", "watermarking",
))
# fmt: on
