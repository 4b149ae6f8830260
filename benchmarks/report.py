"""How quick the page of a run is: made of 1,000 images with 100,000 objects, its first paint, the frames of a zoom.

python benchmarks/report.py [--images N] [--objects-each N]; needs chromium and websocket-client.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

FRAMES = """new Promise(done => {
  const times = [];
  const {viewport} = cellkit.viewer.osd;
  const began = performance.now();
  let last = began;
  const tick = now => {
    times.push(now - last);
    last = now;
    if (now - began > 3000) done(times.slice(1));
    else requestAnimationFrame(tick);
  };
  requestAnimationFrame(now => { last = now; requestAnimationFrame(tick); });
  let step = 0;
  const timer = setInterval(() => {
    viewport.zoomBy(step % 12 < 6 ? 1.35 : 1 / 1.35);
    if (++step >= 24) clearInterval(timer);
  }, 120);
})"""


def make_run(folder: Path, images: int, each: int) -> int:
    """Write the results of a run on `images` fields of nuclei, and return how many objects they have."""
    import cv2
    import pandas as pd

    from cellkit.io import fluorescence_field, write_labels
    from cellkit.report.packed import objects_of

    lines, parts = [], []
    fields = [fluorescence_field(512, each, seed) for seed in range(20)]
    (folder / "labels").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(images):
        picture, labels = fields[i % len(fields)]
        cv2.imwrite(str(folder / f"field{i:04}.png"), np.rot90(picture, i // len(fields)))
        turned = np.ascontiguousarray(np.rot90(labels, i // len(fields)))
        write_labels(folder / "labels" / f"field{i:04}.tif", turned)
        found = objects_of(turned)
        columns = {"image": f"field{i:04}", "label": found.ids, "area": found.area}
        columns |= {"centroid_y": found.centroid[:, 0], "centroid_x": found.centroid[:, 1]}
        columns |= {f"measure{k}": rng.normal(size=len(found.ids)) for k in range(20)}
        parts.append(pd.DataFrame(columns))
        name, source = f"field{i:04}", str(folder / f"field{i:04}.png")
        lines.append({"name": name, "source": source, "status": "done", "objects": {"labels": len(found.ids)}})
    table = pd.concat(parts)
    table.to_parquet(folder / "objects.parquet")
    (folder / "run.json").write_text(json.dumps({"images": lines, "seconds": 1.0}))
    return len(table)


def main() -> None:
    """Print the figures."""
    from cellkit.engine.report import write_report
    from chromium import chromium

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--objects-each", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        out = Path(scratch) / "out"
        objects = make_run(out, given.images, given.objects_each)
        written = write_report(out)
        page = written.page.stat().st_size
        print(f"{given.images:,} images, {objects:,} objects: written in {written.seconds:.1f} s, "
              f"{written.bytes / 1e6:.1f} MB, the page itself {page / 1e6:.2f} MB")  # fmt: skip
        with chromium(Path(scratch) / "profile") as tab:
            for run in range(3):
                started = perf_counter()
                tab.open(written.page)
                ready = perf_counter() - started
                paints = tab.run("performance.getEntriesByType('paint').map(e => [e.name, e.startTime])")
                text = ", ".join(f"{name} {at:.0f} ms" for name, at in paints)
                print(f"opening {run + 1}: {text}; all parts there after {ready:.2f} s")
            tab.run("cellkit.open(0)")
            tab.until("cellkit.viewer.now?.ready")
            times = np.array(tab.run(FRAMES))
            print(f"zoom: {len(times)} frames in 3 s, median {np.median(times):.1f} ms, 95 % within "
                  f"{np.percentile(times, 95):.1f} ms, longest {times.max():.1f} ms")  # fmt: skip
            tab.run("document.getElementById('viewer').close()")
            began = perf_counter()
            tab.run("(() => {const [p] = cellkit.plots; p.limits[0] = [0, p.spans[0][1] / 2]; p.fields[0][1].value = "
                    "p.limits[0][1]; p.fields[0][1].dispatchEvent(new Event('change'));})()")  # fmt: skip
            count = tab.run("cellkit.state.count")
            print(f"brushing {count:,} objects: {1000 * (perf_counter() - began):.0f} ms")
            print(f"faults of the page: {tab.faults or 'none'}")


if __name__ == "__main__":
    main()
