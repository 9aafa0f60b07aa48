"""Build and metadata of astroclip."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (HERE / "astroclip" / "__init__.py").read_text(), re.MULTILINE
)[1]

EXTRAS = {
    "ann": ["faiss-cpu>=1.9"],
    # for "desi-sparcl" alone; not in "all": below Python 3.13 it asks for numpy 1, else below 2.4
    "archives": ["sparclclient>=1.3.1; python_version >= '3.13'"],
    "catalogs": ["pandas>=2.2", "h5py>=3.11"],
    "train": ["lightning>=2.5,<3", "lightly>=1.6", "filelock>=3.12"],
    "simulate": ["speclite>=1.0"],
    "plot": ["umap-learn>=0.5.6"],
    "docs": ["sphinx>=7.4,<10", "sphinx-astropy[confv3]>=1.11", "lightning>=2.5,<3"],
    "test": [
        "pytest>=8,<9.2",  # 9.2.0 crashes with pytest-remotedata 0.4.2
        "pytest-remotedata>=0.4.1",
        "pytest-doctestplus>=1.3",
        "pytest-cov>=6",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "docutils>=0.20",
        "faiss-cpu>=1.9",
        "lightning>=2.5,<3",
        "lightly>=1.6",
        "h5py>=3.11",
        "pandas>=2.2",
    ],
}
USER_EXTRAS = ("ann", "catalogs", "train", "simulate", "plot")
EXTRAS["all"] = sorted({item for name in USER_EXTRAS for item in EXTRAS[name]})

setup(
    name="astroclip",
    version=VERSION,
    description="Find galaxies like this one: spectra and images in one embedding space",
    long_description=(HERE / "README.rst").read_text(),
    long_description_content_type="text/x-rst",
    author="The astroclip developers",
    license="BSD-3-Clause",
    license_files=["LICENSE.rst"],
    python_requires=">=3.11",
    packages=find_packages(include=["astroclip", "astroclip.*"]),
    package_data={"astroclip": ["data/*", "data/samples/*", "training/recipe_files/*.toml"]},
    install_requires=[
        "torch>=2.5",
        "timm>=1.0.11",
        "astropy>=7.0",
        "astropy-healpix>=1.0",
        "specutils>=2.0",
        "photutils>=2.0",
        "reproject>=0.14",
        "pyarrow>=17",
        "astroquery>=0.4.8",
        "numpy>=2.0",
        "scipy>=1.13",
        "scikit-learn>=1.6",
        "safetensors>=0.4.5",
        "huggingface_hub>=0.26",
        "matplotlib>=3.9",
        "Pillow>=10",
        "threadpoolctl>=3",
        "tqdm>=4.60",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["astroclip = astroclip.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Astronomy",
    ],
)
