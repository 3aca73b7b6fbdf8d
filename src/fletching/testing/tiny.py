"""Tiny random models: real architectures, real layouts on disk, a few thousand weights, no network."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen2Tokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

HIDDEN_SIZE = 32
"""Width of every tiny model; a tiny embedder's vectors have this many dimensions."""

MAX_SEQ_LENGTH = 48
"""Tokens that a tiny model reads: few, so that a sentence or two is already too long."""

_WORDS = [
    "arrow",
    "arrows",
    "bow",
    "string",
    "feather",
    "feathers",
    "fletching",
    "flight",
    "archer",
    "target",
    "wind",
    "wood",
    "goose",
    "shaft",
    "nock",
    "point",
    "the",
    "a",
    "an",
    "of",
    "on",
    "in",
    "to",
    "and",
    "is",
    "are",
    "what",
    "how",
    "why",
    "for",
    "with",
    "from",
    "keeps",
    "true",
    "query",
    "passage",
    "context",
]
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation
_BERT_HEADS = {
    "backbone": BertModel,
    "masked-lm": BertForMaskedLM,
    "sequence-classification": BertForSequenceClassification,
}
_QWEN2_HEADS = {"backbone": Qwen2Model, "causal-lm": Qwen2ForCausalLM}
_QWEN2_POSITIONS = 512  # an instruction in front takes many tokens of so small a vocabulary
_QWEN2_MERGES = 256
_QWEN2_SPLIT = (  # as in Qwen2Tokenizer: contractions, words, single digits, punctuation, blank lines, spaces
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SENTENCES = (
    "Instruct: Given a query, retrieve documents that answer the query \n Query: what keeps an arrow true?",
    "The feathers of a goose keep the arrow true in flight, and the archer finds the target.",
    "Fletching is the art of fitting feathers to the shaft of an arrow behind the point and the nock.",
    "A bow is made of wood; the string of the bow is made of flax, silk or sinew.",
    "How do arrows fly in the wind, and why are there three feathers on each of them?",
)


def build_tiny_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """Build a WordPiece tokenizer as BERT has it: some words about archery, everything else letter by letter.

    Args:
        **options: Arguments of ``PreTrainedTokenizerFast``, instead of those of BERT.

    Returns:
        A fast tokenizer with ``[PAD]`` (id 0), ``[UNK]``, ``[CLS]``, ``[SEP]`` and ``[MASK]``.

    Example:
        >>> build_tiny_tokenizer().tokenize("Arrows fly")
        ['arrows', 'f', '##l', '##y']
    """
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pieces = (*special, *_CHARACTERS, *(f"##{character}" for character in _CHARACTERS), *_WORDS)
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings = {
        "model_max_length": MAX_SEQ_LENGTH,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **dict(zip(names, special, strict=True)),
        **options,
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def build_tiny_t5_tokenizer(*, sentinels: int = 8) -> T5Tokenizer:
    """Build a tokenizer laid out as T5's: pad 0, end of sequence 1, unknown 2, sentinels last, counted down.

    Args:
        sentinels: How many ``<extra_id_i>`` there are, >= 1; ``<extra_id_0>`` has the highest id.

    Returns:
        A fast tokenizer that appends ``</s>``.

    Example:
        >>> tokenizer = build_tiny_t5_tokenizer(sentinels=4)
        >>> tokenizer.convert_tokens_to_ids("<extra_id_0>") - tokenizer.convert_tokens_to_ids("<extra_id_3>")
        3
    """
    pieces = ["<pad>", "</s>", "<unk>", "\N{LOWER ONE EIGHTH BLOCK}"]
    words = [*_WORDS, *(word.capitalize() for word in _WORDS), "|"]  # T5 tells capitals apart
    pieces += [f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in words]
    pieces += [*string.ascii_uppercase, *_CHARACTERS]
    scores = [0.0, 0.0, 0.0, *(-1.0 - len(piece) / 100 for piece in pieces[3:])]
    vocabulary = list(zip(pieces, scores, strict=True))
    vocabulary += [(f"<extra_id_{index}>", 0.0) for index in reversed(range(sentinels))]
    return T5Tokenizer(vocab=vocabulary, extra_ids=sentinels, model_max_length=MAX_SEQ_LENGTH)


def save_tiny_bert(folder: str | Path, *, head: str = "backbone", seed: int = 0) -> str:
    """Save a two-layer BERT and its tokenizer as transformers does, without any sentence-transformers file.

    Args:
        folder: Where to; made when missing.
        head: ``"backbone"``, ``"masked-lm"`` or ``"sequence-classification"`` (one label).
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    tokenizer = build_tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2 * MAX_SEQ_LENGTH,
        initializer_range=0.3,  # texts must differ in more than the last bit
        num_labels=1,  # type: ignore[call-arg]
    )
    _build(_BERT_HEADS[head], config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_tiny_embedder(
    folder: str | Path,
    *,
    prompts: dict[str, str] | None = None,
    normalize: bool = True,
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] = "cosine",
    seed: int = 0,
) -> str:
    """Save a BERT with mean pooling as sentence-transformers does.

    Args:
        folder: Where to; made when missing.
        prompts: Put in front by name, as ``{"query": "query: ", "document": "passage: "}``; ``None``: none.
        normalize: Whether vectors get length one.
        similarity: What compares two vectors.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    backbone = Transformer(save_tiny_bert(folder, seed=seed), max_seq_length=MAX_SEQ_LENGTH)
    modules = [backbone, Pooling(HIDDEN_SIZE, "mean"), *([Normalize()] if normalize else [])]
    model = SentenceTransformer(modules=modules, prompts=prompts, similarity_fn_name=similarity, device="cpu")
    model.save(str(folder))
    return str(folder)


def save_tiny_cross_encoder(folder: str | Path, *, seed: int = 0) -> str:
    """Save a BERT that scores a (query, document) pair with one label, as sentence-transformers does.

    Args:
        folder: Where to; made when missing.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    backbone = save_tiny_bert(folder, head="sequence-classification", seed=seed)
    CrossEncoder(backbone, max_length=MAX_SEQ_LENGTH, device="cpu").save(str(folder))
    return str(folder)


def save_tiny_llama(folder: str | Path, *, seed: int = 0) -> str:
    """Save a two-layer causal language model, padded on the left, as transformers does.

    Args:
        folder: Where to; made when missing.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    tokenizer = build_tiny_tokenizer(padding_side="left", model_input_names=["input_ids", "attention_mask"])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2 * MAX_SEQ_LENGTH,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    _build(LlamaForCausalLM, config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def build_tiny_qwen2_tokenizer(**options: Any) -> Qwen2Tokenizer:
    r"""Build a tokenizer as Qwen2 has it: byte-level BPE, here trained on a few sentences about archery.

    Every text becomes tokens and comes back unchanged; there is no unknown token.

    Args:
        **options: Arguments of ``Qwen2Tokenizer``, instead of the defaults.

    Returns:
        A fast tokenizer whose last ids are ``<|endoftext|>``, which also pads, ``<|im_start|>`` and
        ``<|im_end|>``. It adds none of them to a text.

    Example:
        >>> tokenizer = build_tiny_qwen2_tokenizer()
        >>> tokenizer.decode(tokenizer("A bow \\n Query: 弓")["input_ids"])
        'A bow \\n Query: 弓'
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + _QWEN2_MERGES, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(_SENTENCES, trainer)
    bpe = json.loads(trained.to_str())["model"]
    settings = {
        "model_max_length": _QWEN2_POSITIONS,
        "extra_special_tokens": ["<|im_start|>", "<|im_end|>"],
        **options,
    }
    merges: Any = [tuple(pair) for pair in bpe["merges"]]
    return Qwen2Tokenizer(vocab=bpe["vocab"], merges=merges, **settings)


def save_tiny_qwen2(folder: str | Path, *, head: str = "backbone", seed: int = 0) -> str:
    """Save a two-layer Qwen2 and its byte-level tokenizer as transformers does.

    Args:
        folder: Where to; made when missing.
        head: ``"backbone"``, a model without a head, or ``"causal-lm"``.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    tokenizer = build_tiny_qwen2_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_QWEN2_POSITIONS,
        initializer_range=0.3,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    _build(_QWEN2_HEADS[head], config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_tiny_t5(folder: str | Path, *, sentinels: int = 8, seed: int = 0) -> str:
    """Save a T5 (v1.0: ReLU, tied embeddings) of two encoder and two decoder layers as transformers does.

    Args:
        folder: Where to; made when missing.
        sentinels: How many ``<extra_id_i>`` the tokenizer has, >= 1.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    tokenizer = build_tiny_t5_tokenizer(sentinels=sentinels)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=HIDDEN_SIZE,
        d_kv=8,
        d_ff=2 * HIDDEN_SIZE,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        initializer_factor=0.5,
        decoder_start_token_id=tokenizer.pad_token_id,  # type: ignore[call-arg]
    )
    _build(T5ForConditionalGeneration, config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _build(model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Draw the weights from the seed and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).eval()
