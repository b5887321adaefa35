"""The site: `pip install -e '.[docs]' && python -m sphinx -W -b html docs DIR`."""

import re

project = "iterand_jax"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"  # the stored outputs are shown; a test executes the cells
myst_heading_anchors = 3
html_theme = "furo"
html_title = "iterand_jax"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True  # fields are described once, in the class's own text
napoleon_attr_annotations = False
python_use_unqualified_type_names = True
default_role = "py:obj"


def escape(app, what, name, obj, options, lines: list[str]) -> None:
    """Keeps plain text plain: docstrings here are no reStructuredText.

    Formulas hold stars, bars and underscores that are not markup, and a block that is
    indented by four after an empty line is a code block. Examples stay as they are.
    """
    escaped: list[str] = []
    example = block = False
    for line in lines:
        if not line.strip():
            example = False
        elif line.lstrip().startswith(">>>"):
            example = True
        elif not block and line.startswith("    ") and escaped and not escaped[-1]:
            block = True
            escaped += ["::", ""]
        elif not line.startswith("    "):
            block = False
        if not example and not block:
            parts = line.split("`")
            parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", p) for p in parts[::2]]
            line = "`".join(parts)
        escaped.append(line)
    lines[:] = escaped


def link_to_pages(app, relative_path, parent: str, content: list[str]) -> None:
    """Makes links of generated reports, which are included, links of this site."""
    text = content[0].replace("](../docs/", "](")
    # A folder of the repository is no page: its name stays.
    content[0] = re.sub(r"\[([^\]]*)\]\((?:\.\./)+[\w/]*\)", r"\1", text)


def skip(app, what, name, obj, skip, options) -> bool | None:
    """Leaves out the fields of named tuples, which have no text of their own."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    """Connects the above; napoleon, which adds markup of its own, comes later."""
    app.connect("autodoc-process-docstring", escape, priority=100)
    app.connect("autodoc-skip-member", skip)
    app.connect("include-read", link_to_pages)
