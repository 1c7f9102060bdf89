"""The error tree. Every message says what is wrong with which value, where, and what to do.

EverlearnError
|-- ConfigError      an expression, a stream file or an argument that cannot be understood
|-- DataError        rows or files that cannot be learned from
|-- ModelError       a model that cannot be loaded, trained, sampled or saved as asked
|-- MethodError      a method that cannot do what this chain, model or objective asks of it
|-- RegistryError    a version or ledger that is missing, damaged or in use
|-- SandboxError     a sandbox that cannot be set up, whatever is to run in it
`-- Interrupted      a run stopped by its user; it can be resumed
"""


class EverlearnError(Exception):
    """The root of all errors this package raises on purpose."""


class ConfigError(EverlearnError, ValueError):
    """An expression, a stream file or an argument cannot be understood."""


class DataError(EverlearnError, ValueError):
    """Rows or files cannot be learned from."""


class ModelError(EverlearnError, RuntimeError):
    """A model cannot be loaded, trained, sampled or saved as asked."""


class MethodError(EverlearnError, RuntimeError):
    """A method cannot do what this chain, model or objective asks of it."""


class RegistryError(EverlearnError, RuntimeError):
    """A version or the ledger is missing, damaged or in use by another run."""


class SandboxError(EverlearnError, RuntimeError):
    """The sandbox cannot be set up, whatever is to run in it."""


class Interrupted(EverlearnError):
    """The user stopped the run; what was learned is kept and the run can be resumed."""
