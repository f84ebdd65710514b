"""beets plugin that sets the genres of items by their audio.

plugins: genretree
genretree:
    bundle: /path/to/bundle      # output of `genretree train`
    mapping: /path/to/map.yaml   # optional: your genre names, depth, threshold
    auto: no                     # also run during import
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from optparse import Values
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import mediafile
from beets import config, ui
from beets.dbcore import types
from beets.library import Album, Item, Library
from beets.plugins import BeetsPlugin

from genretree.files import printable_text

if TYPE_CHECKING:
    from genretree.library.database.records import FileResult
    from genretree.library.plan.mapping import Decision, Mapping
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
                "database": None,
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
            self._set(item, results.get(_path(item)), write)

    def _predict_albums(self, albums: Iterable[Album], write: bool) -> None:
        selected = [album for album in albums if self._is_selected(album)]
        results = self._classify([item for album in selected for item in album.items()])
        for album in selected:
            items = list(album.items())
            decision = self._decide([results[_path(item)] for item in items if _path(item) in results])
            if self._show(album, decision) and not self.config["pretend"].get(bool):
                album.store(inherit=False)
            for item in filter(self._is_selected, items):
                if self._show(item, decision):
                    self._store(item, decision, write)

    def _is_selected(self, thing: Item | Album) -> bool:
        if thing.genres and not self.config["force"].get(bool):
            self._log.debug("{}: skipped: already has {}", thing, thing.genres)
            return False
        return True

    def _set(self, item: Item, result: FileResult | None, write: bool) -> None:
        decision = self._decide([] if result is None else [result])
        if self._show(item, decision):
            self._store(item, decision, write)

    def _show(self, thing: Item | Album, decision: Decision | None) -> bool:
        """Show the changes; returns whether there are any."""
        if decision is None or not decision.genres:
            reason = "can't be analysed" if decision is None else decision.message or decision.reason.replace("_", " ")
            self._log.info("{}: {}", thing, reason)
            return False
        existing = list(thing.genres or []) if self.config["keep_existing"].get(bool) else []
        thing.genres = list(dict.fromkeys([*existing, *decision.genres]))
        return bool(ui.show_model_changes(thing, fields=["genres"]))

    def _store(self, item: Item, decision: Decision | None, write: bool) -> None:
        from genretree.library.plan.planner import evidence_fields

        if self.config["pretend"].get(bool) or decision is None:
            return
        for name, text in evidence_fields(decision, self._classifier.model_key).items():
            item[name.lower()] = text
        item.try_sync(write=write, move=False)

    def _decide(self, results: Sequence[FileResult]) -> Decision | None:
        """Decide for an item, or for an album, by the mean probabilities of its items."""
        import numpy as np

        from genretree.library.plan.mapping import decide

        predictions = [result.levels for result in results if result.levels is not None]
        if not predictions:
            return None
        means = [np.mean(level, axis=0) for level in zip(*predictions, strict=True)]
        return decide(self._classifier.model_key, means, self._mapping)

    def _classify(self, items: Sequence[Item]) -> dict[str, FileResult]:
        """Classify items; earlier results are read from a database in beets' folder."""
        from genretree.library.database import records
        from genretree.library.database.connection import lock_database, open_database
        from genretree.library.scan.analyse import analyse

        paths = [_path(item) for item in items]
        if not paths:
            return {}
        db = Path(config.config_dir()) / "genretree.sqlite"
        if self.config["database"].get() is not None:
            db = Path(self.config["database"].as_filename())
        results: dict[str, FileResult] = {}
        with lock_database(db, "beet genretree"), open_database(db, create=True) as database:
            analyse(database, paths, lambda: self._classifier, progress=len(paths) > 1)
            model, model_key = records.find_model(database, self._classifier.model_key.digest)
            for path in paths:
                row = records.find_file(database, path)
                result = None if row is None else records.find_result(database, model, model_key, row.id)
                if result is not None:
                    results[path] = result
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
            return override_settings(rules, **settings)
        except GenretreeError as error:
            raise ui.UserError(printable_text(f"genretree: {error}")) from error


def _media_field(name: str) -> Any:
    return mediafile.MediaField(
        mediafile.MP3DescStorageStyle(name),
        mediafile.MP4StorageStyle(f"----:com.apple.iTunes:{name}"),
        mediafile.StorageStyle(name),
        mediafile.ASFStorageStyle(name),
    )


def _path(item: Item) -> str:
    return os.path.realpath(os.fsdecode(item.path))
