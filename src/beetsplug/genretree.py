"""genretree for beets: names the genres of items from their sound.

plugins: genretree
genretree:
    bundle: /path/to/bundle      # what `genretree train` made
    mapping: /path/to/map.yaml   # optional: your names, depth, threshold
    auto: no                     # also while importing
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
    from genretree.library.database.records import Result
    from genretree.library.plan.mapping import Decision, Mapping
    from genretree.library.scan.classifier import BundleClassifier

_FIELDS = ("genretree_path", "genretree_confidence", "genretree_model")


class GenretreePlugin(BeetsPlugin):  # type: ignore[misc]  # beets is not checked
    """The command `beet genretree`, and a stage of the import where `auto` is set."""

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
        for name in _FIELDS:  # written into files as `genretree library apply` does
            self.add_media_field(name, _media_field(name.upper()))
        if self.config["auto"].get(bool):
            self.import_stages = [self._on_import]

    def commands(self) -> Sequence[ui.Subcommand]:
        """Give the command."""
        command = ui.Subcommand("genretree", help="name genres by what the music sounds like")
        flags: list[tuple[str, str, str, str, object, str]] = [
            ("-p", "--pretend", "pretend", "store_true", None, "show actions but do nothing"),
            ("-f", "--force", "force", "store_true", None, "modify existing genres"),
            ("-F", "--no-force", "force", "store_false", None, "don't modify existing genres"),
            ("-k", "--keep-existing", "keep_existing", "store_true", None, "add to existing genres (with --force)"),
            ("-K", "--no-keep-existing", "keep_existing", "store_false", None, "replace existing genres"),
            ("-A", "--items", "album", "store_false", None, "name each item by itself (default)"),
            ("-a", "--albums", "album", "store_true", None, "match albums, and name each as a whole"),
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
                self._name_albums(lib.albums(query), ui.should_write())
            else:
                self._name_items(lib.items(query), ui.should_write())
        except GenretreeError as error:
            raise ui.UserError(printable_text(f"genretree: {error}")) from error

    def _on_import(self, _session: Any, task: Any) -> None:
        from genretree.errors import GenretreeError

        try:
            self._name_items(task.imported_items(), write=False)
        except GenretreeError as error:  # an import goes on without genres
            self._log.warning("{}", printable_text(str(error)))

    def _name_items(self, items: Iterable[Item], write: bool) -> None:
        chosen = [item for item in items if self._wanted(item)]
        heard = self._hear(chosen)
        for item in chosen:
            self._set(item, heard.get(_path(item)), write)

    def _name_albums(self, albums: Iterable[Album], write: bool) -> None:
        chosen = [album for album in albums if self._wanted(album)]
        heard = self._hear([item for album in chosen for item in album.items()])
        for album in chosen:
            items = list(album.items())
            found = [heard[_path(item)] for item in items if _path(item) in heard]
            decision = self._decide(found)
            if self._show(album, decision) and not self.config["pretend"].get(bool):
                album.store(inherit=False)
            for item in filter(self._wanted, items):
                if self._show(item, decision):
                    self._keep(item, decision, write)

    def _wanted(self, thing: Item | Album) -> bool:
        if thing.genres and not self.config["force"].get(bool):
            self._log.debug("{}: keeps {}", thing, thing.genres)
            return False
        return True

    def _set(self, item: Item, result: Result | None, write: bool) -> None:
        decision = self._decide([] if result is None else [result])
        if self._show(item, decision):
            self._keep(item, decision, write)

    def _show(self, thing: Item | Album, decision: Decision | None) -> bool:
        """Show what changes; says whether anything does."""
        if decision is None or not decision.genres:
            reason = "can't be heard" if decision is None else decision.message or decision.reason.replace("_", " ")
            self._log.info("{}: {}", thing, reason)
            return False
        kept = list(thing.genres or []) if self.config["keep_existing"].get(bool) else []
        thing.genres = list(dict.fromkeys([*kept, *decision.genres]))
        return bool(ui.show_model_changes(thing, fields=["genres"]))

    def _keep(self, item: Item, decision: Decision | None, write: bool) -> None:
        from genretree.library.plan.planner import own_fields

        if self.config["pretend"].get(bool) or decision is None:
            return
        for name, text in own_fields(decision, self._classifier.card).items():
            item[name.lower()] = text
        item.try_sync(write=write, move=False)

    def _decide(self, results: Sequence[Result]) -> Decision | None:
        """Decide for one item, or for all items of an album together: the mean of what each says."""
        import numpy as np

        from genretree.library.plan.mapping import decide

        heard = [result.levels for result in results if result.levels is not None]
        if not heard:
            return None
        means = [np.mean(parts, axis=0) for parts in zip(*heard, strict=True)]
        return decide(self._classifier.card, means, self._mapping)

    def _hear(self, items: Sequence[Item]) -> dict[str, Result]:
        """Hear items, or know them from before: the database beside beets' own holds what was heard."""
        from genretree.library.database import records
        from genretree.library.database.connection import open_database, sole_worker
        from genretree.library.scan.analyse import analyse

        paths = [_path(item) for item in items]
        if not paths:
            return {}
        database = Path(config.config_dir()) / "genretree.sqlite"
        if self.config["database"].get() is not None:
            database = Path(self.config["database"].as_filename())
        found: dict[str, Result] = {}
        with sole_worker(database, "beet genretree"), open_database(database, create=True) as state:
            analyse(state, paths, lambda: self._classifier, progress=len(paths) > 1)
            model, card = records.find_model(state, self._classifier.card.digest)
            for path in paths:
                row = records.find_file(state, path)
                result = None if row is None else records.find_result(state, model, card, row.id)
                if result is not None:
                    found[path] = result
        return found

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
        from genretree.library.plan.mapping import Mapping, load_mapping, with_options

        try:
            path = self.config["mapping"]
            rules = Mapping()
            if path.get() is not None:
                rules = load_mapping(Path(path.as_filename()), self._classifier.card.taxonomy)
            given = {name: self.config[name].get() for name in ("min_confidence", "depth", "min_depth")}
            return with_options(rules, **given)
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
