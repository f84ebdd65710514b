"""Audit of a store: leakage between parts of a split, duplicates, contradictory labels and likely label errors."""

from __future__ import annotations

from importlib.metadata import version

from genretree.audit import duplicates, landmarks
from genretree.audit.copies import find_copies
from genretree.audit.findings import KINDS, Audit, Finding, LabelIssue, Locator, Place
from genretree.audit.fingerprints import compute_fingerprints
from genretree.audit.label_tables import find_contradictions, find_several_leaves, find_shared
from genretree.audit.labels import find_mislabelled
from genretree.corpus.store import Store
from genretree.errors import ArgumentError

__all__ = ["Audit", "Finding", "LabelIssue", "Place", "audit"]

_SEVERITIES = ("error", "warning", "note")


def audit(
    store: Store, split: str = "default", *, labels: bool = False, seed: int = 0, progress: bool = False
) -> Audit:
    """Audit a store and one of its splits.

    Parameters
    ----------
    store : Store
        The store is not changed, except for its cache.
    split : str, default "default"
        Name of the split to check for leakage.
    labels : bool, default False
        Also look for label errors. The first run takes about 20 ms per slice; features are cached.
    seed : int, default 0
        Seed of the cross-validation folds for label errors.
    progress : bool, default False
        Show progress bars on standard error.

    Returns
    -------
    Audit

    Raises
    ------
    ArgumentError
        If `seed` is negative.
    CorpusError
        If there is no such split, or the store has too few leaves or groups to check labels.

    See Also
    --------
    genretree.audit.page.save_audit : Write an audit as JSON, CSV and a page.
    genretree.audit.evidence.read_copies : Read the pairs of copies for `genretree split`.

    Examples
    --------
    >>> import genretree
    >>> from genretree.audit import audit
    >>> result = audit(genretree.Store("STORE"), labels=True)  # doctest: +SKIP
    >>> result.summary["leaking_pairs"]  # doctest: +SKIP
    0
    """
    if seed < 0:
        raise ArgumentError(f"seed must be 0 or more, got {seed}")
    from threadpoolctl import threadpool_limits

    parts_of_split = store.split(split)
    locator = Locator(store, parts_of_split.slice_parts(store.slice_tracks).tolist())
    # One thread: most matrix products are small, and thread synchronisation is slow on a machine under load.
    with threadpool_limits(1):
        doubts = tuple(find_mislabelled(store, locator, seed, progress)) if labels else None
        findings = find_shared(store, locator)
        findings += find_copies(store, compute_fingerprints(store, progress), locator, progress)
        findings += find_contradictions(store, locator)
        findings += find_several_leaves(store)
    kinds = list(KINDS)
    findings.sort(key=lambda item: (_SEVERITIES.index(item.severity), kinds.index(item.kind), -(item.similarity or 0)))
    return Audit(
        store=str(store.folder),
        split=split,
        protocol=parts_of_split.note,
        tracks=store.n_tracks,
        slices=store.n_slices,
        findings=tuple(findings),
        doubts=doubts,
        thresholds={
            "near_image_correlation": duplicates.CORRELATION,
            "same_sound_correlation": landmarks.CORRELATION,
            "same_sound_seconds": landmarks.OVERLAP_SECONDS,
        },
        version=version("genretree"),
        digest=store.metadata.digest,
    )
