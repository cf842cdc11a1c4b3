"""Writes an image as an OCI layout, out of layers that are there: layout.py DIRECTORY [--env|--label|--cmd|--workdir …]… LAYER…

A layer is a tar.gz with the digest of the tar in a file `….diff_id` beside it. The same layers and options are the same bytes.
"""

import argparse
import datetime
import hashlib
import json
import os
import shutil

OCI = "application/vnd.oci.image."


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--cmd", action="append", default=[])
    parser.add_argument("--workdir")
    parser.add_argument("layers", nargs="+")
    asked = parser.parse_args()

    blobs = os.path.join(asked.directory, "blobs", "sha256")
    os.makedirs(blobs)
    created = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc).isoformat()
    layers = [layer(blobs, path) for path in asked.layers]
    diff_ids = ["sha256:" + open(path + ".diff_id").read().strip() for path in asked.layers]
    labels = dict(label.split("=", 1) for label in asked.label)
    about = {"Env": asked.env, "Cmd": asked.cmd, "WorkingDir": asked.workdir, "Labels": labels}
    config = {
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": about,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": created, "created_by": os.path.basename(path).split("-")[0]} for path in asked.layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": document(blobs, config, OCI + "config.v1+json"),
        "layers": layers,
    }
    index = {
        "schemaVersion": 2,
        "mediaType": OCI + "index.v1+json",
        "manifests": [document(blobs, manifest, OCI + "manifest.v1+json")],
    }
    write(os.path.join(asked.directory, "index.json"), json.dumps(index).encode())
    write(os.path.join(asked.directory, "oci-layout"), b'{"imageLayoutVersion":"1.0.0"}')


def layer(blobs, path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    place = os.path.join(blobs, digest.hexdigest())
    try:
        os.link(path, place)
    except OSError:
        shutil.copyfile(path, place)
    return descriptor(OCI + "layer.v1.tar+gzip", digest, os.path.getsize(path))


def document(blobs, value, media_type):
    content = json.dumps(value, sort_keys=True).encode()
    digest = hashlib.sha256(content)
    write(os.path.join(blobs, digest.hexdigest()), content)
    return descriptor(media_type, digest, len(content))


def descriptor(media_type, digest, size):
    return {"mediaType": media_type, "digest": "sha256:" + digest.hexdigest(), "size": size}


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


main()
