"""Peak memory of a GRL step: a batch of 512 with gradient caching against a batch of 32 without.

The language model is random: 8 layers of Llama's shape, width 256, 16,384 tokens, 10.6 million parameters,
with a LoRA adapter of rank 16. Its embeddings mean nothing, but take the memory that those of a trained one
take. Texts have 64 tokens; a row is a query, a passage and a negative, and the generator reads the query with
each of its two passages. A step is loss, gradient and AdamW, all terms on, the reference included. Every arm
runs in a process of its own; peaks are those of the operating system (Linux alone tells). Bound: 1.3 times.

    python benchmarks/grl_memory.py --threads 1 --json grl_memory.json
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measuring import Report, build_parser, run_script

WORDS = 16_384 - 4
TOKENS = 64
BOUND = 1.3
CACHED, PLAIN = "with gradient caching", "without"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def save_model(folder: str) -> None:
    """Save the random language model with a tokenizer that knows its words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<s>", "</s>"]
    vocabulary = {piece: index for index, piece in enumerate([*special, *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=256,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    ).save_pretrained(folder)


def build_rows(count: int) -> list[dict[str, str]]:
    """Build rows of random words."""
    draw = random.Random(0)

    def write() -> str:
        return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(TOKENS))

    return [{"anchor": write(), "positive": write(), "negative_1": write()} for _ in range(count)]


def run_arm(folder: str, batch_size: int, mini_batch_size: int | None) -> dict[str, float]:
    """Take one step in this process and say what it took."""
    from sentence_transformers.base.trainer import BaseTrainer

    from fletching.methods.ullme import LLMEmbedder
    from fletching.methods.ullme.data import ULLMECollator
    from fletching.methods.ullme.losses import GRLLoss

    model = LLMEmbedder(folder, device="cpu")
    model.add_lora()
    model.train()
    weights = sum(parameter.numel() for parameter in model.parameters())
    loss = GRLLoss(model, mini_batch_size=mini_batch_size)
    optimizer = torch.optim.AdamW(parameter for parameter in model.parameters() if parameter.requires_grad)
    batch: Any = ULLMECollator(model)(build_rows(batch_size))
    features, _ = BaseTrainer.collect_features(None, batch)  # type: ignore[arg-type]
    _CLEAR.write_text("5", encoding="ascii")  # the peak begins anew
    before, start = read_status("VmRSS"), time.perf_counter()
    parts = loss(features)
    torch.stack(list(parts.values())).sum().backward()
    optimizer.step()
    seconds = time.perf_counter() - start
    return {"weights": weights, "before": before, "peak": read_status("VmHWM"), "seconds": seconds}


def read_status(field: str) -> float:
    """Read a number of this process, in MiB."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def measure(options: argparse.Namespace, report: Report) -> None:
    """Run both arms and compare their peaks."""
    arms = {
        CACHED: (64 if options.quick else options.large, options.mini_batch),
        PLAIN: (8 if options.quick else options.small, None),
    }
    found: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:
        save_model(folder)
        for name, (batch_size, mini_batch_size) in arms.items():
            arguments = [folder, str(batch_size), str(mini_batch_size or 0), str(options.threads or 0)]
            child = subprocess.run(
                [sys.executable, __file__, "--arm", *arguments], stdout=subprocess.PIPE, text=True, check=True
            )
            found[name] = json.loads(child.stdout.splitlines()[-1])
            report.seconds[name] = [found[name]["seconds"]]
    for name, (batch_size, mini_batch_size) in arms.items():
        arm, other = found[name], found[PLAIN]
        step, plain_step = (each["peak"] - each["before"] for each in (arm, other))
        report.rows.append(
            {
                "gradient caching": name,
                "batch": batch_size,
                "mini-batch": mini_batch_size,
                "peak MiB": round(arm["peak"]),
                "of that the step": round(step),
                "peak, ratio": arm["peak"] / other["peak"],
                "step, ratio": step / plain_step,
                "seconds": arm["seconds"],
            }
        )
    ratio = found[CACHED]["peak"] / found[PLAIN]["peak"]
    report.notes.append(f"{found[PLAIN]['weights'] / 1e6:.1f} million weights, adapters included, float32")
    verdict = "" if options.quick else f", {'within' if ratio <= BOUND else 'over'} the bound of {BOUND}"
    report.notes.append(f"peak of the process: {ratio:.2f} times{verdict}")


def find_missing_system(data: Path) -> str | None:
    """Say what keeps the script from running at all."""
    return None if _CLEAR.exists() else "everything: only Linux tells a process its own peak"


def main() -> None:
    """Run the script, or one arm of it."""
    if sys.argv[1:2] == ["--arm"]:
        folder, batch_size, mini_batch_size, threads = sys.argv[2:]
        if int(threads):
            torch.set_num_threads(int(threads))
        print(json.dumps(run_arm(folder, int(batch_size), int(mini_batch_size) or None)))
        return
    parser = build_parser(__doc__, bfloat16=False)
    parser.add_argument("--large", type=int, default=512, help="batch with gradient caching")
    parser.add_argument("--small", type=int, default=32, help="batch without")
    parser.add_argument("--mini-batch", type=int, default=32, help="texts that run at once with it")
    title = "Peak memory of a GRL step"
    print(run_script(parser, measure, title=title, find_missing=find_missing_system))


if __name__ == "__main__":
    main()
