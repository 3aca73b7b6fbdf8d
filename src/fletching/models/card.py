"""Sections of a saved model's README: its usage, and those that tools write between marks of their own.

sentence-transformers writes a complete card (base model, data, training arguments, results), but shows its
own class in the usage section even for a subclass, which would load without what the subclass adds.
"""

from __future__ import annotations

import re
from pathlib import Path

from fletching.errors import bad_record

_USAGE = re.compile(
    r"(?<=^## Usage\n).*?(?=^<!--\n### Direct Usage \(Transformers\))", re.DOTALL | re.MULTILINE
)


def write_usage(folder: str, model_class: type, name: str, example: str) -> None:
    """Replace the usage section of ``folder``'s README.

    Args:
        folder: A model folder; without a README, or with one that has no such section, nothing happens.
        model_class: The class that was saved.
        name: What ``fletching.load`` should be given.
        example: Python lines that use ``model``.
    """
    readme = Path(folder) / "README.md"
    if not readme.is_file():
        return
    usage = (
        f"\nThis model is a `{model_class.__name__}` of fletching; no `trust_remote_code` is needed.\n\n"
        "```bash\npip install -U fletching\n```\n\n"
        f"```python\nimport fletching\n\nmodel = fletching.load({name!r})\n{example}\n```\n\n"
    )
    readme.write_text(_USAGE.sub(lambda _: usage, readme.read_text(encoding="utf-8")), encoding="utf-8")


def write_section(folder: str | Path, name: str, content: str) -> Path:
    """Put a section into ``folder``'s README, in place of the one of the same name.

    The section stands between two HTML comments that name it. Everything outside them, front matter included,
    stays as it is, byte for byte; a new section is added at the end, and a missing README is made.

    Args:
        folder: A model folder.
        name: Lower-case name of the section, such as ``"audit"``.
        content: The section in Markdown, its heading included.

    Returns:
        The README.

    Raises:
        DataError: If only one of the two comments is there, or more than one pair; or if the file cannot be
            read or written.
    """
    readme = Path(folder) / "README.md"
    first, last = (f"<!-- fletching {name}: {end} -->".encode() for end in ("begin", "end"))
    try:
        card = readme.read_bytes() if readme.exists() else b""
        newline = b"\r\n" if b"\r\n" in card else b"\n"
        section = newline.join([first, *content.strip().encode().splitlines(), last])
        either = b"|".join(map(re.escape, (first, last)))
        marks = [*re.finditer(rb"^(%s)[ \t]*\r?$" % either, card, re.MULTILINE)]
        found = [mark[1] for mark in marks]
        if found == [first, last]:
            card = card[: marks[0].start(1)] + section + card[marks[1].end(1) :]
        elif found:
            domain = f"one section between {first.decode()} and {last.decode()}, or none"
            remedy = "Repair or delete the comments"
            raise bad_record(readme, None, None, domain, [mark.decode() for mark in found], remedy)
        else:
            gap = newline * (2 - card.endswith(newline)) if card else b""
            card = card + gap + section + newline
        _replace(readme, card)
    except OSError as error:
        raise bad_record(readme, None, None, "writable", error.strerror or str(error)) from error
    return readme


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a link into the hub's cache becomes a file, the cache stays."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content)
        if path.exists():
            part.chmod(path.stat().st_mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
