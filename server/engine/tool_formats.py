"""How a model writes tool calls: which of vLLM's parsers reads them, unless the operator names one.

Design decision: by the model's chat template, not by its name or architecture. The template tells the model how to
write a call, and fine-tunes of one architecture differ in it. A template that never mentions tools would leave them out
of the prompt, so it has no parser.

The embedded model has such a template. It is extended by a part for tools in the format of Hermes; requests without
tools are rendered by the original.

It does not read vLLM's flags or the model's files (engine/tools.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TOOLS_TEMPLATE = Path(__file__).with_name("embedded_model_tools.jinja")
# Of SmolLM2-Instruct, in all sizes.
EMBEDDED_MARK = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """`parser` reads what models write whose chat template has all of `marks`; of `model_types` only, if any.

    The first mark is what it looks for in an answer.
    """

    parser: str
    marks: tuple[str, ...]
    model_types: frozenset[str] = frozenset()

    def fits(self, chat_template: str, model_type: str) -> bool:
        known = not self.model_types or model_type in self.model_types
        return known and all(mark in chat_template for mark in self.marks)


@dataclass(frozen=True, slots=True)
class ToolFlags:
    """Values of vLLM's flags --tool-call-parser, --chat-template and --tool-strict-level; None leaves one as it is."""

    parser: str | None
    chat_template: str | None = None
    strict_level: str | None = None


# The first that fits is taken: those that share a mark with a more general one come before it.
TOOL_FORMATS = (
    ToolFormat("glm47", ("<tool_call>", "<arg_key>"), frozenset({"glm4_moe", "glm4_moe_lite", "glm_moe_dsa"})),
    ToolFormat("qwen3_coder", ("<tool_call>", "<function=")),
    ToolFormat("granite4", ("<tool_call>",), frozenset({"granitemoehybrid"})),
    ToolFormat("granite", ("<|tool_call|>",), frozenset({"granite", "granitemoe", "granitemoeshared"})),
    ToolFormat("ernie45", ("<tool_call>",), frozenset({"ernie4_5", "ernie4_5_moe"})),
    ToolFormat("hunyuan_a13b", ("<tool_calls>",), frozenset({"hunyuan", "hunyuan_v1_dense", "hunyuan_v1_moe"})),
    ToolFormat("jamba", ("<tool_calls>",), frozenset({"jamba"})),
    ToolFormat("olmo3", ("<function_calls>",), frozenset({"olmo3"})),
    ToolFormat("deepseek_v3", ("tool▁calls▁begin", "```json")),
    ToolFormat("deepseek_v31", ("tool▁calls▁begin",)),
    ToolFormat("kimi_k2", ("<|tool_calls_section_begin|>",)),
    ToolFormat("minimax_m2", ("<minimax:tool_call>",)),
    ToolFormat("seed_oss", ("<seed:tool_call>",)),
    ToolFormat("longcat", ("<longcat_tool_call>",)),
    ToolFormat("lfm2", ("<|tool_call_start|>",)),
    ToolFormat("internlm", ("<|action_start|>",)),
    ToolFormat("phi4_mini_json", ("functools",)),
    ToolFormat("mistral", ("[TOOL_CALLS]",)),
    ToolFormat("llama3_json", ("parameters", "dictionary of argument name", "<|start_header_id|>")),
    ToolFormat("hermes", ("<tool_call>", "arguments")),
)


def parser_for(chat_template: str | None, model_type: str) -> str | None:
    """The name of the parser for a model with this template; None where none is known."""
    if not _mentions_tools(chat_template):
        return None
    assert chat_template is not None
    return next((known.parser for known in TOOL_FORMATS if known.fits(chat_template, model_type)), None)


def with_tools(chat_template: str | None) -> str | None:
    """The embedded model's template with a part for tools; any other as it is."""
    if chat_template is None or EMBEDDED_MARK not in chat_template or _mentions_tools(chat_template):
        return chat_template
    tools = TOOLS_TEMPLATE.read_text(encoding="utf-8")
    return tools.replace("{#- the model's own template -#}", chat_template)


def choose_tools(chat_template: str | None, model_type: str, *, may_extend: bool) -> ToolFlags:
    """What a model needs that is served with this template, which `may_extend` allows to be extended."""
    extended = with_tools(chat_template) if may_extend else chat_template
    if extended != chat_template:
        # So small a model seldom writes arguments that fit their schema unless it can write nothing else.
        return ToolFlags(parser_for(extended, model_type), extended, "parameter")
    return ToolFlags(parser_for(chat_template, model_type))


def _mentions_tools(chat_template: str | None) -> bool:
    return chat_template is not None and re.search(r"\btools\b", chat_template) is not None
