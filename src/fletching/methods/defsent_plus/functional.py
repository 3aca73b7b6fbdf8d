"""The equations: entries as means of definitions, the projection, and how isotropic vectors are."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, normalize, pad

from fletching.errors import FletchingError, bad_argument, bad_choice, bad_shape
from fletching.methods.defsent_plus.config import ACTIVATIONS, ICAConfig

logger = logging.getLogger(__name__)

_CHUNK = 8192  # rows averaged at once in double precision
_SMALL = 1e-12
_NO_VARIANCE = 1e-10  # of the largest variance: what rounding to float32 leaves is far below


def average_definitions(
    definition_embeddings: Tensor, labels: Tensor, *, entries: int, rows: Tensor | None = None
) -> Tensor:
    """Average the vectors of each entry's definitions: ``E[e] = (1/m) sum_j x_j``.

    The mean is over definitions, not over all their tokens: a long definition counts as much as a short one.
    Sums are in double precision, so that the order of the definitions does not show.

    Args:
        definition_embeddings: One vector for each definition, shape ``(N, D)``.
        labels: The entry of each, from 0 to ``entries - 1``, shape ``(N,)``.
        entries: Number of entries V.
        rows: Where entries share definitions: the row of ``definition_embeddings`` that each label is for;
            ``None`` where the two are in the same order.

    Returns:
        Entry embeddings, shape ``(V, D)``, float32.

    Raises:
        ArgumentError: If an entry has no definition.
        ShapeError: If there is not one label for each vector.

    Example:
        >>> average_definitions(torch.tensor([[1.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 0]), entries=1)
        tensor([[2., 1.]])
    """
    owner = "average_definitions"
    rows = torch.arange(len(definition_embeddings)) if rows is None else rows
    if labels.shape != rows.shape:
        raise bad_shape(owner, "labels", "N", rows.shape, labels.shape)
    counts = torch.bincount(labels, minlength=entries)
    if len(counts) > entries or not bool((counts > 0).all()):
        domain = f"such that each of the {entries} entries, and no other, has a definition"
        raise bad_argument(owner, "labels", domain, f"{int((counts > 0).sum())} entries")
    order = labels.argsort(stable=True)
    ends = counts.cumsum(0)
    averages = definition_embeddings.new_empty((entries, definition_embeddings.shape[1]), dtype=torch.float32)
    for first in range(0, entries, _CHUNK):
        last = min(first + _CHUNK, entries)
        chosen = order[int(ends[first] - counts[first]) : int(ends[last - 1])]
        sums = averages.new_zeros((last - first, averages.shape[1]), dtype=torch.float64)
        sums.index_add_(0, labels[chosen] - first, definition_embeddings[rows[chosen]].double())
        averages[first:last] = (sums / counts[first:last, None]).float()
    return averages


def project_definitions(
    sentence_embeddings: Tensor, weight: Tensor, bias: Tensor, *, activation: str
) -> Tensor:
    """Project sentence embeddings into the space of the entries: ``p = act(W h + b)``.

    Args:
        sentence_embeddings: h, shape ``(B, D)``.
        weight: W, shape ``(D, D)``.
        bias: b, shape ``(D,)``.
        activation: ``"tanh"``, as BERT's pooler, or ``"gelu"`` (by the error function), as RoBERTa's head.

    Returns:
        Projected embeddings, shape ``(B, D)``.

    Raises:
        ArgumentError: If there is no such activation.

    Example:
        >>> weight, bias = torch.diag(torch.tensor([1.0, 2.0])), torch.zeros(2)
        >>> project_definitions(torch.tensor([[0.5, -0.25]]), weight, bias, activation="tanh")
        tensor([[ 0.4621, -0.4621]])
    """
    if activation not in ACTIVATIONS:
        raise bad_choice("project_definitions", "activation", ACTIVATIONS, activation)
    projected = linear(sentence_embeddings, weight, bias)
    return projected.tanh() if activation == "tanh" else gelu(projected)


def score_entries(projected: Tensor, entry_embeddings: Tensor) -> Tensor:
    """Score every entry for every projected definition: ``logits = p E^T``.

    No bias, no temperature, nothing of length one: the scale of the entries is part of the method.

    Args:
        projected: p, shape ``(B, D)``.
        entry_embeddings: E, shape ``(V, D)``.

    Returns:
        Logits, shape ``(B, V)``, float32 whatever the input precision.

    Example:
        >>> score_entries(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        tensor([[1., 2., 3.]])
    """
    return projected.float() @ entry_embeddings.float().T


def ica_transform(vectors: Tensor, *, config: ICAConfig | None = None) -> Tensor:
    """Turn vectors into independent components: uncorrelated columns, all of the same variance.

    Components come in no order and with no sign, which does not matter where they only tell classes apart.
    A LayerNorm leaves its outputs one dimension short: their deviations sum to zero. So what a BERT computes
    has D - 1 components, and the last column is 0; the reference code has the noise of rounding there, at the
    variance of all others. Where the iterations run out, scikit-learn warns (``ConvergenceWarning``): the
    components are then uncorrelated, but not as independent as they could be.

    Args:
        vectors: Shape ``(V, D)``, at least as many rows as columns.
        config: The settings; ``None`` for the defaults.

    Returns:
        The components times ``scale``, shape ``(V, D)``, float32.

    Raises:
        ArgumentError: If there are fewer rows than columns, or the vectors span fewer than D - 1 dimensions.
    """
    from sklearn.decomposition import FastICA
    from sklearn.preprocessing import StandardScaler

    config = config or ICAConfig()
    rows, columns = _check_vectors("ica_transform", vectors).shape
    if rows < columns:
        domain = f"at least as many rows as its {columns} columns"
        raise bad_argument("ica_transform", "vectors", domain, f"{rows} rows")
    standard = torch.from_numpy(StandardScaler().fit_transform(vectors.double().cpu().numpy()))
    rank = int(torch.linalg.matrix_rank(standard.T @ standard, rtol=_NO_VARIANCE, hermitian=True))
    if rank < columns - 1:
        domain = f"vectors that span at least {columns - 1} of their {columns} dimensions"
        raise bad_argument("ica_transform", "vectors", domain, f"{rank} dimensions", "Take more entries")
    logger.info(
        "Independent components of %d x %d numbers: at most %d iterations.",
        rows,
        rank,
        config.max_iterations,
    )
    analysis = FastICA(
        n_components=rank,
        fun="logcosh",
        tol=config.tolerance,
        max_iter=config.max_iterations,
        whiten=f"{config.variance}-variance",
        random_state=config.seed,
    )
    components = analysis.fit_transform(standard.numpy())  # warns itself where it does not converge
    logger.info("Independent components after %d iterations.", analysis.n_iter_)
    transformed = torch.from_numpy(components).float() * config.scale
    transformed = pad(transformed, (0, columns - rank))
    if not bool(transformed.isfinite().all()):
        raise FletchingError("ica_transform: the components are not finite; the vectors are too alike.")
    return transformed


def mean_cosine(vectors: Tensor) -> float:
    """Mean cosine of two different rows: 0 for vectors that point everywhere, 1 for a single direction.

    The measure of anisotropy of Ethayarajh (EMNLP 2019, arXiv 1909.00512), over all pairs instead of a
    sample: the pairs of n unit vectors sum to ``|sum u|^2 - n``. Rows of length zero are left out.

    Args:
        vectors: Shape ``(N, D)``, at least two rows that are not zero.

    Returns:
        The mean, from ``-1 / (N - 1)`` to 1.

    Raises:
        ArgumentError: If there are fewer than two such rows, a value is not finite, or this is no matrix.

    Example:
        >>> round(mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])), 4)
        -0.3333
    """
    vectors = _check_vectors("mean_cosine", vectors)
    total = torch.zeros(vectors.shape[1], dtype=torch.float64)
    count = 0
    for chunk in vectors.split(_CHUNK):
        rows = chunk.double()
        lengths = rows.norm(dim=1, keepdim=True)
        kept = lengths[:, 0] > 0
        total += (rows[kept] / lengths[kept]).sum(dim=0).cpu()
        count += int(kept.sum())
    if count < 2:
        raise bad_argument("mean_cosine", "vectors", "two rows or more that are not zero", f"{count} rows")
    return float((total.square().sum() - count) / (count * (count - 1)))


def partition_isotropy(vectors: Tensor) -> float:
    """Ratio of the smallest to the largest partition function: 1 where no direction is preferred.

    The measure I of Mu and Viswanath (ICLR 2018, arXiv 1702.01417): ``min Z(c) / max Z(c)`` over the
    eigenvectors c of ``V^T V``, with both their signs, and ``Z(c) = sum exp(c . v)`` after Arora et al.
    (TACL 2016). It depends on the length of the vectors; compare vectors of the same scale.

    Args:
        vectors: Shape ``(N, D)``.

    Returns:
        The ratio, from 0 to 1.

    Raises:
        ArgumentError: If there is no row, a value is not finite, or this is no matrix.

    Example:
        >>> partition_isotropy(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
        1.0
    """
    vectors = _check_vectors("partition_isotropy", vectors)
    if not len(vectors):
        raise bad_argument("partition_isotropy", "vectors", "one row or more", "no rows")
    rows = vectors.double()
    directions = torch.linalg.eigh(rows.T @ rows).eigenvectors
    along = rows @ directions
    partition = torch.cat([along.logsumexp(dim=0), (-along).logsumexp(dim=0)])
    return float((partition.min() - partition.max()).exp())


def iso_score(vectors: Tensor) -> float:
    """Share of the dimensions that the variance uses evenly: 1 for all of them, 0 for one.

    IsoScore of Rudman et al. (Findings of ACL 2022, arXiv 2108.07344): from the variances along the principal
    components, scaled to length ``sqrt(D)``, the distance to a vector of ones; it tells how many dimensions
    are used as well as a share of them. Neither the mean nor the scale of the vectors counts.

    Args:
        vectors: Shape ``(N, D)``, two rows or more, at least two columns.

    Returns:
        The score, from 0 to 1.

    Raises:
        ArgumentError: If there are too few rows or columns, no variance, a value is not finite, or this is no
            matrix.

    Example:
        >>> iso_score(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
        1.0
    """
    rows = _check_vectors("iso_score", vectors).double()
    size = rows.shape[1]
    if len(rows) < 2 or size < 2:
        raise bad_argument("iso_score", "vectors", "two rows and columns or more", tuple(rows.shape))
    variances = torch.linalg.eigvalsh(rows.T.cov()).clamp(min=0)
    length = variances.norm()
    if float(length) <= _SMALL * float(rows.square().mean()):
        raise bad_argument("iso_score", "vectors", "vectors that differ", "equal rows")
    scaled = variances / length * size**0.5
    defect = float((scaled - 1).norm()) / (2 * (size - size**0.5)) ** 0.5
    used = (size - defect**2 * (size - size**0.5)) ** 2 / size**2  # share of the dimensions
    return min(max((size * used - 1) / (size - 1), 0.0), 1.0)


def measure_isotropy(vectors: Tensor) -> dict[str, float]:
    """Measure how evenly vectors fill their space.

    Args:
        vectors: Shape ``(N, D)``, at least two rows that differ.

    Returns:
        ``"mean_cosine"``, 0 where directions are even and 1 where there is one; ``"partition_isotropy"``, the
        ratio of the smallest to the largest partition function of vectors of length one, and
        ``"iso_score"``, both 1 where directions are even.

    Raises:
        ArgumentError: If there are too few rows, a value is not finite, or this is no matrix.

    Example:
        >>> cross = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> {name: round(value, 4) for name, value in measure_isotropy(cross).items()}
        {'mean_cosine': -0.3333, 'partition_isotropy': 1.0, 'iso_score': 1.0}
    """
    mean = mean_cosine(vectors)  # checks them
    return {
        "mean_cosine": mean,
        "partition_isotropy": partition_isotropy(normalize(vectors.double(), dim=1)),
        "iso_score": iso_score(vectors),
    }


def _check_vectors(owner: str, vectors: Tensor) -> Tensor:
    if not isinstance(vectors, Tensor) or vectors.ndim != 2:
        shape = tuple(getattr(vectors, "shape", ()))
        raise bad_argument(owner, "vectors", "a tensor of shape (N, D)", shape or vectors)
    if not bool(vectors.isfinite().all()):
        raise bad_argument(owner, "vectors", "finite", "NaN or infinity")
    return vectors
