"""beets plugin that sets the genres of items by their audio.

plugins: genretree
genretree:
    bundle: /path/to/bundle      # output of `genretree train`
    mapping: /path/to/map.yaml   # optional: your genre names, depth, threshold
    auto: no                     # also run during import
    count: 1                     # maximum number of genres
    whitelist: no                # yes: lastgenre's list; or a file with a genre per line
    canonical: no                # yes: lastgenre's tree; or a YAML file
    fallback: ''                 # genre of items without a confident prediction
    library: /path/to/library.sqlite  # results to reuse; default: the database of `genretree library`
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from optparse import Values
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import mediafile
from beets import config, ui
from beets.dbcore import types
from beets.library import Album, Item, Library
from beets.plugins import BeetsPlugin

import beetsplug
from genretree.files import printable, printable_text

if TYPE_CHECKING:
    from genretree.library.database.records import FileResult
    from genretree.library.plan.mapping import Decision, Mapping
    from genretree.library.plan.whitelist import GenreWhitelist
    from genretree.library.scan.classifier import BundleClassifier

_FIELDS = ("genretree_path", "genretree_confidence", "genretree_model")


class GenretreePlugin(BeetsPlugin):  # type: ignore[misc]  # beets is not checked
    """The command `beet genretree`, and an import stage if `auto` is set."""

    item_types: ClassVar[dict[str, Any]] = {
        "genretree_path": types.STRING,
        "genretree_confidence": types.STRING,
        "genretree_model": types.STRING,
    }

    def __init__(self) -> None:
        super().__init__()
        self.config.add(
            {
                "bundle": None,
                "mapping": None,
                "min_confidence": None,
                "depth": None,
                "min_depth": None,
                "count": None,
                "whitelist": False,
                "canonical": False,
                "fallback": None,
                "database": None,
                "library": None,
                "auto": False,
                "force": False,
                "keep_existing": False,
                "pretend": False,
            }
        )
        for name in _FIELDS:  # as `genretree library apply` writes them
            self.add_media_field(name, _media_field(name.upper()))
        if self.config["auto"].get(bool):
            self.import_stages = [self._on_import]

    def commands(self) -> Sequence[ui.Subcommand]:
        """Return the command."""
        command = ui.Subcommand("genretree", help="predict genres from audio")
        flags: list[tuple[str, str, str, str, object, str]] = [
            ("-p", "--pretend", "pretend", "store_true", None, "show actions but do nothing"),
            ("-f", "--force", "force", "store_true", None, "modify existing genres"),
            ("-F", "--no-force", "force", "store_false", None, "don't modify existing genres"),
            ("-k", "--keep-existing", "keep_existing", "store_true", None, "add to existing genres (with --force)"),
            ("-K", "--no-keep-existing", "keep_existing", "store_false", None, "replace existing genres"),
            ("-A", "--items", "album", "store_false", None, "predict each item separately (default)"),
            ("-a", "--albums", "album", "store_true", None, "match albums, and predict one genre per album"),
        ]
        for short, long, name, action, default, text in flags:
            command.parser.add_option(short, long, dest=name, action=action, default=default, help=text)
        command.parser.set_defaults(album=False)
        command.func = self._run
        return [command]

    def _run(self, lib: Library, options: Values, query: list[str]) -> None:
        from genretree.errors import GenretreeError

        self.config.set_args(options)
        try:
            if options.album:
                self._predict_albums(lib.albums(query), ui.should_write())
            else:
                self._predict_items(lib.items(query), ui.should_write())
        except GenretreeError as error:
            raise ui.UserError(printable_text(f"genretree: {error}")) from error

    def _on_import(self, _session: Any, task: Any) -> None:
        from genretree.errors import GenretreeError

        try:
            self._predict_items(task.imported_items(), write=False)
        except GenretreeError as error:  # continue the import without genres
            self._log.warning("{}", printable_text(str(error)))

    def _predict_items(self, items: Iterable[Item], write: bool) -> None:
        selected = [item for item in items if self._is_selected(item)]
        results = self._classify(selected)
        for item in selected:
            self._set(item, results[_path(item)], write)

    def _predict_albums(self, albums: Iterable[Album], write: bool) -> None:
        selected = [album for album in albums if self._is_selected(album)]
        results = self._classify([item for album in selected for item in album.items()])
        for album in selected:
            items = list(album.items())
            known = [result for item in items if not isinstance(result := results[_path(item)], str)]
            decision = self._decide(known) if known else "none of its files can be analysed"
            if self._show(album, decision) and not self.config["pretend"].get(bool):
                album.store(inherit=False)
            for item in filter(self._is_selected, items):
                if self._show(item, decision):
                    self._store(item, decision, write)

    def _is_selected(self, thing: Item | Album) -> bool:
        genres = list(thing.genres or [])
        if self.config["force"].get(bool) or not genres:
            return True
        if not self._mapping.are_placeholders(genres):
            self._log.debug("{}: skipped: already has {}", _name(thing), genres)
            return False
        return True

    def _set(self, item: Item, result: FileResult | str, write: bool) -> None:
        decision = result if isinstance(result, str) else self._decide([result])
        if self._show(item, decision):
            self._store(item, decision, write)

    def _show(self, thing: Item | Album, decision: Decision | str) -> bool:
        """Show the changes; returns whether there are any."""
        if isinstance(decision, str) or not decision.genres:
            self._log.info("{}: {}", _name(thing), decision if isinstance(decision, str) else _reason(decision))
            return False
        existing = list(thing.genres or [])
        if not self.config["keep_existing"].get(bool) or self._mapping.are_placeholders(existing):
            existing = []
        thing.genres = list(dict.fromkeys([*existing, *decision.genres]))
        if _is_named(thing):
            return bool(ui.show_model_changes(thing, fields=["genres"]))
        before = list(thing.get_fresh_from_db().genres or [])
        if before == thing.genres:
            return False
        ui.print_(f"{_name(thing)}\n  genres: {'; '.join(before)} -> {'; '.join(thing.genres)}")
        return True

    def _store(self, item: Item, decision: Decision | str, write: bool) -> None:
        from genretree.library.plan.planner import evidence_fields

        if self.config["pretend"].get(bool) or isinstance(decision, str):
            return
        evidence = evidence_fields(decision, self._classifier.model_key) if not decision.reason else {}
        for name in _FIELDS:
            if evidence or item.get(name):  # a fallback is not a prediction, so that earlier evidence does not apply
                item[name] = evidence.get(name.upper(), "")
        item.try_sync(write=write, move=False)

    def _decide(self, results: Sequence[FileResult]) -> Decision | str:
        """Decide for an item, or for an album, by the mean probabilities of its items; a text is why that fails."""
        import numpy as np

        from genretree.library.plan.mapping import decide

        predictions = [result.levels for result in results if result.levels is not None]
        if not predictions:
            return next((result.message for result in results), "") or "can't be analysed"
        means = [np.mean(level, axis=0) for level in zip(*predictions, strict=True)]
        decision = decide(self._classifier.model_key, means, self._mapping)
        genres = self._whitelist.apply(decision.genres)
        if decision.genres and not genres:
            message = f"not in the whitelist: {'; '.join(decision.genres)}"
            decision = replace(decision, reason="not_in_whitelist", message=message)
        fallback = self.config["fallback"].get()
        if not genres and fallback and decision.reason != "left_alone":
            return replace(decision, genres=(str(fallback),), reason=decision.reason or "unsure")
        return replace(decision, genres=genres)

    def _classify(self, items: Sequence[Item]) -> dict[str, FileResult | str]:
        """Classify items; a text is why that fails.

        Earlier results are read from a database in beets' folder, and by content from that of `genretree library`.
        """
        from genretree.library.database import records
        from genretree.library.database.connection import default_database, lock_database, open_database
        from genretree.library.scan.analyse import analyse
        from genretree.library.scan.known_results import KnownResults

        paths = [_path(item) for item in items]
        if not paths:
            return {}
        db = Path(config.config_dir()) / "genretree.sqlite"
        if self.config["database"].get() is not None:
            db = Path(self.config["database"].as_filename())
        known = default_database()
        if self.config["library"].get() is not None:
            known = Path(self.config["library"].as_filename())
            if not known.is_file():
                raise ui.UserError(f"genretree: library: {known} is missing; make it with: genretree library analyse")
        classifier = KnownResults(self._classifier, known)
        results: dict[str, FileResult | str] = {}
        with lock_database(db, "beet genretree"), open_database(db, create=True) as database:
            analyse(database, paths, lambda: classifier, progress=len(paths) > 1)
            model, model_key = records.find_model(database, self._classifier.model_key.digest)
            for path in paths:
                row = records.find_file(database, path)
                result = None if row is None else records.find_result(database, model, model_key, row.id)
                if not os.path.lexists(path):
                    results[path] = "is not there any more; import it from where it is now, or run: beet update"
                elif result is None:
                    results[path] = (row.message if row is not None else "") or "can't be analysed"
                else:
                    results[path] = result
        if classifier.n_reused:
            self._log.info("{} results taken from {}", classifier.n_reused, known)
        return results

    @cached_property
    def _classifier(self) -> BundleClassifier:
        from genretree.errors import GenretreeError
        from genretree.library.scan.classifier import load_file_classifier

        if self.config["bundle"].get() is None:
            raise ui.UserError("genretree: set `bundle` in its configuration; make one with: genretree train")
        try:
            return load_file_classifier(self.config["bundle"].as_filename())
        except GenretreeError as error:
            raise ui.UserError(printable_text(f"genretree: {error}")) from error

    @cached_property
    def _mapping(self) -> Mapping:
        from genretree.errors import GenretreeError
        from genretree.library.plan.mapping import Mapping, load_mapping, override_settings

        try:
            path = self.config["mapping"]
            rules = Mapping()
            if path.get() is not None:
                rules = load_mapping(Path(path.as_filename()), self._classifier.model_key.taxonomy)
            settings = {name: self.config[name].get() for name in ("min_confidence", "depth", "min_depth")}
            return override_settings(rules, **settings, genres=self._count)
        except GenretreeError as error:
            raise ui.UserError(printable_text(f"genretree: {error}")) from error

    @property
    def _count(self) -> int | None:
        count = self.config["count"].get()
        if count is None:
            return None
        if not isinstance(count, int) or not 1 <= count <= 20:
            raise ui.UserError(f"genretree: count must be a whole number from 1 to 20, got {count}")
        return count

    @cached_property
    def _whitelist(self) -> GenreWhitelist:
        from genretree.errors import GenretreeError
        from genretree.library.plan.whitelist import GenreWhitelist, load_canonical_tree, load_whitelist

        whitelist, tree = self._find_list("whitelist", "genres.txt"), self._find_list("canonical", "genres-tree.yaml")
        try:
            return GenreWhitelist(
                load_whitelist(whitelist) if whitelist is not None else frozenset(),
                load_canonical_tree(tree) if tree is not None else (),
                self._count or (self._mapping.settings.genres if tree is not None else None),
            )
        except GenretreeError as error:
            raise ui.UserError(printable_text(f"genretree: {error}")) from error

    def _find_list(self, name: str, default: str) -> Path | None:
        """Return the file of an option as in lastgenre: `no`, `yes` for the file of that plugin, or a path."""
        value = self.config[name].get()
        if value in (False, None, ""):
            return None
        if value is not True:
            return Path(self.config[name].as_filename())
        for folder in beetsplug.__path__:  # without importing lastgenre, which needs other packages
            if (path := Path(folder) / "lastgenre" / default).is_file():
                return path
        raise ui.UserError(f"genretree: {name}: this beets has no lastgenre/{default}; name a file of your own")


def _is_named(thing: Item | Album) -> bool:
    return bool(thing.album if isinstance(thing, Album) else thing.title)


def _name(thing: Item | Album) -> str:
    """Return the name of an item or album; without a title, and where its file is gone, its path."""
    if isinstance(thing, Album):
        return str(thing) if _is_named(thing) else printable(os.fsdecode(thing.item_dir()))
    path = os.fsdecode(thing.path)
    return str(thing) if _is_named(thing) and os.path.lexists(path) else printable(path)


def _reason(decision: Decision) -> str:
    return decision.message or decision.reason.replace("_", " ")


def _media_field(name: str) -> Any:
    return mediafile.MediaField(
        mediafile.MP3DescStorageStyle(name),
        mediafile.MP4StorageStyle(f"----:com.apple.iTunes:{name}"),
        mediafile.StorageStyle(name),
        mediafile.ASFStorageStyle(name),
    )


def _path(item: Item) -> str:
    return os.path.realpath(os.fsdecode(item.path))
