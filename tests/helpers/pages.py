"""Opens pages in a browser, and fails if they complain or ask the network for something."""

from contextlib import contextmanager


@contextmanager
def visits(browser):
    """Yield a function that opens the page of a file; at the end nothing may be complained of."""
    complaints, contexts = [], []

    def visit(path, scheme="light", width=1280):
        context = browser.new_context(
            viewport={"width": width, "height": 844},
            color_scheme=scheme,
            reduced_motion="reduce",  # no waiting for what scrolls smoothly
            offline=True,
        )
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or complaints.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def overflow(page, selector):
    """Return by how many pixels something is wider than what shows of it."""
    return page.eval_on_selector(selector, "e => e.scrollWidth - e.clientWidth")
