"""Sphinx configuration. Knows nothing of the package but its installed metadata."""

from __future__ import annotations

import shutil
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent

project = "ctxcompress-integrations"
author = "The ctxcompress-integrations contributors"
project_copyright = author
version = release = installed_version(project)

extensions = ["myst_nb"]
exclude_patterns = ["_build", ".gitignore"]
html_theme = "furo"
html_title = f"{project} {version}"

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "auto"  # notebooks that carry no outputs
nb_execution_raise_on_error = True
nb_execution_timeout = 300

# Sphinx reads nothing outside its own folder: the notebooks come in as copies, which git ignores.
shutil.rmtree(HERE / "examples", ignore_errors=True)
(HERE / "examples").mkdir()
for notebook in sorted((HERE.parent / "examples").glob("*.ipynb")):
    shutil.copy2(notebook, HERE / "examples")
