"""Write constraints.txt: one set of versions that install together.

pip resolves the requirement from nothing, in an environment that holds only pip, and reports what it would install.
No old constraint takes part, so the result is what a reader without constraints would get today.
"""
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

def resolve(requirement: str) -> list[str]:
    "The lines `name==version` that pip chooses for `requirement` today."
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        report = Path(folder) / "report.json"
        subprocess.run([Path(folder) / "bin" / "python", "-m", "pip", "install", "--dry-run", "--quiet",
                        "--report", report, requirement], check=True)
        chosen = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return sorted((f"{m['name']}=={m['version']}" for m in chosen if m["name"] != "facecp_nb"), key=str.lower)

if __name__ == "__main__":
    requirement, target = sys.argv[1:]
    lines = resolve(requirement)
    Path(target).write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} versions written to {target}")
