"""Everything pip needs to know of cellkit. Build system and tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

setup(
    name="cellkit",
    version="0.1.0",
    description="From a folder of microscopy images to objects: labels, counts, measurements, submission files.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[
        "cellkit",
        "cellkit.core",
        "cellkit.diff",
        "cellkit.engine",
        "cellkit.engine.blockwise",
        "cellkit.formats",
        "cellkit.grid",
        "cellkit.io",
        "cellkit.io.datasets",
        "cellkit.metrics",
        "cellkit.models",
        "cellkit.napari",
        "cellkit.recipes",
        "cellkit.report",
        "cellkit.stages",
        "cellkit.train",
        "cellkit.tune",
        "cellkit_cli",
    ],
    # A folder named cli must not install as the module `cli`.
    package_dir={"cellkit_cli": "cli"},
    package_data={
        "cellkit": [
            "py.typed",
            "napari/napari.yaml",
            "recipes/*.yaml",
            "report/bundle/*",
            "weights/*",
            "weights/*/*",
        ],
    },
    install_requires=[
        "click>=8.1",
        "faster-coco-eval>=1.8",
        "imagecodecs>=2023.3.16",
        "lightning>=2.4",
        "matplotlib>=3.8",
        "numba>=0.59",
        "numpy>=1.26",
        # The same cv2 as opencv-python, without its need for display libraries on servers.
        "opencv-python-headless>=4.9",
        "optuna>=4.0",
        "pandas>=2.1",
        "pillow>=10.0",
        "platformdirs>=3.5",
        "psutil>=5.9",
        "pyarrow>=14.0",
        "pyyaml>=6.0",
        "rich>=13.0",
        "safetensors>=0.4.3",
        "scikit-image>=0.22",
        "scipy>=1.11",
        "segmentation-models-pytorch>=0.5",
        "tifffile>=2023.7.10",
        "timm>=1.0.9",
        "torch>=2.11",
        "torchvision>=0.26",
        # Version 3 of the library reads both versions of the format, but needs Python 3.11.
        "zarr>=2.18.3,<3; python_version < '3.11'",
        "zarr>=3.1.3; python_version >= '3.11'",
    ],
    extras_require={
        # Any network in an ONNX file as a predictor, and `cellkit export`.
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.5"],
        # Slides that tifffile does not read (MRXS, DICOM, odd SVS, NDPI and SCN): OpenSlide first, else TiffSlide.
        "slides": ["openslide-python>=1.4", "openslide-bin>=4.0", "tiffslide>=2.4"],
        # CZI by pylibCZIrw, which reads parts of mosaics (bioio-czi reads whole planes); ND2 and LIF by BioIO.
        "bioio": ["pylibCZIrw>=4.1", "bioio>=1.2", "bioio-nd2>=1.0", "bioio-lif>=1.0"],
        # Runs on many machines: cellkit run --scheduler.
        "dask": ["distributed>=2024.1"],
        # The plug-in of napari, with a Qt to run it on: some 450 MB, so its tests skip where it is missing.
        "napari": ["napari[pyqt6]>=0.6", "dask[array]>=2024.1"],
        # The pages in docs: python -m sphinx -W -b html docs site
        "docs": ["furo>=2024.8.6", "latex2mathml>=3.77", "myst-parser>=4.0", "sphinx>=8.1", "sphinx-click>=6.0"],
        # A heavier second opinion on the scores; its tests skip where it is missing.
        "references": ["stardist>=0.9"],
        "test": [
            "distributed>=2024.1",
            "furo>=2024.8.6",
            "hypothesis>=6.100",
            "latex2mathml>=3.77",
            "mypy>=1.10",
            "myst-parser>=4.0",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "onnxscript>=0.5",
            "ome-zarr-models>=1.0; python_version >= '3.11'",
            "openslide-bin>=4.0",
            "openslide-python>=1.4",
            "pandas-stubs",
            "pycocotools>=2.0.7",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "roifile>=2024.1.10",
            "ruff>=0.9",
            "scikit-learn>=1.3",
            "shapely>=2.0",
            "sphinx>=8.1",
            "sphinx-click>=6.0",
            "sybil>=8.0",
            "types-PyYAML",
            # Speaks to headless Chromium in the tests of pages.
            "websocket-client>=1.6",
        ],
    },
    entry_points={
        "console_scripts": ["cellkit = cellkit_cli.main:main"],
        "napari.manifest": ["cellkit = cellkit.napari:napari.yaml"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: Microsoft :: Windows",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
)
