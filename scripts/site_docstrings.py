"""An extension of griffe: docstrings in the house's form, as mkdocstrings can show them."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

# An example goes on to the next empty line, or to the end.
EXAMPLE = re.compile(r"^( *)>>> .*?(?=\n\s*\n|\s*\Z)", re.DOTALL | re.MULTILINE)
# Names of arguments that take more than one line, before their colon.
NAMES = re.compile(
    r"^( +(?:\*{0,2}\w+, )*\w+,)\n +(?=(?:\*{0,2}\w+,\s+)*\*{0,2}\w+:)", re.MULTILINE
)
# In the house's form it is prose, in which a colon does not end the name of a type.
RETURNS = re.compile(r"^Returns:\n((?:    .*\n?|[ ]*\n)+)", re.MULTILINE)
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=`)")


def shown(text: str) -> str:
    r"""A docstring with its examples as blocks of code, and without Sphinx' roles.

    >>> shown("See :func:`f`.\n\n>>> f()\n1").splitlines()
    ['See `f`.', '', '```pycon', '>>> f()', '1', '```']
    """
    text = EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)
    text = RETURNS.sub(lambda found: f"**Returns:** {textwrap.dedent(found[1])}", text)
    return ROLE.sub("", NAMES.sub(r"\1 ", text))


class HouseDocstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """The docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)
