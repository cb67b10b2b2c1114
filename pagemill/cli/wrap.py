"""Words on a terminal: streamed text wrapped at its width, and nothing in it but text.

A model's output is untrusted: an escape sequence in it could retitle the window or rewrite what was
printed before, so control characters never reach the terminal.
"""

import unicodedata

FENCE = "```"


def cell_width(char: str) -> int:
    """Columns that one character takes."""
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def printable(text: str) -> str:
    """The text without control characters other than newline and tab."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))


class Wrapper:
    """Wraps a stream of text pieces. A word is held back until it is known to fit on the line.

    Fenced code keeps its own lines: what is copied from the screen must still run.
    """

    def __init__(self, width: int) -> None:
        self.width = max(width, 2)
        self._column = 0
        self._word = ""
        self._word_width = 0
        self._gap = ""  # spaces between the last word and the held one
        self._line = ""  # start of the current source line, long enough to know a fence
        self._in_code = False

    def push(self, piece: str) -> str:
        """Take a piece, return what may be printed now."""
        return "".join(self._take(char) for char in piece)

    def finish(self) -> str:
        """The held-back rest."""
        return self._flush_word()

    def _take(self, char: str) -> str:
        if char == "\n":
            out = self._flush_word() + "\n"
            if self._line.lstrip().startswith(FENCE):
                self._in_code = not self._in_code
            self._column, self._gap, self._line = 0, "", ""
            return out
        if len(self._line) < 2 * self.width:
            self._line += char
        if self._in_code or self._line.lstrip().startswith(FENCE):
            return self._flush_word() + char
        if char in " \t":
            out = self._flush_word()
            self._gap += " " if char == " " else "    "
            return out
        width = cell_width(char)
        out = ""
        # Scripts without spaces break between any two wide characters; so does an endless word.
        if width == 2 or self._word_width + width > self.width:
            out = self._flush_word()
        self._word += char
        self._word_width += width
        return out

    def _flush_word(self) -> str:
        if not self._word:
            return ""
        gap, word, width = self._gap, self._word, self._word_width
        self._gap, self._word, self._word_width = "", "", 0
        if self._column and self._column + len(gap) + width > self.width:
            self._column = width
            return "\n" + word
        self._column += len(gap) + width
        return gap + word
