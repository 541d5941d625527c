"""Look the locked versions up in the list of known vulnerabilities: audit.py [PACKAGE==VERSION ...].

Exits 0 where none is known, 1 where some are, 2 where versions could not be looked up.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"


def main(more: list[str]) -> int:
    """Ask pip-audit, and say what it found and what it could not look up."""
    pins = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")] + more
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins) + "\n")
        file.flush()
        words = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
        line = [sys.executable, "-m", "pip_audit", *words, "-r", file.name]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        print(f"pip-audit said: {done.stderr.strip().splitlines()[-1:]}")
        print("the list of known vulnerabilities could not be had (network?): nothing was audited")
        return 2
    for package in found:
        for each in package.get("vulns", []):
            fixed = ", ".join(each["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}")
    skipped = [package["name"] for package in found if "skip_reason" in package]
    print(f"{len(found) - len(skipped)} of {len(found)} packages looked up")
    if any(package.get("vulns") for package in found):
        print("raise them in pyproject.toml, then run: make lock")
        return 1
    if skipped:
        print(f"could not be looked up (network?): {', '.join(skipped[:5])}, ...")
        return 2
    print("no known vulnerability")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
