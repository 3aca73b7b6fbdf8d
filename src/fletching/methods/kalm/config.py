"""Prompts and settings of KaLM-Embedding, and where each comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from fletching.errors import bad_argument, bad_choice
from fletching.models.inputs import check_count, check_positive

TEMPLATE = "Instruct: {instruction} \n Query: "  # reference code, with these spaces
"""What stands before a query."""

BASE = "Qwen/Qwen2-0.5B"  # paper
MAX_TOKENS = 512  # reference code; the model card names 32k
MATRYOSHKA_DIMS = (896, 512, 256, 128, 64)  # reference script
MATRYOSHKA_WEIGHTS = (1.0, 0.3, 0.2, 0.1, 0.1)  # reference script

INSTRUCTIONS = {  # MTEB's table for the published checkpoints, V2
    "retrieval": "Given a query, retrieve documents that answer the query",
    "sts": "Retrieve semantically similar text",
    "duplicates": "Retrieve semantically similar questions",
    "cqadupstack": (
        "Given a question, retrieve detailed question descriptions from Stackexchange that are duplicates to "
        "the given question"
    ),
    "scidocs": "Retrieve relevant paper titles",
    "banking77": "Given an online banking query, find the corresponding intents",
    "emotion": (
        "Classifying the emotion expressed in the given Twitter message into one of the six emotions: anger, "
        "fear, joy, love, sadness, and surprise"
    ),
    "biorxiv_p2p": "Identify the main category of Biorxiv papers based on the titles and abstracts",
    "biorxiv_s2s": "Identify the main category of Biorxiv papers based on the titles",
}
"""Instructions by name; each is also a named prompt of the model: ``encode(texts, prompt_name="sts")``."""

SYMMETRIC = ("sts", "duplicates", "cqadupstack", "scidocs")
"""Those that V2 puts in front of both sides, since both are of one kind."""

STAGES = ("pretrain", "finetune", "soup", "distill")
"""What ``stages`` of the recipe may name."""

_OWNER = "KaLMEmbedder"


def fill_template(instruction: str, *, template: str = TEMPLATE) -> str:
    r"""Put an instruction into the template; nothing is stripped, and no instruction gives no prompt.

    Args:
        instruction: What the model is to do; ``""`` for nothing.
        template: Text with one ``{instruction}``.

    Returns:
        What stands before the text.

    Raises:
        ArgumentError: If the instruction is no text, or the template has no ``{instruction}``.

    Example:
        >>> fill_template("Retrieve semantically similar text")
        'Instruct: Retrieve semantically similar text \n Query: '
    """
    check_template(template)
    if not isinstance(instruction, str):
        raise bad_argument(_OWNER, "instruction", "text", instruction)
    return template.replace("{instruction}", instruction) if instruction else ""


def split_query(query: str, *, template: str = TEMPLATE) -> tuple[str, str]:
    r"""Take a query apart again.

    Args:
        query: A query with its prompt in front, or without one.
        template: What the prompt was made with.

    Returns:
        The instruction and the text; ``""`` and the whole query if there is no such prompt.

    Example:
        >>> split_query("Instruct: Find it \n Query: where?")
        ('Find it', 'where?')
    """
    head, tail = template.split("{instruction}")
    if tail and query.startswith(head) and tail in query[len(head) :]:
        instruction, text = query[len(head) :].split(tail, 1)
        return instruction, text
    return "", query


def check_template(template: object) -> None:
    """Refuse what is no template.

    Args:
        template: What was given.

    Raises:
        ArgumentError: If it is no text with one ``{instruction}``.
    """
    if not isinstance(template, str) or template.count("{instruction}") != 1:
        raise bad_argument(_OWNER, "template", "text with one {instruction}", template)


def build_prompts(
    *, template: str = TEMPLATE, instruction: str = INSTRUCTIONS["retrieval"]
) -> dict[str, str]:
    """Build the named prompts of a model.

    Args:
        template: As for `fill_template`.
        instruction: For queries.

    Returns:
        ``"query"``, ``"document"`` (empty) and every name of :data:`INSTRUCTIONS` -> prompt.

    Raises:
        ArgumentError: As `fill_template`.
    """
    named = {name: fill_template(text, template=template) for name, text in INSTRUCTIONS.items()}
    return {"query": fill_template(instruction, template=template), "document": "", **named}


MIXING_KINDS = ("pair", "list")
"""How negatives may be mixed."""

VISIBILITIES = ("all", "own")
"""Which rows may see a mixed negative."""

REDUCTIONS = ("mean", "sum")
"""What may become of the losses of the rows."""

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_doc")
"""Which similarities may enter the denominator; the first one always does."""


@dataclass(frozen=True)
class MixingOptions:
    """How many negatives are mixed, from what, and who sees them.

    Args:
        kinds: ``"pair"`` mixes two negatives of a query, ``"list"`` all of them; empty mixes none.
        n_pairs: Pair-wise mixes of each query, >= 1. Each has its own draw.
        n_lists: List-wise mixes of each query, >= 1. The first weighs all negatives of the query; each
            further one weighs a random half of them, at least two.
        visibility: ``"all"``: a row has the mixes of every row among its negatives, as it has their hard
            negatives; ``"own"``: only those made from its own negatives.
        list_temperature: Divides the cosines that decide the weights of a list-wise mix; > 0. ``None`` takes
            the temperature of the loss.
        gradient: Whether gradients flow through a mix to the query and the negatives that it was made from.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    kinds: Sequence[str] = MIXING_KINDS  # paper
    n_pairs: int = 1  # ours: the paper's number is not known to us
    n_lists: int = 1  # ours
    visibility: str = "all"  # ours
    list_temperature: float | None = None  # ours
    gradient: bool = True  # ours

    def __post_init__(self) -> None:
        _check_names("MixingOptions", "kinds", MIXING_KINDS, self.kinds)
        for name in ("n_pairs", "n_lists"):
            check_positive("MixingOptions", name, getattr(self, name))
        if self.visibility not in VISIBILITIES:
            raise bad_choice("MixingOptions", "visibility", VISIBILITIES, self.visibility)
        if self.list_temperature is not None:
            check_number("MixingOptions", "list_temperature", self.list_temperature)


@dataclass(frozen=True)
class KaLMLossOptions:
    """What is seldom changed about the loss.

    Args:
        reduction: ``"mean"`` or ``"sum"`` over the rows of the batch, of both the contrastive and the
            distillation part.
        detach_weight: Whether the focal weight is a constant for the gradient.
        directions: Which similarities are in the denominator, named as in sentence-transformers:
            ``"query_to_doc"`` (always), ``"query_to_query"`` adds the other queries, ``"doc_to_doc"`` adds
            the positive against the documents of other rows.
        distillation_weight: Weight of the distillation part, >= 0; 0 leaves it out, and then no labels are
            taken. The paper's weight is not known to us; 1 is a start.
        teacher_temperature: Divides the teacher's scores; > 0. ``None`` takes the temperature of the loss.
        student_temperature: Divides the student's cosines in the distillation part; > 0. ``None`` takes the
            temperature of the loss.
        gather_across_devices: Whether the documents of all devices are candidates, with gradient. All devices
            must have batches of one size and the same columns.
        seed: ``None`` draws the mixes from torch's global generator, which the trainer saves and restores;
            an integer >= 0 gives the loss a stream of its own, with a step counter in ``state_dict()``.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    reduction: str = "mean"  # reference code of V1; summaries of the paper write a sum
    detach_weight: bool = False  # paper: the formula as it is written
    directions: Sequence[str] = DIRECTIONS[:1]  # paper
    distillation_weight: float = 0.0  # paper: V2.5 only
    teacher_temperature: float | None = None  # ours
    student_temperature: float | None = None  # ours
    gather_across_devices: bool = False  # sentence-transformers; the paper's runs gathered
    seed: int | None = None  # ours

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise bad_choice("KaLMLossOptions", "reduction", REDUCTIONS, self.reduction)
        _check_names("KaLMLossOptions", "directions", DIRECTIONS, self.directions)
        if DIRECTIONS[0] not in self.directions:
            raise bad_argument(
                "KaLMLossOptions", "directions", f"a list with {DIRECTIONS[0]!r} in it", self.directions
            )
        check_number("KaLMLossOptions", "distillation_weight", self.distillation_weight, zero=True)
        for name in ("teacher_temperature", "student_temperature"):
            if getattr(self, name) is not None:
                check_number("KaLMLossOptions", name, getattr(self, name))
        if self.seed is not None and (
            not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0
        ):
            raise bad_argument("KaLMLossOptions", "seed", "None or an integer, zero or positive", self.seed)


@dataclass(frozen=True)
class KaLMConfig:
    """Hyper-parameters of the stages; the values of V2 and V2.5 that are not public are those of V1's script.

    Args:
        base: Folder or hub id to start from: a decoder, or a KaLM-Embedding.
        stages: What is trained, one after the other: ``"pretrain"`` (pairs, in-batch negatives only),
            ``"finetune"`` (focal weights, mixed negatives, Matryoshka), and as the end of V2 ``"soup"`` (the
            mean of models fine-tuned with several seeds), or as the end of V2.5 ``"distill"`` (fine-tuning
            with the scores of a teacher).
        template: What stands before a query, with ``{instruction}``.
        max_tokens: Of a text in training and in the saved model.
        temperature: Divides the cosines.
        gamma: Of the focal weights; 0 weighs all rows alike.
        mixing: Kinds of mixed negatives: ``"pair"``, ``"list"``; empty mixes none.
        beta: Both parameters of the distribution that pair-wise mixes are drawn from.
        matryoshka_dims: Dimensions that are trained; those wider than the model are left out. Empty trains
            whole vectors only.
        matryoshka_weights: Of their losses, one for each.
        negatives: Hard negatives of a row in fine-tuning.
        homogeneous_ratio: Of a batch, how much comes from one task; the rest is shuffled among batches.
        filter_top_k: Rows whose best positive is not among so many hits of the last model are dropped before
            fine-tuning; ``None`` keeps all.
        mining_range: Ranks that mined negatives come from, the first and the one after the last, from 0;
            ``None`` mines none.
        distillation_weight: Of the teacher's loss beside the contrastive one.
        teacher_temperature: Divides the teacher's scores; ``None`` for ``temperature``.
        soup_seeds: Fine-tuned models of a soup; the seeds follow ``seed``.
        learning_rate: Highest, after warm-up; decays linearly.
        pretrain_learning_rate: Likewise, of ``"pretrain"``; ``None`` for ``learning_rate``.
        warmup_ratio: Share of the steps.
        epochs: Passes over the rows, of each stage.
        batch_size: Rows of one optimiser step, on each device.
        mini_batch_size: Texts in memory at once, by caching gradients; ``None`` takes whole batches.
        weight_decay: Of the optimiser.
        bf16: Whether to train in bfloat16 (autocast) where there is a GPU.
        gradient_checkpointing: Whether to compute activations twice to save memory.
        gather_across_devices: Whether texts of all devices are candidates.
        seed: Of data order, sampling and mixing.
    """

    base: str = BASE
    stages: tuple[str, ...] = ("pretrain", "finetune")
    template: str = TEMPLATE
    max_tokens: int = MAX_TOKENS
    temperature: float = 0.01  # reference script of V1
    gamma: float = 0.5  # summaries of the paper
    mixing: tuple[str, ...] = ("pair", "list")  # summaries of the paper
    beta: float = 2.0  # summaries of the paper
    matryoshka_dims: tuple[int, ...] = MATRYOSHKA_DIMS
    matryoshka_weights: tuple[float, ...] = MATRYOSHKA_WEIGHTS
    negatives: int = 7  # reference script of V1: groups of 8
    homogeneous_ratio: float = 1.0  # reference code; V1's script sets 0
    filter_top_k: int | None = 50  # reference code
    mining_range: tuple[int, ...] | None = (50, 100)  # reference code
    distillation_weight: float = 1.0  # ours
    teacher_temperature: float | None = None  # ours
    soup_seeds: int = 3  # ours
    learning_rate: float = 1e-5  # reference script of V1
    pretrain_learning_rate: float | None = None
    warmup_ratio: float = 0.1  # reference script of V1
    epochs: float = 1.0  # reference script of V1
    batch_size: int = 48  # reference script of V1
    mini_batch_size: int | None = None  # ours
    weight_decay: float = 0.0  # ours
    bf16: bool = True  # reference script of V1
    gradient_checkpointing: bool = False  # reference script of V1: on; it costs time where memory is enough
    gather_across_devices: bool = True  # reference code; ours lets gradients through
    seed: int = 42  # ours

    def __post_init__(self) -> None:
        """Check every value that the loss and the model do not check."""
        owner = type(self).__name__
        check_template(self.template)
        self._check_stages(owner)
        for name in ("max_tokens", "negatives", "soup_seeds", "batch_size"):
            check_positive(owner, name, getattr(self, name))
        if self.soup_seeds < 2:
            raise bad_argument(owner, "soup_seeds", "at least 2", self.soup_seeds)
        for name in ("mini_batch_size", "filter_top_k"):
            check_count(owner, name, getattr(self, name))
        for name in ("temperature", "learning_rate", "epochs", "beta"):
            check_number(owner, name, getattr(self, name))
        if self.pretrain_learning_rate is not None:
            check_number(owner, "pretrain_learning_rate", self.pretrain_learning_rate)
        for name in ("gamma", "distillation_weight", "weight_decay"):
            check_number(owner, name, getattr(self, name), zero=True)
        for name in ("homogeneous_ratio", "warmup_ratio"):
            check_share(owner, name, getattr(self, name))
        _check_names(owner, "mixing", MIXING_KINDS, self.mixing)
        for dim in self.matryoshka_dims:
            check_positive(owner, "matryoshka_dims", dim)
        for weight in self.matryoshka_weights:
            check_number(owner, "matryoshka_weights", weight)
        if len(self.matryoshka_dims) != len(self.matryoshka_weights):
            domain = f"one for each of the {len(self.matryoshka_dims)} dimensions"
            raise bad_argument(owner, "matryoshka_weights", domain, self.matryoshka_weights)
        check_range(owner, self.mining_range)
        if {"finetune", "distill"} & {*self.stages} and self.mixing and self.negatives < 2:
            remedy = "Take mixing=() or more negatives"
            domain = "at least 2 where negatives are mixed"
            raise bad_argument(owner, "negatives", domain, self.negatives, remedy)

    def _check_stages(self, owner: str) -> None:
        _check_names(owner, "stages", STAGES, self.stages)
        places = [STAGES.index(stage) for stage in self.stages]
        if not places or places != sorted(set(places)):
            domain = f"some of {', '.join(STAGES)}, in this order"
            raise bad_argument(owner, "stages", domain, tuple(self.stages))
        if {"soup", "distill"} <= set(self.stages):
            remedy = "V2 ends with a soup, V2.5 with distillation"
            raise bad_argument(owner, "stages", "one end, not both", tuple(self.stages), remedy)
        if "soup" in self.stages and "finetune" not in self.stages:
            raise bad_argument(owner, "stages", "with 'finetune' before 'soup'", tuple(self.stages))


def check_number(owner: str, parameter: str, value: object, *, zero: bool = False) -> None:
    """Refuse what is no finite number above zero.

    Args:
        owner: Who asks.
        parameter: Name of the parameter.
        value: What was given.
        zero: Whether zero will do, too.

    Raises:
        ArgumentError: If it is something else.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and (0 < value < math.inf or (zero and value == 0))):  # type: ignore[operator]
        raise bad_argument(owner, parameter, "zero or positive" if zero else "positive and finite", value)


def check_share(owner: str, parameter: str, value: object) -> None:
    """Refuse what is no number from 0 to 1.

    Args:
        owner: Who asks.
        parameter: Name of the parameter.
        value: What was given.

    Raises:
        ArgumentError: If it is something else.
    """
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise bad_argument(owner, parameter, "from 0 to 1", value)


def check_range(owner: str, value: Sequence[int] | None) -> None:
    """Refuse what is no range of ranks to mine from.

    Args:
        owner: Who asks.
        value: First rank and the one after the last; ``None`` for no mining.

    Raises:
        ArgumentError: If it is something else.
    """
    if value is None:
        return
    if len(value) != 2 or not all(isinstance(rank, int) for rank in value) or not 0 <= value[0] < value[1]:
        raise bad_argument(owner, "mining_range", "two ranks, the first and the one after the last", value)


def _check_names(owner: str, parameter: str, options: Sequence[str], value: Sequence[str]) -> None:
    """Refuse what is no list of different names out of some options.

    Args:
        owner: Who asks.
        parameter: Name of the parameter.
        options: The allowed names.
        value: What was given.

    Raises:
        ArgumentError: If it is a string, or holds an unknown name or one name twice.
    """
    if isinstance(value, str):
        raise bad_argument(owner, parameter, "a tuple of names", value, f"Write ({value!r},).")
    for name in value:
        if name not in options:
            raise bad_choice(owner, parameter, options, name)
    if len(set(value)) < len(value):
        raise bad_argument(owner, parameter, "a tuple of different names", value)
