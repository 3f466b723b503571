"""Tiny models of random weights that read images: SmolVLM's family, whose text model is a Llama, with all that serving
takes; and the weights of families whose text model has another name in transformers than in the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{{ "<image>" if part.type == "image" else part.text }}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SIDE = 56


def save_vision_model(path: Path, tokenizer_of: Path) -> Path:
    """Save it as `path`, which is returned, with the tokenizer of the model `tokenizer_of`."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    tokenizer.chat_template = TEMPLATE
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, pad_token_id=0,
    )  # fmt: skip
    vision = Idefics3VisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=14
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = Idefics3Config(
        vision_config=vision, text_config=text, image_token_id=image_token, scale_factor=2, pad_token_id=0
    )
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(config).float()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 3  # so that images and adapters move the answers
    model.save_pretrained(path)
    # Without torchvision, which has no build for the pinned torch on a CPU.
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    processor = Idefics3Processor(image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=TEMPLATE)
    processor.save_pretrained(path)
    return path


TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
    "patch_size": 14,
}  # fmt: skip


def _gemma3() -> Any:
    images = {"mm_tokens_per_image": 4, "image_token_index": 255, "boi_token_index": 254, "eoi_token_index": 253}
    return transformers.Gemma3Config(
        text_config={**TEXT, "query_pre_attn_scalar": 32}, vision_config=TOWER, initializer_range=0.2, **images
    )


def _qwen2_5_vl() -> Any:
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    text = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}}
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config={**tower, "fullatt_block_indexes": [1]})


def _mistral3() -> Any:
    return transformers.Mistral3Config(
        text_config={**TEXT, "model_type": "mistral"},
        vision_config={**TOWER, "model_type": "pixtral", "head_dim": 16},
        image_token_index=255,
    )


VISION = {"gemma3": _gemma3, "qwen2_5_vl": _qwen2_5_vl, "mistral3": _mistral3}


def save_vision_family(path: Path, name: str) -> Path:
    """Save the weights of a model of VISION as `path`, which is returned."""
    torch.manual_seed(3)
    AutoModelForImageTextToText.from_config(VISION[name]()).float().save_pretrained(path)
    return path
