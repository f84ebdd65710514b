"""What makes figures on a store untrustworthy: leaks, copies, contradictions, and labels that are likely wrong."""

from __future__ import annotations

from importlib.metadata import version

from genretree.audit import duplicates, landmarks
from genretree.audit.copies import find_copies
from genretree.audit.findings import KINDS, Audit, Finding, LabelIssue, Locator, Place
from genretree.audit.fingerprints import compute_fingerprints
from genretree.audit.label_tables import find_contradictions, find_several_leaves, find_shared
from genretree.audit.labels import find_mislabelled
from genretree.corpus.store import Store

__all__ = ["Audit", "Finding", "LabelIssue", "Place", "audit"]

_SEVERITIES = ("error", "warning", "note")


def audit(
    store: Store, split: str = "default", *, labels: bool = False, seed: int = 0, progress: bool = False
) -> Audit:
    """Examine a store and one of its splits.

    Parameters
    ----------
    store : Store
        Only read, but for its cache.
    split : str
        Name of the split whose parts are looked at for leaks.
    labels : bool
        Also look for labels that are likely wrong; takes about 20 ms a slice the first time.
    seed : int
        Of the folds that labels are checked by.
    progress : bool
        Show bars on standard error.

    Returns
    -------
    Audit

    Raises
    ------
    CorpusError
        If there is no such split, or labels can't be checked.
    """
    from threadpoolctl import threadpool_limits

    chosen = store.split(split)
    locator = Locator(store, chosen.slice_parts(store.slice_tracks).tolist())
    # One thread: most products are small, and threads that wait for each other take far longer on a busy machine.
    with threadpool_limits(1):
        doubts = tuple(find_mislabelled(store, locator, seed, progress)) if labels else None
        found = find_shared(store, locator)
        found += find_copies(store, compute_fingerprints(store, progress), locator, progress)
        found += find_contradictions(store, locator)
        found += find_several_leaves(store)
    kinds = list(KINDS)
    found.sort(key=lambda item: (_SEVERITIES.index(item.severity), kinds.index(item.kind), -(item.similarity or 0)))
    return Audit(
        str(store.folder),
        split,
        chosen.note,
        store.n_tracks,
        store.n_slices,
        tuple(found),
        doubts,
        {
            "near_image_correlation": duplicates.CORRELATION,
            "same_sound_correlation": landmarks.CORRELATION,
            "same_sound_seconds": landmarks.OVERLAP_SECONDS,
        },
        version("genretree"),
        store.facts.digest,
    )
