"""The files beside the page of a run, and the same inside of it where they are small enough."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.report.views import encoded

__all__ = ["Files"]

_KINDS = {".jpg": "image/jpeg", ".png": "image/png"}


class Files:
    """A folder that files are written to, by several threads; `size` counts their bytes.

    Names are those that the page's script asks for: pictures with their suffix, data without.
    """

    def __init__(self, folder: Path) -> None:
        from cellkit.io.temporary import write_failure

        self.folder, self.size, self.names = folder, 0, list[str]()
        self._lock = threading.Lock()
        try:
            shutil.rmtree(folder, ignore_errors=True)  # of a report that was killed
            folder.mkdir(parents=True)
        except OSError as error:
            raise write_failure(folder, error) from error

    def picture(self, name: str, picture: np.ndarray) -> None:
        """Write a picture, uint8 (y, x), (y, x, 3) or (y, x, 4), as its suffix says."""
        self._write(name, encoded(picture, name.rpartition(".")[2]))

    def data(self, name: str, value: Mapping[str, Any]) -> None:
        """Write what a script can read, as a script: a page opened from a disk may load nothing else."""
        text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
        self._write(f"{name}.js", f"cellkitReport({json.dumps(name)},{text});\n".encode("ascii"))

    def text(self, name: str, value: str) -> None:
        """Write a text."""
        self._write(name, value.encode("utf-8"))

    def inside(self) -> dict[str, str]:
        """Return every file as the page takes it into itself: pictures as ``data:`` addresses, data as JSON."""
        found = {}
        for name in sorted(self.names):
            data = (self.folder / name).read_bytes()
            kind = _KINDS.get(Path(name).suffix)
            if kind is not None:
                found[name] = f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
            elif name.endswith(".js"):
                text = data.decode("ascii")
                found[name[: -len(".js")]] = text[text.index(",") + 1 : text.rindex(")")]
        return found

    def _write(self, name: str, data: bytes) -> None:
        from cellkit.io.temporary import write_failure

        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise write_failure(path, error) from error
        with self._lock:
            self.size += len(data)
            self.names.append(name)
