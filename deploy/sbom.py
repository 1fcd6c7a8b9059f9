"""Print the packages of a requirements file with hashes as a CycloneDX 1.6 document (an SBOM)."""

import json
import re
import sys
from pathlib import Path

ENTRY = re.compile(r"^([\w.-]+)==(\S+)((?:\s+\\\n\s+--hash=sha256:\w+)+)", re.MULTILINE)


def components(requirements: str) -> list[dict[str, object]]:
    """Return one component for each pinned package, with the hashes of its files."""
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "hashes": [
                {"alg": "SHA-256", "content": digest}
                for digest in re.findall(r"sha256:(\w+)", hashes)
            ],
        }
        for name, version, hashes in ENTRY.findall(requirements)
    ]


if __name__ == "__main__":
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "mnist-digit-classifier"}},
        "components": components(Path(sys.argv[1]).read_text()),
    }
    json.dump(document, sys.stdout, indent=2)
    print()
