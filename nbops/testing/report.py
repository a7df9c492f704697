"""What a check found: every promise, kept, broken or not tested, and the smallest call that breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Report"]


@dataclass(frozen=True)
class Finding:
    """What became of one promise.

    Parameters
    ----------
    promise : str
        Its name.
    statement : str
        What it says.
    state : {"kept", "broken", "skipped"}
    reason : str
        What went wrong, or why it was not tested.
    example : str
        The smallest call found that breaks it.
    calls : int
        How many calls were tried.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> from nbops.testing import check
    >>> report = check(nbops.relu, np.array([-1.0, 2.0]), promises=["targets"])
    >>> report["targets"].state
    'kept'
    """

    promise: str
    statement: str
    state: Literal["kept", "broken", "skipped"]
    reason: str = ""
    example: str = ""
    calls: int = 0


@dataclass(frozen=True)
class Report:
    """What `nbops.testing.check` found.

    Parameters
    ----------
    name : str
        The op's.
    findings : tuple of Finding
        One per promise.
    targets : tuple of str
        The targets that were compared.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> from nbops.testing import check
    >>> report = check(nbops.relu, np.array([-1.0, 2.0]), promises=["targets", "gradient"])
    >>> report.kept, report.broken
    (('targets', 'gradient'), ())
    """

    name: str
    findings: tuple[Finding, ...]
    targets: tuple[str, ...]

    def _names(self, state: str) -> tuple[str, ...]:
        return tuple(finding.promise for finding in self.findings if finding.state == state)

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the promises that held."""
        return self._names("kept")

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of the promises that were broken."""
        return self._names("broken")

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names of the promises that were not tested."""
        return self._names("skipped")

    def __getitem__(self, promise: str) -> Finding:
        return next(finding for finding in self.findings if finding.promise == promise)

    def __str__(self) -> str:
        tested = len(self.kept) + len(self.broken)
        lines = [
            f"{self.name} breaks {len(self.broken)} of {tested} promises (targets: {', '.join(self.targets)})"
        ]
        for finding in sorted(self.findings, key=lambda found: found.state != "broken"):
            lines.append(f"  {finding.state:<8}{finding.promise:<17}{finding.statement}")
            if finding.state != "kept":
                lines.append(f"{'':<27}{finding.reason}")
            if finding.example:
                lines.append(f"{'':<27}example: {finding.example}")
        return "\n".join(lines)
