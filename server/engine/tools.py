"""vLLM's flags for tools, filled in where the operator left them open (tool_formats.py has the table).

They are settled when the engine's configuration is known, before it starts: only then is it certain which template the
model is served with, since a tokenizer may have several and vLLM has some of its own.

    --tool-call-parser NAME       is taken as it is, and switches tools on
    --no-enable-auto-tool-choice  requests with tools are refused
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from vllm.renderers.chat_utils import load_chat_template
from vllm.renderers.hf import resolve_chat_template
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.tool_parsers import ToolParserManager
from vllm.utils.mistral import is_mistral_tokenizer

from server.engine.tool_formats import ToolFlags, choose_tools

OFF = "The server was started with --no-enable-auto-tool-choice. Leave `tools` out, or start it without that flag."
UNKNOWN = (
    "No tool-call format is known for this model's chat template. Start the server with --tool-call-parser NAME (vLLM "
    "lists them under tool calling), and with --chat-template FILE where the model's own does not mention tools."
)


def leave_tools_open(parser: ArgumentParser) -> None:
    """Let what the operator says of tools be told from nothing (None)."""
    parser.set_defaults(enable_auto_tool_choice=None)


def check_tool_flags(args: Namespace, parser: ArgumentParser) -> None:
    """Exits with a sentence where the operator's flags do not go together."""
    if args.enable_auto_tool_choice and not args.tool_call_parser:
        parser.error("--enable-auto-tool-choice needs --tool-call-parser; with neither, one that fits is used")
    if args.tool_call_parser is None or args.enable_auto_tool_choice is False:
        return
    args.enable_auto_tool_choice = True
    known = ToolParserManager.list_registered()
    if not args.tool_parser_plugin and args.tool_call_parser not in known:
        parser.error(f"--tool-call-parser is {args.tool_call_parser!r}, expected one of {', '.join(known)}")


def settle_tools(args: Namespace, model_config: Any) -> None:
    """Fill in the flags that are still open. Reads the model's tokenizer."""
    if args.enable_auto_tool_choice is not None or model_config.runner_type != "generate":
        return
    tokenizer = cached_tokenizer_from_config(model_config)
    if is_mistral_tokenizer(tokenizer):  # has no template: the format is a part of it
        flags = ToolFlags("mistral")
    else:
        given = load_chat_template(args.chat_template)
        own = resolve_chat_template(tokenizer, given, [], model_config=model_config)
        flags = choose_tools(own, model_config.hf_config.model_type, may_extend=given is None)
    if flags.parser is None:
        return
    args.enable_auto_tool_choice, args.tool_call_parser = True, flags.parser
    args.chat_template = flags.chat_template or args.chat_template
    if flags.strict_level is not None and args.tool_strict_level == "auto":
        args.tool_strict_level = flags.strict_level


def why_no_tools(args: Namespace) -> str | None:
    """Why requests with tools are refused; None where they are served. Call it when they are settled."""
    if args.enable_auto_tool_choice:
        return None
    return UNKNOWN if args.enable_auto_tool_choice is None else OFF
