"""Text that others chose (names of tensors, methods, files), made fit for a terminal, HTML and SVG."""

import html


def plain(text: object, most: int = 2000) -> str:
    """`text` as a terminal may show it: on one line, what is not printable escaped, cut after `most` characters.

    >>> plain("a\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    whole = str(text)
    shown = whole if len(whole) <= most else f"{whole[:most]}... ({len(whole) - most:,} more)"
    if shown.isprintable():
        return shown
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


def markup(text: object, most: int = 200) -> str:
    """`plain` text for HTML and SVG, in elements and in quoted attributes.

    >>> markup('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(plain(text, most))


def middle_cut(text: object, most: int) -> str:
    """`plain` text of at most `most` characters, without its middle if it is longer: names differ at their ends.

    >>> middle_cut("layer1.0.conv1.weight", 11)
    'laye…weight'
    """
    whole = str(text)
    if len(whole) > 4 * most:  # what is cut anyway need not be escaped
        whole = whole[: 2 * most] + whole[-2 * most :]
    shown = plain(whole)
    if len(shown) <= most:
        return shown
    head = (most - 1) * 2 // 5
    return f"{shown[:head]}…{shown[len(shown) - (most - 1 - head) :]}"
