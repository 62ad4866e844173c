"""The pages of this room, from their templates."""

from __future__ import annotations

import jinja2

__all__ = ["page_template"]


def page_template(name: str) -> jinja2.Template:
    """The template of a page beside this file: what is put into it is escaped, and what it lacks is an error.

    Args:
        name: of the file, ``*.html.j2``.

    Raises:
        jinja2.TemplateNotFound: if there is no such file.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("monai_plan.audit", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["zip"] = zip
    return environment.get_template(name)
