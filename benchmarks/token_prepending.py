"""What Token Prepending costs over the plain prompt, and what stopping at an early layer saves.

The decoder is random: 8 layers of Llama's shape, 26 million parameters. Its embeddings mean nothing, but cost
what those of a trained one cost. Bounds: 1.05 times the plain prompt; k / L + 0.05 of the full time for
output layer k of L.

    python benchmarks/token_prepending.py --json token_prepending.json
"""

from __future__ import annotations

import argparse
import random
from tempfile import TemporaryDirectory

import torch
from measuring import Report, build_parser, compare_seconds, run_script, time_turns
from transformers import LlamaConfig, LlamaForCausalLM

from fletching.methods.token_prepending import TokenPrependingEmbedder
from fletching.testing import build_tiny_tokenizer

LAYERS = 8
STOP = 3
EXITS = (2, 4, 6)
OVERHEAD_BOUND = 1.05
EXIT_MARGIN = 0.05
PLAIN, FULL = "plain prompt, all layers", "Token Prepending, all layers"
_WORDS = [
    "the",
    "archer",
    "keeps",
    "a",
    "goose",
    "feather",
    "on",
    "an",
    "arrow",
    "of",
    "wood",
    "in",
    "wind",
    "and",
    "the",
    "bow",
    "string",
    "is",
    "true",
]


def save_decoder(folder: str) -> int:
    """Save a random decoder and its tokenizer; return its number of parameters."""
    tokenizer = build_tiny_tokenizer(
        padding_side="left", model_max_length=512, model_input_names=["input_ids", "attention_mask"]
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def build_sentences(count: int) -> list[str]:
    """Build sentences of 8 to 24 words, no two alike."""
    draw = random.Random(0)
    return [f"{number} {' '.join(draw.choices(_WORDS, k=draw.randint(8, 24)))}." for number in range(count)]


def measure(options: argparse.Namespace, report: Report) -> None:
    """Time the plain prompt, Token Prepending, and Token Prepending with early exits, in turns."""
    texts = build_sentences(8 if options.quick else 128)
    with TemporaryDirectory() as folder:
        parameters = save_decoder(folder)
        settings = {"prompt": "prompteol", "start": 1, "stop": STOP}
        models = {
            PLAIN: TokenPrependingEmbedder(folder, prompt="plain_prompteol", output_layer=-1, device="cpu"),
            FULL: TokenPrependingEmbedder(folder, **settings, output_layer=-1, device="cpu"),
            **{
                f"Token Prepending, output layer {layer} of {LAYERS}": TokenPrependingEmbedder(
                    folder, **settings, output_layer=layer, device="cpu"
                )
                for layer in EXITS
            },
        }
    contenders = {name: lambda model=model: model.encode(texts) for name, model in models.items()}
    for work in contenders.values():
        work()
    repetitions = options.repetitions or (2 if options.quick else 15)
    report.seconds, _ = time_turns(contenders, repetitions=repetitions)
    bounds = [None, OVERHEAD_BOUND, *(layer / LAYERS + EXIT_MARGIN for layer in EXITS)]
    peers = [None, PLAIN, *(FULL for _ in EXITS)]
    for name, peer, bound in zip(models, peers, bounds, strict=True):
        report.rows.append(
            {
                f"{len(texts)} sentences": name,
                "seconds": min(report.seconds[name]),
                "peer": peer,
                "of the peer's time": None if peer is None else compare_seconds(report.seconds, peer, name),
                "bound": bound,
            }
        )
    report.notes.append(
        f"{parameters / 1e6:.1f} million parameters; seconds: the best turn; "
        f"ratios: the median of {repetitions} turns"
    )


def main() -> None:
    """Measure and print the table."""
    parser = build_parser(__doc__, bfloat16=False)
    title = "What Token Prepending costs, and what an early exit saves"
    print(run_script(parser, measure, title=title, find_missing=lambda data: None))


if __name__ == "__main__":
    main()
