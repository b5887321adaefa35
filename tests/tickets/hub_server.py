"""A server on this machine that answers the few calls of the Hub that are used."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Repositories: {(repo, revision): {file: content}}; "main" moves with commits."""

    def __init__(self):
        self.contents = {}
        self.calls = []
        self.tokens = set()
        self.status = None  # what every call is answered, if set

    def commit_of(self, repo, revision):
        files = self.contents.get((repo, revision), {})
        content = repr(sorted(files.items())).encode()
        return hashlib.sha1(content).hexdigest()


class Answers(BaseHTTPRequestHandler):
    """Answers HEAD and GET of a file, and what an upload of small files asks."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments):
        pass

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, **fields):
        content = json.dumps(fields).encode()
        self.answer(200, content, Content_Type="application/json")

    def refuse(self, code):
        self.answer(404, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self):
        hub = self.hub
        hub.calls.append((self.command, self.path))
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.status is not None:
            self.answer(hub.status)
            return
        asked = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not asked or asked[1] not in {repo for repo, _ in hub.contents}:
            self.refuse("RepoNotFound")
            return
        repo, revision, file = asked.groups()
        revisions = {r for other, r in hub.contents if other == repo}
        if revision in {hub.commit_of(repo, r) for r in revisions}:
            revision = next(r for r in revisions if hub.commit_of(repo, r) == revision)
        if revision not in revisions:
            self.refuse("RevisionNotFound")
        elif file not in hub.contents[repo, revision]:
            self.refuse("EntryNotFound")
        else:
            content = hub.contents[repo, revision][file]
            self.answer(
                200,
                content,
                ETag=f'"{hashlib.sha1(content).hexdigest()}"',
                X_Repo_Commit=hub.commit_of(repo, revision),
            )

    do_HEAD = do_GET

    def do_POST(self):
        hub = self.hub
        hub.calls.append((self.command, self.path))
        hub.tokens.add(self.headers.get("Authorization"))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if hub.status is not None:
            self.answer(hub.status)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            hub.contents.setdefault((name, "main"), {})
            self.answer_json(url=f"http://{self.headers['Host']}/{name}", name=name)
        elif self.path == "/api/validate-yaml":
            self.answer_json(warnings=[], errors=[])
        elif self.path.endswith("/preupload/main"):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {"path": path, "uploadMode": "regular", "shouldIgnore": False}
                for path in files
            ]
            self.answer_json(files=modes)
        elif asked := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    hub.contents[asked[1], "main"][line["value"]["path"]] = content
            commit = hub.commit_of(asked[1], "main")
            url = f"http://{self.headers['Host']}/{asked[1]}/commit/{commit}"
            self.answer_json(success=True, commitUrl=url, commitOid=commit)
        else:
            self.answer(404)


@contextlib.contextmanager
def served():
    """A hub, and the address at which it answers."""
    hub = Hub()
    handler = type("Own", (Answers,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
