"""Every error this package raises on purpose, and what each one means to a caller.

MigrateError
├── UsageError              2  the command line, or the API call, cannot be meant
│   ├── NotFound            2  no such model, file or directory
│   ├── OutputExists        2  writing would destroy something (`--force`)
│   └── MissingExtra        2  an optional dependency is not installed
├── BadInput                3  what was read is damaged or malformed
│   ├── ModelfileError      3  with line number
│   ├── StoreError          3  manifest, config or blob
│   ├── GGUFError           3
│   └── TemplateError       3  Go template: does not parse, or fails when executed
├── Refused                 3  understood, but it cannot be moved and stay right
├── EngineError             4  a server could not be asked, so nothing is proved
│   ├── ServerUnreachable   4
│   ├── ServerError         4  it answered, with an error
│   └── EngineDied          4  with the reason from its log
├── Interrupted             4
└── Unexpected              4  a mistake of ours, or of the machine; nothing was decided

A message says what was read and what is wrong with it; `hint` says what to do.
Exit code 1 is no error: it is a parity verdict (`migrate.parity`).
"""

from __future__ import annotations


class MigrateError(Exception):
    """Base of all errors raised on purpose. `str()` is the message without the hint."""

    exit_code: int = 3

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(MigrateError):
    exit_code = 2


class NotFound(UsageError):
    pass


class OutputExists(UsageError):
    pass


class MissingExtra(UsageError):
    pass


class BadInput(MigrateError):
    pass


class ModelfileError(BadInput):
    """A Modelfile that Ollama would not accept either; `line` is 1-based, as Ollama counts."""

    def __init__(self, message: str, *, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.line = line


class StoreError(BadInput):
    pass


class GGUFError(BadInput):
    pass


class TemplateError(BadInput):
    """A Go template that does not parse or fails when executed; `line` is 1-based."""

    def __init__(self, message: str, *, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.line = line


class Refused(MigrateError):
    pass


class EngineError(MigrateError):
    exit_code = 4


class ServerUnreachable(EngineError):
    pass


class ServerError(EngineError):
    """A server answered with an error; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class EngineDied(EngineError):
    pass


class Interrupted(MigrateError):
    exit_code = 4


class Unexpected(MigrateError):
    """Anything that was not raised on purpose, for people."""

    exit_code = 4

    @classmethod
    def of(cls, error: BaseException) -> Unexpected:
        if isinstance(error, OSError) and error.strerror:
            where = f": {error.filename}" if error.filename else ""
            return cls(f"{error.strerror}{where}", hint="see the whole story with --debug")
        return cls(
            f"unexpected {type(error).__name__}: {error}",
            hint="this is a mistake in migrate: please report it with the output of the same command and --debug",
        )
