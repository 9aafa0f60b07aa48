"""Configuration of the documentation."""

from sphinx_astropy.conf.v3 import *  # noqa: F403

import astroclip

project = "astroclip"
author = "The astroclip developers"
copyright = "2026, The astroclip developers"  # noqa: A001
release = astroclip.__version__
version = release
html_title = f"astroclip {release}"
html_theme = "pydata_sphinx_theme"
html_theme_options = {"navbar_start": ["navbar-logo"], "logo": {"text": "astroclip"}}
html_favicon = None
exclude_patterns = ["_build", "**/*.part"]
nitpicky = True
default_role = "obj"
automodapi_inheritance_diagram = False
autosummary_generate = True
numpydoc_show_class_members = False
intersphinx_mapping = {}  # links to other projects need a network; builds must not
nitpick_ignore_regex = [("py:.*", r"(?!astroclip).*"), ("py:.*", r"astroclip\..*\._.*")]

# scikit-learn adds methods for its metadata routing to every estimator; their docstrings refer
# to pages of scikit-learn
for estimator in (
    astroclip.FewShotEstimator,
    astroclip.PropertyEstimator,
    astroclip.RedshiftEstimator,
    astroclip.discovery.OutlierDetector,
):
    for method in [name for name in vars(estimator) if name.endswith("_request")]:
        delattr(estimator, method)
