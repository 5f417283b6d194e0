"""Print the packages of requirements files that the running Python lacks, on one line; exit 1 when there are any.

    python3 scripts/missing_packages.py requirements-cuda.txt [more files]

A package that is there in another version than the pin counts as there; when none is missing, each such package gets
one warning line on stderr.
Standard library only, and nothing is imported to look at it, so that this is quick on a bare machine.
"""

import argparse
import importlib.util
import re
import sys
from importlib import metadata

LINE = re.compile(
    r"(?P<name>[A-Za-z0-9_.-]+)(\[[a-z,]+\])?==(?P<pin>[0-9A-Za-z.]+)"
    r"(\s*;\s*sys_platform\s*==\s*\"(?P<platform>\w+)\")?$"
)


def read_requirements(path):
    """Yield (package, pinned version) for the lines of a requirements file that apply to this system."""
    with open(path, encoding="utf-8") as file:
        for number, raw in enumerate(file, 1):
            line = raw.split("#")[0].strip()
            if not line:
                continue
            match = LINE.match(line)
            if match is None:
                raise SystemExit(
                    f"error: {path}:{number}: cannot read {line!r};"
                    ' write name==version, with ; sys_platform == "linux" behind it if need be'
                )
            if match["platform"] in (None, sys.platform):
                yield match["name"], match["pin"]


def installed_version(package):
    """The version of an installed package, "unknown" for one without metadata, None when it is not there or only its empty folder is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(package.replace("-", "_"))
        return "unknown" if spec and spec.origin else None


def main(paths):
    missing, warnings = [], []
    for path in paths:
        for package, pin in read_requirements(path):
            version = installed_version(package)
            if version is None:
                missing.append(f"{package}=={pin}")
            elif version.split("+")[0] != pin:  # a local label such as +cpu or +cu128 is the same release
                warnings.append(f"warning: {package} {version} is installed, {path} pins {pin}")
    if missing:
        print(", ".join(missing))
        return 1
    for warning in warnings:
        print(warning, file=sys.stderr)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="requirements files")
    sys.exit(main(parser.parse_args().files))
