"""Time and memory of one update, against the frozen model's own passes over the same tokens, and against PEFT.

    python -m benchmarks.train_step [--model DIRECTORY] [--prompts 2] [--completions 8] [--rounds 5] [--no-peft]

    limit    the frozen model's forward and backward pass over the same packed rows, gradients down to its embeddings;
             the loss is transformers' cross-entropy of the completions, in chunks of the vocabulary as large as ours,
             computed again in the backward pass
    ours     the trainer's update: SFT loss of one adapter
    peft     PEFT's LoRA of rank 2 on the same modules with the same loss; every sequence has a row of its own, padded,
             as TRL has them, in passes of as many tokens

All are alive and asked in turn. speed: relative to the limit, median over rounds with the lowest and the highest.
memory: most bytes of tensors beside the weights; on a GPU those that PyTorch allocated. Passes have the same limit of
tokens, which is the worker's default for the device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.build import find_or_build_factors
from adapters.factors.default_recipe import default_recipe
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from benchmarks.paired import in_turn, speed
from server.training.worker.device_memory import device_memory
from server.training.worker.forward import Task, forward_backward, in_passes
from server.training.worker.main import PASS_TOKENS
from server.training.worker.packing import TokenSequence, additive, pack_rows
from server.training.worker.pass_size import PassLimits
from server.training.worker.sft_objective import sft_objective

RANK = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the worker's")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--completions", type=int, default=8, help="of every prompt")
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--completion-tokens", type=int, default=50)
    parser.add_argument("--pass-tokens", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peft", action="store_true")
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype or ("bfloat16" if device == "cuda" else "float32"))
    sizes = PassLimits(tokens=args.pass_tokens or PASS_TOKENS[device])

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).to(device).eval()

    factors = find_or_build_factors(args.model, rank=RANK)
    update = (args.prompts, args.completions, args.prompt_tokens, args.completion_tokens)
    batch, runs = limit_and_ours(load(), factors, update, sizes)
    if not args.no_peft:
        peft = get_peft_model(load(), LoraConfig(r=RANK, target_modules=list(factors.modules)))
        runs["peft"] = lambda: padded_passes(peft, batch, sizes.tokens)

    memory = device_memory(device, None)
    peaks = {name: memory.peak_of(run)[1] for name, run in runs.items()}  # which warms up, too
    seconds = in_turn({name: partial(timed, run) for name, run in runs.items()}, args.rounds)
    table = Table(title=f"{args.prompts} x {args.completions} completions, {dtype} on {device}")
    for column in ("", "seconds", "speed", "memory, GiB", "to the limit's"):
        table.add_column(column, justify="left" if not column else "right")
    for name in runs:
        table.add_row(
            name,
            f"{statistics.median(seconds[name]):.2f}",
            str(speed(seconds["limit"], seconds[name])),
            f"{peaks[name] / 2**30:.2f}",
            f"{peaks[name] / peaks['limit']:.2f}",
        )
    Console().print(table)


def limit_and_ours(
    causal_lm: Any, factors: Factors, update: tuple[int, int, int, int], sizes: PassLimits
) -> tuple[list[TokenSequence], dict[str, Callable[[], object]]]:
    """The sequences of an update, and what runs it, by name. update: prompts, completions of each, tokens of both."""
    model = TrainableAdapters(causal_lm, factors)
    recipe = default_recipe(factors)
    handle = model.add(Adapter(recipe, factors.digest, "float32", bytes(4 * recipe.num_parameters)))
    batch = random_batch(update, handle, causal_lm)
    task = Task(batch, sft_objective(batch))
    return batch, {
        "limit": lambda: own_passes(model, batch, sizes),
        "ours": lambda: forward_backward(model, [task], sizes),
    }


def random_batch(update: tuple[int, int, int, int], handle: int, model: Any) -> list[TokenSequence]:
    prompt_count, completions, prompt_tokens, completion_tokens = update
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        ids: list[int] = torch.randint(model.config.vocab_size, (count,), generator=generator).tolist()
        return ids

    prompts = [tokens(prompt_tokens) for _ in range(prompt_count)]
    return [TokenSequence(handle, prompt, tokens(completion_tokens)) for prompt in prompts for _ in range(completions)]


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def own_passes(model: TrainableAdapters, batch: Sequence[TokenSequence], sizes: PassLimits) -> None:
    """The base model over the same passes as ours."""
    causal_lm: Any = model.model
    device = causal_lm.device

    def one_pass(together: list[list[int]]) -> bool:
        indices = [index for row in together for index in row]
        chosen = [batch[index] for index in indices]
        rows = pack_rows(chosen, [[indices.index(index) for index in row] for row in together])
        inputs: dict[str, Any] = {}
        if rows.positions_PT is not None and rows.mask_P1TT is not None:
            inputs["position_ids"] = rows.positions_PT.to(device)
            inputs["attention_mask"] = additive(rows.mask_P1TT, causal_lm.dtype, device)
        embedded_PTD = causal_lm.get_input_embeddings()(rows.ids_PT.to(device)).requires_grad_()
        hidden_PTD = causal_lm.get_decoder()(inputs_embeds=embedded_PTD, use_cache=False, **inputs).last_hidden_state
        hidden_ND = hidden_PTD[rows.row_B.to(device)[:, None], rows.before_BC.to(device)].flatten(0, 1)
        target_N = torch.tensor([one.completion for one in chosen], device=device).flatten()
        head = causal_lm.get_output_embeddings()
        size = sizes.logits // len(head.weight)
        chunks = zip(hidden_ND.split(size), target_N.split(size), strict=True)
        losses = [checkpoint(partial(cross_entropy, head), *chunk, use_reentrant=False) for chunk in chunks]
        torch.stack(losses).sum().backward()
        return True

    for _ in in_passes(model, batch, sizes, one_pass, gradient=True):
        pass


def cross_entropy(head: nn.Module, hidden_ND: Tensor, target_N: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(hidden_ND).float(), target_N, reduction="sum")


def padded_passes(model: Any, batch: Sequence[TokenSequence], most_tokens: int) -> None:
    """A row for every sequence; all sequences of `batch` have the same lengths."""
    count, size = len(batch[0].completion), max(1, most_tokens // len(batch[0]))
    for start in range(0, len(batch), size):
        rows = [[*one.prompt, *one.completion] for one in batch[start : start + size]]
        ids_BT = torch.tensor(rows, device=model.device)
        logits_BCV = model(input_ids=ids_BT, logits_to_keep=count + 1, use_cache=False).logits[:, :-1]
        target_BC = ids_BT[:, -count:]
        nn.functional.cross_entropy(logits_BCV.flatten(0, 1).float(), target_BC.flatten(), reduction="sum").backward()
    model.zero_grad()


if __name__ == "__main__":
    main()
