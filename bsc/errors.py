"""The one error a user sees: what is wrong, where, and what to do about it."""


class UserError(Exception):
    """A fault that the user can mend, shown without a traceback.

    what: the fault in one sentence. where: file, key or line. fix: what to do.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        fix = f"\n  to do: {self.fix}" if self.fix else ""
        return f"{where}{self.what}{fix}"


class CorruptFile(UserError):
    """A file whose bytes are not those that its manifest recorded."""
