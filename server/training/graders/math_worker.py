"""`python -m server.training.graders.math_worker`: says, line by line, whether two pieces of mathematics are equal.

A line in: {"reference": "...", "answer": "...", "timeout_s": 5}. A line out: {"equal": true} or {"error": "..."}.

It is a process because math-verify limits its time with signals, which reach only a main thread, and because sympy can
hang in one long operation all the same. The kernel ends the process when it has used several times the CPU time of one
comparison, even when its parent is gone.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import sys
from typing import Any

from math_verify import (  # type: ignore[import-untyped]
    ExprExtractionConfig,
    LatexExtractionConfig,
    parse,
    verify,
)
from math_verify.errors import TimeoutException  # type: ignore[import-untyped]

MEMORY_BYTES = 4 * 2**30
_LATEX = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
_PLAIN = (ExprExtractionConfig(),)
_WORD = re.compile(r"[A-Za-z]{3,}")
# 1.6e-3, as programs write numbers.
_SCIENTIFIC = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)[eE]([-+]?\d+)(?![\w.])")
_MATHS = re.compile(r"[\\(^=*_]")


def main() -> None:
    """Serve standard input until it ends."""
    logging.disable(logging.CRITICAL)  # math-verify logs every text that it cannot parse.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        _limit_cpu(4 * request["timeout_s"] + 2)
        try:
            answer: dict[str, object] = {"equal": equal(request["reference"], request["answer"], request["timeout_s"])}
        except TimeoutException:
            answer = {"error": "it took too long"}
        except Exception as error:  # sympy, on whatever a model wrote
            answer = {"error": f"{type(error).__name__}: {str(error)[:200]}" if str(error) else type(error).__name__}
        print(json.dumps(answer), flush=True)


def equal(reference: str, answer: str, timeout_s: int) -> bool:
    """Whether `answer` is mathematically equal to `reference`; compared as texts when one of them cannot be parsed."""
    if reference.split() == answer.split():
        return True
    gold, given = _parse(reference, timeout_s), _parse(answer, timeout_s)
    if not gold or not given:
        return reference.casefold().split() == answer.casefold().split()
    return bool(verify(gold, given, timeout_seconds=timeout_s, raise_on_error=True))


def _parse(text: str, timeout_s: int) -> list[Any]:
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    # As LaTeX "Paris" would be a product of five variables, equal to "pairs". In plain text numbers are still found.
    if _WORD.search(text) and not _MATHS.search(text):
        return list(parse(text, _PLAIN, fallback_mode="no_fallback", parsing_timeout=timeout_s))
    return list(parse(f"\\boxed{{{text}}}", _LATEX, parsing_timeout=timeout_s))


def _limit_cpu(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, hard))


if __name__ == "__main__":
    main()
