"""How Sphinx makes the book of what `stage.py` has gathered: `make site`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from stage import ADDRESS, PROJECT  # noqa: E402 (lies beside this file)

project = "qwen3_scratch"
author = PROJECT["authors"][0]["name"]
copyright = f"{author}. Prose: CC BY 4.0, code: Apache-2.0"
version = release = PROJECT["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "marks"]
exclude_patterns = ["notebooks/exercises/download", "as-they-are"]
highlight_language = "text"  # a listing without a language is no Python
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]  # what a figure draws, kept beside it for comparisons
html_math_renderer = "mathml"
default_role = "code"
add_function_parentheses = False
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
nitpick_ignore_regex = [(r"py:.*", r".*")]  # types of other packages have no page here

html_theme = "sphinx_book_theme"
html_title = "qwen3_scratch"
html_static_path = [str(HERE / "site.css")]
html_css_files = ["site.css"]
html_sourcelink_suffix = ""
html_show_sphinx = False
html_permalinks_icon = "#"
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "footer_content_items": "copyright.html",
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-dark",
}
if ADDRESS:
    html_theme_options |= {
        "repository_url": ADDRESS,
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"},
    }

if tags.has("paper"):  # one page, to be printed
    root_doc, html_theme, html_theme_options = "paper", "basic", {"nosidebar": True}
    suppress_warnings += ["myst.xref_missing"]  # some pages are not printed; the site finds links that lead nowhere
    pygments_style = "a11y-high-contrast-light"
    html_static_path, html_css_files = [str(HERE / "paper.css")], ["paper.css"]
    include_patterns = ["paper.md", "glossary.md", "data/README.md", "notebooks/*", "notebooks/exercises/ps*"]
else:
    exclude_patterns += ["paper.md"]


def without_binder(app, page, template, context, tree):
    """An exercise's page shows the students' notebook, which the repository does not hold."""
    if page.startswith("notebooks/exercises/"):
        context["header_buttons"] = [each for each in context["header_buttons"] if each["label"] != "launch-buttons"]


def setup(app):
    if not app.tags.has("paper"):
        app.connect("html-page-context", without_binder, priority=900)  # after the theme has added it
        app.config.html_extra_path = [str(Path(app.srcdir) / "as-they-are")]  # the explorer
