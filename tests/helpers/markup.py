"""Texts that try to be markup, and what a page is made of, to see that they are not."""

from html.parser import HTMLParser

MARKUP = (
    "</script></title></style></textarea></svg><script>alert(1)</script><!--<script>"
    "<img src=x onerror=alert(2)>\"' onmouseover=alert(3) x='{{ 7 * 7 }}${alert(4)}\u2028\u202e\0"
)


def hostile(value, fixed=(), keyed_by_name=(), key=""):
    """Return nested values with markup after every text, those of the keys `fixed` excepted.

    The keys of what is below `keyed_by_name` are names as well.
    """
    again = {"fixed": fixed, "keyed_by_name": keyed_by_name}
    if isinstance(value, dict):
        return {
            hostile(k) if key in keyed_by_name else k: v
            if k in fixed
            else hostile(v, key=k, **again)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [hostile(inner, **again) for inner in value]
    return f"{value} {MARKUP}" if isinstance(value, str) else value


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, in order."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag):
        self.found.append((f"/{tag}",))


def elements(html):
    """Return what a page is made of, its texts and the values of attributes left away."""
    return Elements(html).found
