"""Templates: the published ones, verbatim, and which one a model gets. Pure Python."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace

from fletching.errors import bad_argument, bad_choice
from fletching.methods.ullme.config import OWNER

SLOTS = re.compile(r"\{(instruction|text|query|passage)\}")
"""What is filled in; every other brace stands for itself."""


@dataclass(frozen=True)
class Template:
    """How a text is written down before it is embedded, and a passage before it is scored.

    Args:
        embed: With ``{text}`` and, mostly, ``{instruction}``.
        generate: With ``{query}``, and ``{passage}`` after it; mostly with ``{instruction}``.
        generation_instruction: What ``{instruction}`` of ``generate`` is unless told otherwise.
        brings_special_tokens: Whether the special tokens of the tokenizer are written out; else they go
            around, as the tokenizer puts them.
        special_tokens: Those that the tokenizer must know as such for the template to mean anything.
        keeps_newline: Whether the newline after ``{instruction}`` stays where there is no instruction.
    """

    embed: str
    generate: str
    generation_instruction: str = ""
    brings_special_tokens: bool = False
    special_tokens: tuple[str, ...] = ()
    keeps_newline: bool = False

    def __post_init__(self) -> None:
        """Check that every text has a place, and one only."""
        check_slots("template", self.embed, needed=("text",))
        check_slots("generation_template", self.generate, needed=("query", "passage"))

    def write_embed(self, instruction: str) -> str:
        """Say what ``embed`` is for an instruction: without one, mostly also without its newline."""
        return self._without_empty(self.embed, instruction)

    def write_generate(self, instruction: str) -> str:
        """Say what ``generate`` is for an instruction."""
        return self._without_empty(self.generate, instruction)

    def _without_empty(self, template: str, instruction: str) -> str:
        if instruction or self.keeps_newline:
            return template
        return template.replace("{instruction}\n", "").replace("{instruction}", "")


def check_slots(parameter: str, template: object, *, needed: tuple[str, ...], owner: str = OWNER) -> str:
    """Return a template that has each place for text once, the last one for what is embedded or scored.

    Args:
        parameter: The parameter named in the error.
        template: Anything.
        needed: The places it must have, in their order.
        owner: Who speaks in the error.

    Returns:
        The template.

    Raises:
        ArgumentError: If a place is missing, double, out of order or unknown here.
    """
    names = SLOTS.findall(template) if isinstance(template, str) else []
    texts = [name for name in names if name != "instruction"]
    if tuple(texts) != needed or names.count("instruction") > 1:
        wanted = " and then ".join(f"{{{name}}}" for name in needed)
        domain = f"text with {wanted}, each once, and {{instruction}} at most once"
        raise bad_argument(owner, parameter, domain, template)
    if "instruction" in names and names.index("instruction") > names.index(needed[0]):
        raise bad_argument(owner, parameter, f"text with {{instruction}} before {{{needed[0]}}}", template)
    return str(template)


def _write_genc(
    *, bos: str, user_bos: str, eot: str, assistant_bos: str, eos: str, special_tokens: tuple[str, ...]
) -> Template:
    """Put the special tokens of a family into the templates of GenC."""
    front = f"{bos}{user_bos}"
    return Template(
        embed=f"{front}{{instruction}}\n{{text}}{eot}{eos}",
        generate=f"{front}{{instruction}}\n{{query}}{eot}{assistant_bos}{{passage}}{eot}{eos}",
        brings_special_tokens=True,
        special_tokens=special_tokens,
        keeps_newline=True,
    )


TEMPLATES = {
    "genc_llama": _write_genc(
        bos="<|begin_of_text|>",
        user_bos="<|start_header_id|>user<|end_header_id|>\n\n",
        eot="<|eot_id|>\n",
        assistant_bos="<|start_header_id|>assistant<|end_header_id|>\n\n",
        eos="<|end_of_text|>",
        special_tokens=(
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|end_of_text|>",
        ),
    ),
    "genc_mistral": _write_genc(
        bos="<s>",
        user_bos="[INST]",
        eot="[/INST]",
        assistant_bos="",
        eos="</s>",
        special_tokens=("<s>", "</s>"),  # the others are text to the tokenizers of the first two versions
    ),
    "genc_phi": _write_genc(
        bos="",
        user_bos="<|im_start|>user\n\n",
        eot="\n",
        assistant_bos="<|im_start|>assistant\n\n",
        eos="<|im_end|>",
        special_tokens=(),  # all of it is text to the tokenizer of Phi-1.5
    ),
    "genc_phi3": _write_genc(
        bos="<s>",
        user_bos="<|user|>",
        eot="<|end|>",
        assistant_bos="<|assistant|>",
        eos="<|end_of_text|>",  # text to the tokenizer of Phi-3
        special_tokens=("<s>", "<|user|>", "<|end|>", "<|assistant|>"),
    ),
    "ullme": Template(
        embed="{instruction}\n{text}",
        generate="{instruction}. Query:\n{query}\n\n{passage}\n",
        generation_instruction="Please write a passage that can be used to answer above query.",
    ),
    "plain": Template(embed="{instruction}\n{text}", generate="{instruction}\n{query}\n\n{passage}"),
}
"""Templates by name."""

BY_MODEL_TYPE = {
    "llama": "genc_llama",
    "mistral": "genc_mistral",
    "phi": "genc_phi",
    "phi3": "genc_phi3",
}
"""Model type -> the template of GenC for it; every other type gets ``"plain"``."""

GENC = "genc"
"""Stands for the template of GenC for the model's type."""


def choose_template(
    template: str | None,
    generation_template: str | None,
    *,
    model_type: str,
    known_tokens: Container[str],
    owner: str = OWNER,
) -> Template:
    r"""Choose what texts are written into.

    Args:
        template: A name of ``TEMPLATES``; ``"genc"`` for GenC's of this type of model; text with ``{text}``;
            ``None`` for GenC's where the tokenizer knows its special tokens, else ``"plain"``.
        generation_template: Text with ``{query}`` and ``{passage}`` instead of the one that belongs to
            ``template``; ``None`` for that one.
        model_type: Of the configuration.
        known_tokens: What the tokenizer knows as one token.
        owner: Who speaks in the errors.

    Returns:
        The template.

    Raises:
        ArgumentError: If there is no such template, or the tokenizer does not know its special tokens.

    Example:
        >>> choose_template(None, None, model_type="qwen3", known_tokens=()).embed
        '{instruction}\n{text}'
        >>> choose_template(None, None, model_type="phi", known_tokens=()).embed
        '<|im_start|>user\n\n{instruction}\n{text}\n<|im_end|>'
    """
    if template is None:
        suited = TEMPLATES[BY_MODEL_TYPE.get(model_type, "plain")]
        knows = all(token in known_tokens for token in suited.special_tokens)
        chosen = suited if knows else TEMPLATES["plain"]
    elif template == GENC and model_type not in BY_MODEL_TYPE:
        domain = f"another than {GENC!r}, which is known for {', '.join(BY_MODEL_TYPE)}"
        raise bad_argument(owner, "template", domain, f"{GENC!r} for a {model_type}")
    elif template == GENC or template in TEMPLATES:
        name = BY_MODEL_TYPE[model_type] if template == GENC else template
        chosen = TEMPLATES[name]
        unknown = [token for token in chosen.special_tokens if token not in known_tokens]
        if unknown:
            domain = f"one whose special tokens the tokenizer knows; it lacks {', '.join(unknown)}"
            raise bad_argument(owner, "template", domain, name)
    elif isinstance(template, str) and "{" not in template:
        raise bad_choice(owner, "template", [GENC, *TEMPLATES], template)
    else:
        embed = check_slots("template", template, needed=("text",), owner=owner)
        chosen = Template(embed=embed, generate=TEMPLATES["plain"].generate)
    if generation_template is None:
        return chosen
    needed = ("query", "passage")
    generate = check_slots("generation_template", generation_template, needed=needed, owner=owner)
    return replace(chosen, generate=generate, generation_instruction="")
