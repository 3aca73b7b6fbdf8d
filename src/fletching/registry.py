"""What fletching can do: the methods, their checkpoints, and how to find them by name."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TypeVar

from fletching._lazy import import_target
from fletching.errors import (
    FletchingError,
    PluginError,
    UnknownMethodError,
    bad_argument,
    bad_choice,
    did_you_mean,
    missing_extra,
)

__all__ = [
    "BUILT_IN",
    "FIDELITIES",
    "KINDS",
    "BrokenPlugin",
    "Checkpoint",
    "Clash",
    "MethodSpec",
    "Registry",
    "missing_requirements",
    "read_extras",
    "summarise",
]

BUILT_IN = "fletching"
"""Owner of the methods that come with the library."""

KINDS = ("embedder", "reranker", "retriever", "training", "benchmark", "tool")
"""What a method can be."""

FIDELITIES = ("paper", "paper+code", "reconstruction")
"""What a method was built from; a reconstruction fills gaps that the paper leaves open."""

_METHOD_NAME = re.compile(r"[a-z][a-z0-9_]*")
_CHECKPOINT_NAME = re.compile(r"[a-z][a-z0-9.-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_EXTRA_REQUIREMENT = re.compile(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]")

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights that open by name.

    Args:
        name: What users type, such as ``"mvp-mini"``: lower-case letters, digits, dots and hyphens.
        location: A hub id (``"owner/name"``), or ``"package:<dotted.package>/<folder>"`` for weights that
            ship inside an installed package.
        summary: One line about what it was trained on and how good it is.
        options: Keyword arguments that the method's class needs to open it, as ``(("n_views", 4),)``.
    """

    name: str
    location: str
    summary: str
    options: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        """Check the name and the location."""
        domain = "lower-case letters, digits, dots and hyphens, a letter first"
        _check_name("Checkpoint", self.name, _CHECKPOINT_NAME, domain)
        if not self.location:
            raise bad_argument("Checkpoint", "location", "a hub id or 'package:<package>/<folder>'", "")


@dataclass(frozen=True)
class MethodSpec:
    """One method, described in strings so that listing it imports nothing.

    Args:
        name: The method's one name everywhere: lower-case letters, digits and underscores.
        kind: One of `KINDS`.
        title: The system's name as its authors write it.
        summary: What it is for, in one line.
        paper: The arXiv id, or a short citation; empty when there is no paper.
        fidelity: One of `FIDELITIES`.
        entry: The class users call, as ``"package.module:Class"``.
        recipe: The training recipe, as ``"package.module:Class"``; ``None`` when it cannot be trained.
        module_classes: Classes a saved model may name in ``modules.json``, as dotted paths; they load without
            ``trust_remote_code``.
        architectures: Names in the ``architectures`` of a ``config.json`` that `entry` opens.
        recognise: For checkpoints of stock classes that `entry` opens: a function, as
            ``"package.module:function"``, that is given the location and the JSON files of a checkpoint, name
            -> content (``"modules.json"``, ``"config.json"``, ``"config_sentence_transformers.json"``), and
            says whether it is the method's.
        checkpoints: Trained weights that open by name.
        requires: Distributions it needs beyond fletching's own dependencies, such as ``("peft",)``.
        licence: SPDX identifier of the code's licence.
    """

    name: str
    kind: str
    title: str
    summary: str
    paper: str
    fidelity: str
    entry: str
    recipe: str | None = None
    module_classes: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    recognise: str | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    requires: tuple[str, ...] = ()
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        """Check every field that the rest of the library relies on."""
        domain = "lower-case letters, digits and underscores, a letter first"
        _check_name("MethodSpec", self.name, _METHOD_NAME, domain)
        owner = f"MethodSpec {self.name!r}"
        if self.kind not in KINDS:
            raise bad_choice(owner, "kind", KINDS, self.kind)
        if self.fidelity not in FIDELITIES:
            raise bad_choice(owner, "fidelity", FIDELITIES, self.fidelity)
        for field in ("entry", "recipe", "recognise"):
            target = getattr(self, field)
            if not (target is None and field != "entry") and not _matches(_TARGET, target):
                raise bad_argument(owner, field, "'package.module:Attribute'", target)
        for field, item in (
            ("module_classes", str),
            ("architectures", str),
            ("checkpoints", Checkpoint),
            ("requires", str),
        ):
            values = getattr(self, field)
            if not isinstance(values, tuple) or not all(isinstance(value, item) for value in values):
                raise bad_argument(owner, field, f"a tuple of {item.__name__}", values)


@dataclass(frozen=True)
class Clash:
    """Two owners that want one short name; the first keeps it.

    Args:
        name: The short name of a method or checkpoint.
        keeper: Distribution that keeps it.
        loser: Distribution whose item is reachable as ``<loser>/<name>`` only.
    """

    name: str
    keeper: str
    loser: str

    def __str__(self) -> str:
        """Say who keeps the name and how to reach the other."""
        return (
            f"'{self.name}' is offered by {self.keeper} and by {self.loser}: the short name opens "
            f"{self.keeper}'s, '{self.loser}/{self.name}' the other."
        )


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in that could not be loaded.

    Args:
        name: ``<distribution>:<entry point>``, or the module of a built-in.
        aliases: What a user may call it: its distribution, its entry point, its folder.
        error: Why it could not be loaded.
    """

    name: str
    aliases: tuple[str, ...]
    error: BaseException

    @property
    def summary(self) -> str:
        """The error in one line."""
        return summarise(self.error)

    @property
    def traceback(self) -> str:
        """The error in full."""
        return "".join(traceback.format_exception(self.error))


class Registry:
    """The methods of all plug-ins, by short name (``mvp``) and by long name (``fletching/mvp``).

    Iterating yields the specs, sorted by name. `clashes` and `broken` tell what went wrong on the way.

    Example:
        >>> registry = Registry()
        >>> quiver = MethodSpec("quiver", "tool", "Quiver", "Holds arrows.", "", "paper", "acme:Quiver")
        >>> registry.add("acme", [quiver])
        >>> registry.get("quiver") is registry.get("acme/quiver")
        True
    """

    def __init__(self) -> None:
        """Start without any method."""
        self.clashes: list[Clash] = []
        self.broken: list[BrokenPlugin] = []
        self._owned: list[tuple[str, MethodSpec]] = []
        self._methods: dict[str, tuple[str, MethodSpec]] = {}
        self._checkpoints: dict[str, tuple[str, tuple[MethodSpec, Checkpoint]]] = {}

    def __iter__(self) -> Iterator[MethodSpec]:
        """Yield the specs, sorted by name and then by owner."""
        return (spec for _, spec in sorted(self._owned, key=lambda owned: (owned[1].name, owned[0])))

    def __len__(self) -> int:
        """Count the methods."""
        return len(self._owned)

    def add(self, owner: str, specs: Iterable[MethodSpec]) -> None:
        """Add the methods of one plug-in; on a clash the earlier owner keeps the short name.

        Args:
            owner: Distribution that brings them.
            specs: Its methods. All are added or, on an error, none.

        Raises:
            PluginError: If the owner offers two methods, or two checkpoints, of one name.
        """
        specs = list(specs)
        methods = [(spec.name, spec) for spec in specs]
        checkpoints = [(item.name, (spec, item)) for spec in specs for item in spec.checkpoints]
        for what, names, taken in (
            ("methods", [name for name, _ in methods], self._methods.keys()),
            ("checkpoints", [name for name, _ in checkpoints], self._checkpoints.keys()),
        ):
            for position, name in enumerate(names):
                if name in names[:position] or f"{owner}/{name}" in taken:
                    raise PluginError(f"{owner} offers two {what} called {name!r}.")
        self._owned += [(owner, spec) for spec in specs]
        self.clashes += _claim(self._methods, owner, methods) + _claim(self._checkpoints, owner, checkpoints)

    def get(self, name: str) -> MethodSpec:
        """Look a method up.

        Args:
            name: Short or long name.

        Returns:
            Its spec.

        Raises:
            PluginError: If the name is that of a plug-in that could not be loaded.
            UnknownMethodError: If there is no such method; the text suggests the closest name.
        """
        if name in self._methods:
            return self._methods[name][1]
        for plugin in self.broken:
            if name in plugin.aliases:
                raise PluginError(
                    f"Plug-in {plugin.name!r} is broken: {plugin.summary}. Run `fletching doctor` for more."
                ) from plugin.error
        hint = (
            did_you_mean(name, [*self._methods, *self._checkpoints])
            or "Run `fletching list` to see all methods."
        )
        raise UnknownMethodError(f"No method is called {name!r}. {hint}")

    def find_checkpoint(self, name: str) -> tuple[MethodSpec, Checkpoint] | None:
        """Look a checkpoint up.

        Args:
            name: Short name (``mvp-mini``) or, after a clash, long name (``acme/mvp-mini``).

        Returns:
            The method that opens it and the checkpoint; ``None`` when no method offers it.
        """
        return self._checkpoints[name][1] if name in self._checkpoints else None

    def find_module_class(self, class_ref: str) -> MethodSpec | None:
        """Find the method that a class named in a saved model's ``modules.json`` belongs to.

        Args:
            class_ref: Dotted path of the class.

        Returns:
            The method that vouches for the class; ``None`` when none does.
        """
        return next((spec for spec in self if class_ref in spec.module_classes), None)

    def find_architecture(self, name: str) -> MethodSpec | None:
        """Find the method that opens an architecture named in a ``config.json``.

        Args:
            name: The architecture, such as ``"FiDT5"``.

        Returns:
            The method whose entry opens it; ``None`` when none does.
        """
        return next((spec for spec in self if name in spec.architectures), None)

    def owner_of(self, spec: MethodSpec) -> str:
        """Name the distribution that brings a method.

        Args:
            spec: A spec of this registry.

        Returns:
            The distribution's name; ``"fletching"`` for built-ins.
        """
        return next(owner for owner, owned in self._owned if owned is spec)

    def name_of(self, spec: MethodSpec) -> str:
        """Name a method so that `get` finds it again.

        Args:
            spec: A spec of this registry.

        Returns:
            The short name, or the long one when another owner keeps the short one.
        """
        return spec.name if self._methods[spec.name][1] is spec else f"{self.owner_of(spec)}/{spec.name}"

    def resolve(self, entry: str) -> object:
        """Import the class a spec names.

        Args:
            entry: The ``entry`` or ``recipe`` of a spec.

        Returns:
            The object it names.

        Raises:
            MissingExtraError: If a distribution that the method requires is not installed.
            PluginError: If the import fails; the text names the owner, and the cause is chained.
        """
        owner, spec = next(
            ((owner, spec) for owner, spec in self._owned if entry in (spec.entry, spec.recipe)), ("", None)
        )
        if spec is not None:
            for package in missing_requirements(spec):
                extras = [extra for extra, packages in read_extras().items() if package in packages]
                raise missing_extra(spec.name, package, extras[0] if extras and owner == BUILT_IN else "")
        try:
            return import_target(entry)
        except FletchingError:
            raise
        except (Exception, SystemExit) as error:
            subject = f"{owner}: method {spec.name!r}" if spec is not None else f"{entry!r}"
            raise PluginError(f"{subject} cannot import {entry!r}: {summarise(error)}.") from error


def missing_requirements(spec: MethodSpec) -> tuple[str, ...]:
    """List what a method needs and this environment lacks.

    Args:
        spec: The method.

    Returns:
        The distributions of ``spec.requires`` that are not installed, in order.
    """
    return tuple(package for package in spec.requires if not _is_installed(package))


def read_extras() -> dict[str, tuple[str, ...]]:
    """Read fletching's extras from its own installed metadata.

    Returns:
        The packages of each extra; empty when fletching runs from a source tree that is not installed.
    """
    extras: dict[str, tuple[str, ...]] = {}
    for requirement in (metadata.requires(BUILT_IN) if _is_installed(BUILT_IN) else None) or ():
        if found := _EXTRA_REQUIREMENT.match(requirement):
            package, extra = found.groups()
            extras[extra] = (*extras.get(extra, ()), package)
    return extras


def summarise(error: BaseException) -> str:
    """Word an exception in one line.

    Args:
        error: The exception.

    Returns:
        Its type and the first line of its text, without the final full stop; the second, too, where a colon
        announces it.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {text}".rstrip(".") if text else type(error).__name__


def _claim(table: dict[str, tuple[str, T]], owner: str, items: Iterable[tuple[str, T]]) -> list[Clash]:
    """Enter items under their long names, and under their short names where those are free."""
    clashes = []
    for name, item in items:
        table[f"{owner}/{name}"] = (owner, item)
        keeper, _ = table.setdefault(name, (owner, item))
        if keeper != owner:
            clashes.append(Clash(name, keeper, owner))
    return clashes


def _is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _check_name(owner: str, name: object, pattern: re.Pattern[str], domain: str) -> None:
    if not _matches(pattern, name):
        raise bad_argument(owner, "name", domain, name)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
