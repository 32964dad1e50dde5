"""The one error a user sees: what is wrong, where, and what to do about it."""


def printable(text: str) -> str:
    """Text with everything but line breaks that does not print, as what moves a terminal's cursor, escaped as in Python."""
    return "".join(mark if mark.isprintable() or mark == "\n" else mark.encode("unicode_escape").decode() for mark in text)


class UserError(Exception):
    """A fault that the user can mend, shown without a traceback.

    what: the fault in one sentence. where: file, key or line. fix: what to do. They may quote what another wrote, a server or
    a file, and are shown as `printable` has them.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        fix = f"\n  to do: {self.fix}" if self.fix else ""
        return printable(f"{where}{self.what}{fix}")


class CorruptFile(UserError):
    """A file whose bytes are not those that its manifest recorded."""
