"""Prompts and settings of Token Prepending: the published ones, and ours for every other model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fletching.errors import ArgumentError, bad_argument, bad_choice

PLACEHOLDER = "<PST>"
"""The placeholder token, as the reference code writes it."""

SENTENCE = "*sent 0*"
"""What stands for the sentence in a prompt."""

PST_INITS = ("normal", "mean")
"""How the placeholder's vector is made: drawn (reference code), or the mean of the embedding table (ours)."""

_OWNER = "TokenPrependingEmbedder"

_PAPER: dict[str, tuple[str, ...]] = {  # reference code, verbatim
    "prompteol": (('This sentence : <PST> "*sent 0*" means in one word:"'),),
    "cot": (('After thinking step by step , this sentence : <PST> "*sent 0*" means in one word:"'),),
    "ke": (
        (
            "The essence of a sentence is often captured by its main subjects and actions, "
            "while descriptive terms provide additional but less central details. With this "
            'in mind , this sentence : <PST> "*sent 0*" means in one word:"'
        ),
    ),
    "metaeol": (
        (
            "In this task, you're presented with a text excerpt. Your task is to categorize "
            "the excerpt into a broad category such as 'Education', 'Technology', 'Health', "
            "'Business', 'Environment', 'Politics', or 'Culture'. These categories help in "
            "organizing content for better accessibility and targeting. For this task, this "
            'sentence : <PST> "*sent 0*" should be classified under one general category in '
            'one word:"'
        ),
        (
            "In this task, you're given a statement and you need to determine whether it's "
            "presenting an 'Opinion' or a 'Fact'. This distinction is vital for information "
            "verification, educational purposes, and content analysis. For this task, this "
            'sentence : <PST> "*sent 0*" discriminates between opinion and fact in one word:"'
        ),
        (
            "In this task, you're given a review from an online platform. Your task is to "
            "generate a rating for the product based on the review on a scale of 1-5, where "
            "1 means 'extremely negative' and 5 means 'extremely positive'. For this task, "
            'this sentence : <PST> "*sent 0*" reflects the sentiment in one word:"'
        ),
        (
            "In this task, you're reading a personal diary entry. Your task is to identify "
            "the predominant emotion expressed, such as joy, sadness, anger, fear, or love. "
            'For this task, this sentence : <PST> "*sent 0*" conveys the emotion in one '
            'word:"'
        ),
        (
            "In this task, you're presented with two sentences. Your task is to assess "
            "whether the sentences convey the same meaning. Use 'identical', 'similar', "
            "'different', or 'unrelated' to describe the relationship. To enhance the "
            'performance of this task, this sentence : <PST> "*sent 0*" means in one word:"'
        ),
        (
            "In this task, you're given a sentence and a phrase. Your task is to determine "
            "if the phrase can be a contextual synonym within the given sentence. Options "
            "include 'yes', 'no', or 'partially'. To enhance the performance of this task, "
            'this sentence : <PST> "*sent 0*" means in one word:"'
        ),
        (
            "In this task, you're examining a news article. Your task is to extract the most "
            'critical fact from the article. For this task, this sentence : <PST> "*sent 0*" '
            'encapsulates the key fact in one word:"'
        ),
        (
            "In this task, you're reviewing a scientific abstract. Your task is to identify "
            "the main entities (e.g., proteins, diseases) and their relations (e.g., causes, "
            'treats). For this task, this sentence : <PST> "*sent 0*" highlights the primary '
            'entity or relation in one word:"'
        ),
    ),
}

PROMPTS = {
    **_PAPER,
    **{
        f"plain_{name}": tuple(prompt.replace(f"{PLACEHOLDER} ", "") for prompt in prompts)
        for name, prompts in _PAPER.items()
    },
}
"""Prompts by name; those that begin with ``plain_`` are the paper's baselines, without the placeholder."""


@dataclass(frozen=True)
class ModelShape:
    """What settings are chosen by.

    Args:
        model_type: Of the configuration.
        layers: Decoder layers.
        hidden_size: Width.
        vocabulary_size: Of the configuration; it tells the generations of Llama apart.
    """

    model_type: str
    layers: int
    hidden_size: int
    vocabulary_size: int


@dataclass(frozen=True)
class PublishedSettings:
    """One row of the reference code's settings.

    Args:
        model: Hub id.
        shape: The model is recognised by it, from whichever folder it comes; so are its fine-tuned relatives.
        prompt: Name of the prompt.
        start: First layer before which the last token's state is copied, counted from 0.
        stop: First layer before which it no longer is.
        output_layer: Which hidden state is the embedding, see ``TokenPrependingConfig``.
    """

    model: str
    shape: ModelShape
    prompt: str
    start: int
    stop: int
    output_layer: int


PUBLISHED = (  # reference code: its configurations for the Token Prepending runs
    PublishedSettings(
        "meta-llama/Llama-2-7b-hf", ModelShape("llama", 32, 4096, 32000), "prompteol", 1, 7, 27
    ),
    PublishedSettings("meta-llama/Llama-2-13b-hf", ModelShape("llama", 40, 5120, 32000), "cot", 1, 7, -2),
    PublishedSettings("meta-llama/Meta-Llama-3-8B", ModelShape("llama", 32, 4096, 128256), "cot", 1, 3, -2),
    PublishedSettings("Qwen/Qwen2-7B", ModelShape("qwen2", 28, 3584, 152064), "cot", 1, 6, -2),
    PublishedSettings("google/gemma-2-9b", ModelShape("gemma2", 42, 3584, 256000), "cot", 1, 6, -2),
)
"""The five models of the paper."""


@dataclass(frozen=True)
class TokenPrependingConfig:
    """Settings of one embedder.

    Args:
        prompt: The prompts; the embedding is the mean over them.
        start: First layer before which the last token's state is copied onto the placeholder, counted from 0;
            ``None`` for prompts without the placeholder.
        stop: First layer before which it no longer is; equal to ``start``, none is copied. Numbers past the
            last layer mean all layers.
        output_layer: Which hidden state is the embedding: k > 0 is the output of the k-th layer, before the
            final norm; -1 the last layer's after the final norm; -2 the output of the layer before the last.
        seed: Decides the placeholder's embedding.
        pst_init: ``"normal"`` or ``"mean"``.
        clean_text: Whether sentences are cleaned as in the reference code.
        max_sentence_tokens: Longer sentences are cut; the prompt never is.
        source: Where ``start``, ``stop`` and ``output_layer`` come from.

    Raises:
        ArgumentError: If a value is outside its domain.
    """

    prompt: tuple[str, ...]
    start: int | None
    stop: int | None
    output_layer: int
    seed: int = 3407  # reference code; it seeds the GPU's generator, whose numbers differ from ours
    pst_init: str = "normal"  # reference code
    clean_text: bool = True  # reference code
    max_sentence_tokens: int = 500  # reference code
    source: str = "given"

    def __post_init__(self) -> None:
        """Check what does not depend on the model."""
        if self.pst_init not in PST_INITS:
            raise bad_choice(_OWNER, "pst_init", PST_INITS, self.pst_init)
        if not isinstance(self.clean_text, bool):
            raise bad_argument(_OWNER, "clean_text", "True or False", self.clean_text)
        if not _is_integer(self.seed) or self.seed < 0:
            raise bad_argument(_OWNER, "seed", "an integer from 0 up", self.seed)
        if not _is_integer(self.max_sentence_tokens) or self.max_sentence_tokens < 1:
            raise bad_argument(_OWNER, "max_sentence_tokens", "a positive integer", self.max_sentence_tokens)
        if self.start is None or self.stop is None:
            return
        if not _is_integer(self.start) or self.start < 1:
            remedy = "Layer 0 reads the embeddings, where the last token knows nothing of the sentence"
            raise bad_argument(_OWNER, "start", "an integer from 1 up", self.start, remedy)
        if not _is_integer(self.stop) or self.stop < self.start:
            raise bad_argument(_OWNER, "stop", f"an integer from `start` ({self.start}) up", self.stop)

    @property
    def has_placeholder(self) -> bool:
        """Whether the prompts hold the placeholder."""
        return PLACEHOLDER in self.prompt[0]

    def check_layers(self, layers: int) -> None:
        """Check the settings against a model.

        Args:
            layers: Its number of layers.

        Raises:
            ArgumentError: If it has no such layer.
        """
        if not _is_integer(self.output_layer) or not 1 <= _place(self.output_layer, layers) <= layers:
            domain = f"1 to {layers}, or -1 to -{layers}, for a model of {layers} layers"
            raise bad_argument(_OWNER, "output_layer", domain, self.output_layer)
        if self.start is not None and self.start >= layers:
            domain = f"less than {layers}, the number of layers"
            raise bad_argument(_OWNER, "start", domain, self.start)


def choose_settings(
    shape: ModelShape,
    *,
    prompt: str | Sequence[str] | None = None,
    start: int | None = None,
    stop: int | None = None,
    output_layer: int | None = None,
) -> dict[str, object]:
    """Complete what a user gave by what was published for the model, or by our rule of thumb.

    The published values count for their own pair of model and prompt only. Ours for all others: ``start`` 1,
    ``stop`` max(2, round(7 L / 32)) for L layers, ``output_layer`` -2; prompts without the placeholder have
    neither ``start`` nor ``stop``, and -1, as the paper's baselines.

    Args:
        shape: The model.
        prompt: As for ``TokenPrependingEmbedder``.
        start: As for ``TokenPrependingConfig``; ``None`` to choose.
        stop: Likewise.
        output_layer: Likewise.

    Returns:
        Fields of ``TokenPrependingConfig``: ``prompt``, ``start``, ``stop``, ``output_layer``, ``source``.

    Raises:
        ArgumentError: If the prompt is none, or ``start`` or ``stop`` is given without a placeholder.

    Example:
        >>> chosen = choose_settings(ModelShape("qwen3", 28, 1024, 151936))
        >>> chosen["start"], chosen["stop"], chosen["output_layer"], chosen["source"]
        (1, 6, -2, 'our rule of thumb')
    """
    row = next((row for row in PUBLISHED if row.shape == shape), None)
    prompts = read_prompt(prompt if prompt is not None else row.prompt if row else "prompteol")
    given = {"start": start, "stop": stop, "output_layer": output_layer}
    if PLACEHOLDER not in prompts[0]:
        for name, value in (("start", start), ("stop", stop)):
            if value is not None:
                raise bad_argument(_OWNER, name, f"left out for a prompt without {PLACEHOLDER}", value)
        chosen, source = {"start": None, "stop": None, "output_layer": -1}, "baseline of the paper"
    elif row and prompts == PROMPTS[row.prompt]:
        chosen = {"start": row.start, "stop": row.stop, "output_layer": row.output_layer}
        source = f"reference code for {row.model}"
    else:
        first = start if isinstance(start, int) else 1
        stop_layer = max(2, round(7 * shape.layers / 32), first + 1)
        chosen = {"start": 1, "stop": stop_layer, "output_layer": -2 if shape.layers > 1 else -1}
        source = "our rule of thumb"
    if all(given[name] is not None for name in chosen if chosen[name] is not None):
        source = "given"
    return {
        "prompt": prompts,
        "source": source,
        **{name: chosen[name] if value is None else value for name, value in given.items()},
    }


def read_prompt(prompt: str | Sequence[str]) -> tuple[str, ...]:
    """Turn what a user may pass as prompt into prompts.

    Args:
        prompt: A name of ``PROMPTS``, a prompt with ``*sent 0*``, or several prompts.

    Returns:
        The prompts.

    Raises:
        ArgumentError: If it is none of these, or if only some of several prompts have the placeholder.
    """
    if isinstance(prompt, str) and prompt in PROMPTS:
        return PROMPTS[prompt]
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt) if isinstance(prompt, Sequence) else ()
    if isinstance(prompt, str) and SENTENCE not in prompt:
        raise _bad_prompt(prompt)
    if not prompts or not all(_is_prompt(each) for each in prompts):
        raise _bad_prompt(prompt)
    if len({PLACEHOLDER in each for each in prompts}) > 1:
        raise bad_argument(_OWNER, "prompt", f"prompts that all have {PLACEHOLDER}, or none", prompt)
    return prompts


def _is_prompt(prompt: object) -> bool:
    """Say whether a prompt has the sentence once, the placeholder at most once and before it, and an end."""
    if not isinstance(prompt, str) or prompt.count(SENTENCE) != 1 or prompt.count(PLACEHOLDER) > 1:
        return False
    _, after = prompt.split(SENTENCE)
    return PLACEHOLDER not in after and bool(after.strip())


def _bad_prompt(prompt: object) -> ArgumentError:
    names = ", ".join(map(repr, PROMPTS))
    domain = f"one of {names}, or text with one {SENTENCE}, at most one {PLACEHOLDER} before it, and an end"
    return bad_argument(_OWNER, "prompt", domain, prompt)


def _place(output_layer: int, layers: int) -> int:
    return output_layer if output_layer >= 0 else layers + 1 + output_layer


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
