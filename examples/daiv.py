"""A session of the daiv-sandbox API: a repository goes in, a command changes it, the patch comes out.

    DAIV_SANDBOX_URL=http://localhost:8080 DAIV_SANDBOX_API_KEY=… python3 examples/daiv.py
"""

import base64
import io
import json
import os
import tarfile
import urllib.request
import uuid

URL = os.environ.get("DAIV_SANDBOX_URL", "http://localhost:8080").rstrip("/") + "/api/v1"
KEY = os.environ["DAIV_SANDBOX_API_KEY"]


def call(method, path, body=None, kind="application/json"):
    request = urllib.request.Request(URL + path, data=body, method=method)
    request.add_header("X-API-Key", KEY)
    if body is not None:
        request.add_header("Content-Type", kind)
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def archive(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def seed(session, content):
    boundary = uuid.uuid4().hex
    head = 'Content-Disposition: form-data; name="repo_archive"; filename="repo.tar.gz"'
    body = f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + f"\r\n--{boundary}--\r\n".encode()
    call("POST", f"/session/{session}/seed/", body, f"multipart/form-data; boundary={boundary}")


def main():
    start = {"base_image": os.environ.get("IMAGE", "host"), "extract_patch": True}
    session = call("POST", "/session/", json.dumps(start).encode())["session_id"]
    try:
        seed(session, archive({"greeting.txt": "hello\n", "old.txt": "gone\n"}))
        run = {"commands": ["sed -i s/hello/goodbye/ greeting.txt", "rm old.txt", "cat greeting.txt"], "fail_fast": True}
        ran = call("POST", f"/session/{session}/", json.dumps(run).encode())
        for result in ran["results"]:
            print(f"$ {result['command']} -> {result['exit_code']}")
            print(result["output"], end="")
        print(base64.b64decode(ran["patch"]).decode(), end="")
    finally:
        call("DELETE", f"/session/{session}/")


if __name__ == "__main__":
    main()
