"""Pictures in one folder per class, as RDED and SRe2L publish them: `00000/`, `new000/` or WordNet names."""

from __future__ import annotations

from dataclasses import dataclass

from ._importer import Foreign
from ._pictures import has_class_folders, read_pictures
from ._sidecar import with_sidecar
from ._sources import Sources, shown

__all__ = ["IMPORTER"]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Folders that are numbers are class numbers; other names are class names, sorted by their bytes."""

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """One folder of folders with pictures."""
        return len(sources.paths) == 1 and has_class_folders(sources.paths[0])

    def read(self, sources: Sources) -> Foreign:
        """All pictures, class by class."""
        pictures = read_pictures(sources, sources.only)
        name = shown(sources.only)
        foreign = Foreign(
            name=name,
            images=pictures.pixels,
            values=None,
            labels=pictures.labels,
            classes=pictures.classes,
            by_name=pictures.classes is not None,
            said={"labels": "names of the folders"} | ({"classes": "names of the folders"} if pictures.classes else {}),
        )
        return with_sidecar(foreign, sources, sources.only)


IMPORTER = Folder
