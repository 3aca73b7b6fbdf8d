"""The equations of ULLME and of GRL, one pure function each.

Letters of the paper: ``tau`` is ``temperature``, ``beta`` is ``beta``, ``P_rep`` comes from ``rep_scores``
(cosines of embeddings), ``P_gen`` from ``gen_scores`` (log-likelihoods), ``U(q)`` is the axis N. Sums run in
float32, or in float64 where the input has it, whatever the precision of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fletching.errors import bad_choice, bad_shape

__all__ = [
    "CONTRASTIVE_LOSSES",
    "KL_DIRECTIONS",
    "PREFERENCE_LOSSES",
    "SIMILARITIES",
    "build_pair_masks",
    "compute_kl",
    "compute_ntxent",
    "compute_preference_loss",
    "compute_sft_loss",
    "compute_similarities",
    "compute_supcon",
    "mine_pairs",
    "sum_passages",
]

SIMILARITIES = ("cosine", "euclidean")
"""What ``similarity=`` may be."""

CONTRASTIVE_LOSSES = ("supcon", "ntxent")
"""What ``contrastive_loss=`` may be."""

PREFERENCE_LOSSES = ("sigmoid", "hinge", "ipo", "kto_pair")
"""The losses of :func:`compute_preference_loss`."""

KL_DIRECTIONS = ("gen_rep", "rep_gen")
"""What ``kl_direction=`` may be."""


def compute_similarities(embeddings: Tensor, *, similarity: str = "cosine") -> Tensor:
    """Compare every embedding with every other.

    Args:
        embeddings: Shape ``(n, D)``, of any length.
        similarity: ``"cosine"``, or ``"euclidean"``: minus the distance of the vectors at length one.

    Returns:
        Shape ``(n, n)``, higher is more alike.

    Raises:
        ArgumentError: If ``similarity`` is neither.

    Example:
        >>> compute_similarities(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), similarity="euclidean")
        tensor([[-0.0000, -1.4142],
                [-1.4142, -0.0000]])
    """
    if similarity not in SIMILARITIES:
        raise bad_choice("compute_similarities", "similarity", SIMILARITIES, similarity)
    unit = nn.functional.normalize(_widen(embeddings), dim=-1)
    if similarity == "cosine":
        return unit @ unit.T
    # not through the dot product, which rounds small distances away; its gradient at distance 0 is 0
    return -torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")


def build_pair_masks(labels: Tensor, *, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Say which ordered pairs are positive and which are negative.

    Args:
        labels: Shape ``(n,)``; vectors with the same label are a positive pair, others a negative one.
        rows: Shape ``(n,)``, the row that a vector comes from; given, no pair crosses rows, as for data whose
            texts repeat from row to row (classification, clustering). ``None`` pairs everything.

    Returns:
        ``(positives, negatives)``, boolean, shape ``(n, n)`` each; nothing is paired with itself.

    Example:
        >>> positives, negatives = build_pair_masks(torch.tensor([0, 0, 1]))
        >>> positives.nonzero().tolist(), negatives.nonzero().tolist()
        ([[0, 1], [1, 0]], [[0, 2], [1, 2], [2, 0], [2, 1]])
    """
    same = labels[:, None] == labels[None, :]
    positives, negatives = same.clone().fill_diagonal_(False), ~same
    if rows is not None:
        own = rows[:, None] == rows[None, :]
        positives, negatives = positives & own, negatives & own
    return positives, negatives


def mine_pairs(
    similarities: Tensor, positives: Tensor, negatives: Tensor, *, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Keep the hard pairs: the multi-similarity miner of Wang et al. 2019.

    For an anchor a: the positive pair (a, p) stays if ``S_ap - epsilon < max_n S_an``, the negative pair
    (a, n) if ``S_an + epsilon > min_p S_ap``. An anchor without negatives keeps no positive, and the other
    way round.

    Args:
        similarities: Cosines, shape ``(n, n)``; what is kept carries no gradient.
        positives: As :func:`build_pair_masks` has them.
        negatives: Likewise.
        epsilon: The margin, >= 0. GenC: 0.2; ULLME: 0.25.

    Returns:
        ``(positives, negatives)`` that are kept.

    Example:
        >>> similarities = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.8], [0.1, 0.8, 1.0]])
        >>> masks = build_pair_masks(torch.tensor([0, 0, 1]))
        >>> [kept.nonzero().tolist() for kept in mine_pairs(similarities, *masks, epsilon=0.2)]
        [[[1, 0]], [[1, 2]]]
    """
    scores = similarities.detach()
    hardest_negative = scores.masked_fill(~negatives, -torch.inf).amax(dim=1, keepdim=True)
    hardest_positive = scores.masked_fill(~positives, torch.inf).amin(dim=1, keepdim=True)
    kept_positives = positives & (scores - epsilon < hardest_negative)
    kept_negatives = negatives & (scores + epsilon > hardest_positive)
    return kept_positives, kept_negatives


def compute_ntxent(logits: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Compute NT-Xent over all anchors.

    ``L = mean over (a, p) of -log( e^s_ap / (e^s_ap + sum over negatives k of a of e^s_ak) )``.

    Args:
        logits: Similarities over the temperature, shape ``(n, n)``.
        positives: Pairs (a, p), boolean, shape ``(n, n)``.
        negatives: Pairs (a, k), likewise.

    Returns:
        A scalar; 0 with gradient 0 where there is no positive pair.

    Example:
        >>> masks = build_pair_masks(torch.tensor([0, 0, 1]))
        >>> compute_ntxent(torch.zeros(3, 3), *masks)  # log 2: the positive and one negative, all equal
        tensor(0.6931)
    """
    logits = _widen(logits)
    if not positives.any():
        return logits.sum() * 0
    against = _sum_exponentials(logits, negatives)
    anchors, others = positives.nonzero(as_tuple=True)
    return nn.functional.softplus(against[anchors] - logits[anchors, others]).mean()


def compute_supcon(logits: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Compute the supervised contrastive loss over all anchors.

    ``L = mean over a of mean over p of -log( e^s_ap / sum over pairs k of a of e^s_ak )``, where a runs over
    the anchors with a positive and k over its positives and negatives. With one positive each it is
    :func:`compute_ntxent`.

    Args:
        logits: Similarities over the temperature, shape ``(n, n)``.
        positives: Pairs (a, p), boolean, shape ``(n, n)``.
        negatives: Pairs (a, k), likewise.

    Returns:
        A scalar; 0 with gradient 0 where there is no positive pair.

    Example:
        >>> masks = build_pair_masks(torch.tensor([0, 0, 0, 1]))
        >>> compute_supcon(torch.zeros(4, 4), *masks)  # log 3: two positives and one negative, all equal
        tensor(1.0986)
    """
    logits = _widen(logits)
    if not positives.any():
        return logits.sum() * 0
    everything = _sum_exponentials(logits, positives | negatives)
    count = positives.sum(dim=1)
    mean = logits.masked_fill(~positives, 0).sum(dim=1) / count.clamp(min=1)
    return (everything - mean)[count > 0].mean()


def sum_passages(token_scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the log-likelihoods of the tokens that are labelled, and count those.

    Args:
        token_scores: ``log P(token t | tokens before t)``, shape ``(B, T)``.
        labels: Shape ``(B, T)``; -100 on the prompt and on padding, which do not count.

    Returns:
        ``(sums, counts)``, shape ``(B,)`` each.

    Example:
        >>> scores = torch.tensor([[-0.1, -0.2, -0.3, -0.4, -0.5]])
        >>> sums, counts = sum_passages(scores, torch.tensor([[-100, -100, 7, 8, 9]]))
        >>> sums, sums / counts
        (tensor([-1.2000]), tensor([-0.4000]))
    """
    mask = labels != -100
    return _widen(token_scores).masked_fill(~mask, 0).sum(dim=1), mask.sum(dim=1)


def compute_kl(
    rep_scores: Tensor,
    gen_scores: Tensor,
    *,
    temperature: float = 0.1,
    direction: str = "gen_rep",
    detach_generator: bool = True,
) -> Tensor:
    """Compute how far the embeddings' preference among the candidates is from the generator's.

    ``P_rep = softmax(rep_scores / temperature)`` and ``P_gen = softmax(gen_scores)`` over the candidates of a
    query. The reference code takes ``KL(P_gen || P_rep)`` with the generator detached; a summary of the
    paper has ``KL(P_rep || P_gen)``.

    Args:
        rep_scores: Cosines of query and candidate, shape ``(B, N)``.
        gen_scores: Mean log-likelihood of the candidate's tokens after the query, shape ``(B, N)``.
        temperature: Divides ``rep_scores``, > 0. GenC: 0.1.
        direction: ``"gen_rep"`` or ``"rep_gen"``: which distribution is the first of the two.
        detach_generator: Whether ``gen_scores`` get no gradient. GenC: yes; with it the authors met NaN.

    Returns:
        One number per query, shape ``(B,)``, >= 0.

    Raises:
        ShapeError: If the two differ in shape.
        ArgumentError: If ``direction`` is neither.

    Example:
        >>> rep, gen = torch.tensor([[0.8, 0.5, 0.2]]), torch.tensor([[-1.0, -1.5, -2.0]])
        >>> compute_kl(rep, gen), compute_kl(rep, gen, direction="rep_gen")
        (tensor([1.0703]), tensor([0.4993]))
    """
    if rep_scores.shape != gen_scores.shape:
        raise bad_shape("compute_kl", "gen_scores", "B, N", rep_scores.shape, gen_scores.shape)
    if direction not in KL_DIRECTIONS:
        raise bad_choice("compute_kl", "direction", KL_DIRECTIONS, direction)
    rep = (_widen(rep_scores) / temperature).log_softmax(dim=-1)
    gen = _widen(gen_scores.detach() if detach_generator else gen_scores).log_softmax(dim=-1)
    first, second = (gen, rep) if direction == "gen_rep" else (rep, gen)
    return nn.functional.kl_div(second, first, reduction="none", log_target=True).sum(dim=-1)


def compute_preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    kind: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compute the loss of preferring one passage to another, from log-likelihoods against a reference.

    With ``L = chosen - rejected``: ``sigmoid`` (DPO) is ``-(1 - ls) log s(beta L) - ls log s(-beta L)``,
    ``hinge`` is ``max(0, 1 - beta L)``, ``ipo`` is ``(L - 1 / (2 beta))^2``. ``kto_pair`` compares each side
    with the batch mean of the other: ``1 - s(beta (chosen - max(mean rejected, 0)))`` and
    ``1 - s(beta (max(mean chosen, 0) - rejected))``.

    Args:
        chosen: ``log P(passage | query) - log P_reference(passage | query)`` of the positives, shape
            ``(B,)``: sums over tokens; for ``ipo`` means. Without a reference its term is 0.
        rejected: The same of the negatives.
        kind: One of ``PREFERENCE_LOSSES``.
        beta: > 0. Both reference codes: 0.1.
        label_smoothing: Share of the labels taken to be wrong, from 0 to below 0.5; for ``sigmoid`` alone.

    Returns:
        Shape ``(B,)``, for ``kto_pair`` ``(2 B,)``: the positives, then the negatives.

    Raises:
        ArgumentError: If ``kind`` is unknown.

    Example:
        >>> chosen, rejected = torch.tensor([1.0]), torch.tensor([-0.5])
        >>> losses = [compute_preference_loss(chosen, rejected, kind=kind) for kind in PREFERENCE_LOSSES]
        >>> [round(loss.mean().item(), 4) for loss in losses]
        [0.621, 0.85, 12.25, 0.4688]
    """
    if kind not in PREFERENCE_LOSSES:
        raise bad_choice("compute_preference_loss", "kind", PREFERENCE_LOSSES, kind)
    chosen, rejected = _widen(chosen), _widen(rejected)
    if kind == "kto_pair":
        good = chosen - rejected.mean().clamp(min=0)
        bad = chosen.mean().clamp(min=0) - rejected
        return 1 - torch.sigmoid(beta * torch.cat([good, bad]))
    difference = chosen - rejected
    if kind == "hinge":
        return nn.functional.relu(1 - beta * difference)
    if kind == "ipo":
        return (difference - 1 / (2 * beta)).square()
    right, wrong = nn.functional.logsigmoid(beta * difference), nn.functional.logsigmoid(-beta * difference)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def compute_sft_loss(sums: Tensor, counts: Tensor) -> Tensor:
    """Compute the mean cross-entropy of all tokens of the positive passages.

    Args:
        sums: Summed log-likelihoods of the passages' tokens, shape ``(B,)``.
        counts: Their number of tokens, shape ``(B,)``.

    Returns:
        A scalar.

    Example:
        >>> compute_sft_loss(torch.tensor([-1.0, -5.0]), torch.tensor([1, 3]))
        tensor(1.5000)
    """
    return -_widen(sums).sum() / counts.sum()


def _sum_exponentials(logits: Tensor, mask: Tensor) -> Tensor:
    """Return log-sum-exp over the pairs of a mask; for a row without any, a number below all others."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min / 2).logsumexp(dim=1)


def _widen(tensor: Tensor) -> Tensor:
    """Go up to float32 where less would overflow or round sums away."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
