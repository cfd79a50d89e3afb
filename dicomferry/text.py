"""What peers and files say, made fit to be shown: in logs, history, Celery labels and at the terminal. Pure.

A control character may forge a log line or command the terminal, a bidirectional override makes words read
otherwise than they are, and a value may be as long as its sender likes.
"""

LONGEST_VALUE = 128  # characters: twice what a UID or VR LO may have (PS3.5 6.2)
LONGEST_LINE = 4096  # characters of a sentence, which may quote several values
_CUT = "..."
_UNFIT = "\N{REPLACEMENT CHARACTER}"


def shown_value(text: str) -> str:
    """One value of a peer or file, such as an AE title, a code string or a UID."""
    return shown(text, LONGEST_VALUE)


def shown(text: str, longest: int = LONGEST_LINE) -> str:
    """`text` in one line: U+FFFD for each character that has no glyph of its own, and cut to `longest`.

    These are C0, C1, DEL, line and paragraph separators, format characters (so all bidirectional ones),
    surrogates (bytes of a file name that are no UTF-8), and every white space but the blank.
    """
    if len(text) > longest:
        text = text[: longest - len(_CUT)] + _CUT
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _UNFIT for letter in text)


def shown_lines(text: str) -> str:
    """A message of our own that has lines, each as `shown`."""
    return "\n".join(map(shown, text.split("\n")))
