"""What the checker finds: a rule that is broken, or a note for a reviewer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from golf.texts import safe

REMAKE = "make the folder again from the run: bash scripts/make_record.sh"


@dataclasses.dataclass
class Finding:
    """One broken rule: where, which, what was found, what is allowed, how to mend it."""

    file: str
    rule: str
    measured: str
    allowed: str
    fix: str

    def line(self) -> str:
        return f"{safe(self.file)}: {self.rule}: measured {safe(self.measured)}; allowed {safe(self.allowed)}; {safe(self.fix)}"


@dataclasses.dataclass
class Report:
    folder: Path
    findings: list[Finding] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    claim: dict | None = None
    tokenizer_bytes: int = 0  # of a tokenizer that is not the default, where the log says it

    def find(self, file: str, rule: str, measured: object, allowed: object, fix: str) -> None:
        if len(self.findings) < 200:
            self.findings.append(Finding(file, rule, str(measured), str(allowed), fix))

    def as_json(self) -> dict:
        return {
            "folder": self.folder.as_posix(),
            "clean": not self.findings,
            "findings": [dataclasses.asdict(f) for f in self.findings],
            "notes": [safe(note) for note in self.notes],
        }
