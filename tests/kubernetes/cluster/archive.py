"""Images for containerd, made of files of this machine: one layer, as `docker save` writes it."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path


def image(out: Path, name: str, entry: str, programs: list[Path]):
    """An image with programs at `/`, and the libraries that they stand on."""
    files = {f"/{program.name}": program for program in programs}
    for program in programs:
        linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        files |= {path: Path(path).resolve() for path in re.findall(r"(/\S+) \(0x", linked)}
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for at, file in files.items():
            for parent in list(Path(at).parents)[-2::-1]:
                head = tarfile.TarInfo(str(parent).lstrip("/"))
                head.type, head.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(head)
            add(tar, at.lstrip("/"), file.read_bytes(), 0o755)
    layer = layer.getvalue()
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": [entry], "User": "1337"}, "history": [{}],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(out, "w") as tar:
        for at, data in (("config.json", config), ("layer.tar", layer), ("manifest.json", json.dumps(manifest).encode())):
            add(tar, at, data, 0o644)


def add(tar, at, data, mode):
    head = tarfile.TarInfo(at)
    head.size, head.mode = len(data), mode
    tar.addfile(head, io.BytesIO(data))
