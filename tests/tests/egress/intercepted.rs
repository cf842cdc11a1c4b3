//! Requests that are judged one by one, in TLS that is taken apart, and secrets that are put in on the way.

use caisson_tests::Answer;

use super::*;

/// Names that the certificate of the world's server is for.
const NAMES_OF_IT: &str =
    "DNS:secure.example,DNS:other.secure.example,DNS:plain.example,DNS:pypi.org,DNS:files.pythonhosted.org,DNS:deb.debian.org";
const SECRET: &str = "Bearer tok-8f3kq0zx7w1m";
const TOKEN: &str = "tok-8f3kq0zx7w1m";
/// Two hosts that say what they hear, each with TLS of its own. What has come is in a file, a line for each request.
const SERVER: &str = r#"
import base64, http.server, os, socketserver, ssl, sys, threading
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass
    def say(self, status, body, *fields):
        self.send_response(status)
        for name, value in fields: self.send_header(name, value)
        self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
    def any(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        if self.headers.get('Transfer-Encoding') == 'chunked':
            while True:
                size = int(self.rfile.readline(), 16); body += self.rfile.read(size); self.rfile.readline()
                if size == 0: break
        auth = self.headers.get('Authorization', '')
        with open('requests', 'a') as f: f.write(f"{self.headers['Host']} {self.command} {self.path} [{auth}] {len(body)}\n")
        path = self.path.split('?')[0]
        if path == '/echo': self.say(200, str(self.headers).encode() + body)
        elif path == '/head': self.say(200, b'x', ('X-Said', auth))
        elif path == '/redirect': self.say(302, b'', ('Location', 'https://plain.example/?' + auth.split(' ')[-1]))
        elif path == '/gzip': self.say(200, b'\x1f\x8b', ('Content-Encoding', 'gzip'))
        elif path == '/base64': self.say(200, base64.b64encode(auth.split(' ')[-1].encode()))
        elif path == '/pieces':
            self.send_response(200); self.send_header('Transfer-Encoding', 'chunked'); self.end_headers()
            for c in auth: self.wfile.write(b'1\r\n' + c.encode() + b'\r\n')
            self.wfile.write(b'0\r\n\r\n')
        elif path == '/end':
            self.send_response(200); self.send_header('Connection', 'close'); self.end_headers(); self.wfile.write(b'until the end ' + auth.encode()); self.wfile.flush(); self.close_connection = True; self.connection.unwrap()
        elif path == '/socket':
            self.send_response(101); self.send_header('Upgrade', 'websocket'); self.send_header('Connection', 'upgrade'); self.end_headers()
            line = self.rfile.readline(); self.wfile.write(b'heard ' + line + auth.encode() + b'\n'); self.wfile.flush(); self.close_connection = True; self.connection.unwrap()
        elif path == '/large': self.say(200, b'z' * 3_000_000)
        elif os.path.isfile('files' + path): self.say(200, open('files' + path, 'rb').read())
        elif os.path.isfile('files' + path + 'index.html'): self.say(200, open('files' + path + 'index.html', 'rb').read(), ('Content-Type', 'text/html'))
        else: self.say(200 if path in ('/', '/open', '/x') else 404, f"{self.command} {self.path} {len(body)}".encode())
    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_TRACE = any
class S(http.server.ThreadingHTTPServer):
    daemon_threads = True
    def handle_error(self, *a): pass
for address in sys.argv[1:]:
    s = S((address, 443), H)
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('cert.pem', 'key.pem')
    s.socket = c.wrap_socket(s.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=s.serve_forever, daemon=True).start()
print('ready', flush=True)
sys.stdin.read()
"#;

/// A world with hosts that have certificates.
struct Secure {
    world: World,
    home: Home,
    child: Child,
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Secure {
    fn new() -> Self {
        let world = World::new();
        let home = Home::new();
        make_certificates_of(&home, NAMES_OF_IT);
        let mut child = home
            .clean("python3")
            .args(["-c", SERVER, WEB, OTHER])
            .current_dir(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        for name in ["secure.example", "plain.example", "pypi.org", "files.pythonhosted.org", "deb.debian.org"] {
            world.name(name, &[&[WEB]]);
        }
        for name in ["other.secure.example", "untrusted.example"] {
            world.name(name, &[&[OTHER]]);
        }
        Self { world, home, child }
    }

    /// A server that trusts its authority.
    fn setup(&self) -> Setup {
        self.world.setup().env("SSL_CERT_FILE", self.home.path().join("ca.pem"))
    }

    /// What has come: host, method, target and authorization.
    fn requests(&self) -> Vec<String> {
        std::fs::read_to_string(self.home.path().join("requests")).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

fn guarded() -> Value {
    json!({
        "allow": ["plain.example"],
        "rules": [
            {"host": "secure.example", "methods": ["GET", "POST", "TRACE"], "secret": "token"},
            {"host": "other.secure.example", "methods": ["GET"], "path": "/open"},
        ],
        "secrets": {"token": {"header": "Authorization", "value": SECRET}},
    })
}

/// Speaks TLS with `sni` by a tunnel for `host`, says `bytes`, and prints all that comes back.
fn by_tls(sandbox: &Sandbox<'_>, host: &str, sni: &str, bytes: &str) -> String {
    let code = "import socket, ssl, sys\n\
                s = socket.create_connection(('127.0.0.53', 3128), 20); s.settimeout(20)\n\
                s.sendall(f'CONNECT {sys.argv[1]}:443 HTTP/1.1\\r\\nHost: {sys.argv[1]}:443\\r\\n\\r\\n'.encode())\n\
                head = b''\n\
                while not head.endswith(b'\\r\\n\\r\\n'): head += s.recv(1)\n\
                c = ssl.create_default_context(); c.check_hostname = False; out = b''\n\
                try:\n\
                \x20s = c.wrap_socket(s, server_hostname=sys.argv[2] or None)\n\
                \x20s.sendall(bytes.fromhex(sys.argv[3]))\n\
                \x20while True:\n\
                \x20 d = s.recv(65536)\n\
                \x20 if not d: break\n\
                \x20 out += d\n\
                except (ssl.SSLError, OSError) as e: out += f'<{type(e).__name__}>'.encode()\n\
                print(out.decode('latin-1'), end='')";
    said(sandbox, &json!({"cmd": ["python3", "-c", code, host, sni, hexadecimal(bytes)]}))
}

fn get(host: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[test]
fn r3_2_requests_are_judged_by_method_and_path() {
    let secure = Secure::new();
    let server = secure.setup().start();
    let network = json!({"rules": [
        {"host": "*.secure.example", "methods": ["GET"], "path": "/open"},
        {"host": "web.example", "methods": ["get", "POST"], "path": "/open/"},
    ]});
    let sandbox = server.sandbox(&json!({"network": network}));
    assert_eq!(sandbox.get().expect(200).json()["network"]["rules"][1]["methods"], json!(["GET", "POST"]));
    let code = |arguments: &str| sandbox.shell(&format!("curl -sS -o /dev/null -w '%{{http_code}}' --path-as-is {arguments}"));
    for way in ["", "--noproxy '*' "] {
        for (what, expect) in [
            ("http://web.example/open/x?a=/../b", "200"),
            ("-d 5 http://web.example/open/", "200"),
            ("-X PUT http://web.example/open/", "403"),
            ("http://web.example/open", "403"),
            ("http://web.example/", "403"),
            ("http://web.example/open/../x", "403"),
            ("http://web.example/open/%2e%2e/x", "403"),
            ("http://web.example/open/%25%32%65%25%32%65/x", "403"),
            ("http://web.example/open/%c0%ae%c0%ae/x", "403"),
            ("http://web.example/open/..%20/x", "403"),
            ("http://web.example/open/a%20b%C3%A4", "200"),
            ("https://other.secure.example/open?x", "200"),
            ("https://other.secure.example/opened", "403"),
            ("-d 5 https://other.secure.example/open", "403"),
            ("https://other.secure.example/open/../x", "403"),
        ] {
            assert_eq!(code(&format!("{way}{what}")), expect, "{way}{what}");
        }
    }
    let told = sandbox.shell("curl -sS -X PUT https://other.secure.example/open");
    assert_eq!(told, "caisson: no rule of `rules` for `other.secure.example` takes PUT /open\n");
    assert_eq!(decision(&sandbox, "other.secure.example")["code"], "request");
    let told = |kind: &str| server.get(&format!("/v1/events?type={kind}")).expect(200).json()["data"].as_array().unwrap().clone();
    let refused = eventually("an event", WITHIN, || {
        told("egress.refused").into_iter().find(|event| event["destination"] == "other.secure.example:443")
    });
    assert_eq!((&refused["reason"], &refused["sandbox_id"]), (&json!("request"), &sandbox.get().json()["id"]), "{refused}");
    let destinations: Vec<Value> = told("egress.refused").iter().map(|event| event["destination"].clone()).collect();
    assert_eq!(destinations.len(), 2, "each destination once: {destinations:?}");
    // Each request of a connection, not the first alone.
    let two = format!("GET /open HTTP/1.1\r\nHost: other.secure.example\r\n\r\n{}", get("other.secure.example", "/secret"));
    let answer = by_tls(&sandbox, "other.secure.example", "other.secure.example", &two);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 403 ") && answer.contains("X-Caisson-Egress: request"),
        "{answer}"
    );
    let kept = "curl -sS https://other.secure.example/open https://other.secure.example/open -w ' %{num_connects}\\n'";
    assert_eq!(sandbox.shell(kept), "GET /open 0 1\nGET /open 0 0\n", "a connection is used again");
    assert!(secure.requests().iter().all(|request| request.contains(" GET /open")), "{:?}", secure.requests());
    assert!(secure.world.requests().iter().all(|(_, head)| head.contains(" /open/")), "{:?}", secure.world.requests());
    let deleted = sandbox.delete();
    assert!(deleted.status < 300, "{}", deleted.text());
    let summary = eventually("a summary", WITHIN, || told("egress.summary").pop());
    assert!(summary["egress"]["allowed"].as_u64().unwrap() > 5 && summary["egress"]["bytes_in"].as_u64().unwrap() > 500, "{summary}");
    for bad in [
        json!({"rules": [{"host": "10.0.0.1"}]}),
        json!({"rules": [{"host": "a.b", "path": "x"}]}),
        json!({"rules": [{"host": "a.b", "methods": ["a b"]}]}),
        json!({"rules": [{"host": "a.b", "secret": "none"}]}),
        json!({"intercept": "sometimes"}),
        json!({"rules": [{"path": "/"}]}),
    ] {
        let answer = server.post("/v1/sandboxes", &json!({"network": bad}));
        assert!(answer.status == 400 && answer.text().contains("network"), "{bad}: {}", answer.text());
    }
}

#[test]
fn r3_4_a_secret_leaves_to_its_host_alone_and_never_comes_in() {
    let secure = Secure::new();
    let mut server = secure.setup().env("CAISSON_LOG", "debug").start();
    let sandbox = server.sandbox(&json!({"network": guarded(), "user": "root", "name": "keeper"}));
    let curl = |arguments: &str| sandbox.shell(&format!("curl -sS {arguments}"));
    for what in ["/echo", "/pieces", "/end", "/base64", "/head", "/redirect", "/gzip"] {
        for way in ["", "--noproxy '*' ", "--compressed "] {
            let answer = curl(&format!("-i {way}-H 'Authorization: mine' https://secure.example{what}"));
            assert!(!answer.contains(TOKEN) && !answer.contains("dG9rLThm") && !answer.contains("mine"), "{what}: {answer}");
        }
    }
    assert!(curl("https://secure.example/echo").contains("Authorization: ***"), "what is echoed is hidden");
    assert!(curl("https://secure.example/end").starts_with("until the end ***"));
    assert_eq!(curl("https://secure.example/head -o /dev/null -w '%{http_code}'"), "502");
    assert!(curl("https://secure.example/redirect").contains("the secret in its head"));
    assert!(curl("https://secure.example/gzip").contains("encoded"));
    assert_eq!(curl("https://secure.example/large | sha256sum | cut -c 1-8").trim().len(), 8);
    assert!(!curl("-X TRACE https://secure.example/echo").contains(TOKEN));
    assert_eq!(curl("-d @/etc/hosts -H 'Transfer-Encoding: chunked' https://secure.example/x -o /dev/null -w '%{http_code}'"), "200");
    let socket =
        "GET /socket HTTP/1.1\r\nHost: secure.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\nhello\n";
    let answer = by_tls(&sandbox, "secure.example", "secure.example", socket);
    assert!(answer.contains(" 101 ") && answer.contains("heard hello") && answer.contains("***") && !answer.contains(TOKEN), "{answer}");
    assert!(secure.requests().iter().all(|request| request.contains(&format!("[{SECRET}]"))), "{:?}", secure.requests());
    let before = secure.requests().len();

    // To others, without TLS, to whoever only says that it is the host, and with another method, nothing leaves.
    assert_eq!(curl("-k https://plain.example/x"), "GET /x 0");
    assert_eq!(curl("https://other.secure.example/open"), "GET /open 0");
    assert!(curl("http://secure.example/x").contains("over TLS alone"));
    assert!(curl("--noproxy '*' http://secure.example/x").contains("over TLS alone"));
    assert!(curl("-X PUT https://secure.example/x").contains("no rule of `rules`"));
    let network = json!({"rules": [{"host": "untrusted.example", "secret": "token"}], "secrets": {"token": {"header": "Authorization", "value": SECRET}}});
    let other = server.sandbox(&json!({"network": network}));
    let answer = other.shell("curl -sS https://untrusted.example/x");
    assert!(answer.contains("TLS with it did not come about"), "{answer}");
    assert_eq!(decision(&other, "untrusted.example")["code"], "untrusted");
    for request in &secure.requests()[before..] {
        assert!(request.contains(" [] "), "{request}");
    }
    assert!(secure.world.requests().is_empty(), "{:?}", secure.world.requests());

    // Nobody finds it: in files, environments, memory, sockets' names; in the log, records and files of the server; in what it shows.
    let search = format!(
        "import os\n\
         wanted = bytes(reversed(bytes.fromhex('{}')))\n\
         found, looked = [], 0\n\
         for root, dirs, files in os.walk('/'):\n\
         \x20if root in ('/usr', '/sys', '/proc') or root.startswith('/proc/'): dirs[:] = []\n\
         \x20for f in files:\n\
         \x20 p = os.path.join(root, f)\n\
         \x20 try:\n\
         \x20  if os.path.isfile(p) and not os.path.islink(p): looked += 1; found += [p] if wanted in open(p, 'rb').read() else []\n\
         \x20 except OSError: pass\n\
         for pid in [p for p in os.listdir('/proc') if p.isdigit()]:\n\
         \x20for f in ['environ', 'cmdline', 'mem']:\n\
         \x20 try:\n\
         \x20  if f != 'mem': looked += 1; found += [pid + f] if wanted in open(f'/proc/{{pid}}/{{f}}', 'rb').read() else []; continue\n\
         \x20  if pid == str(os.getpid()): continue\n\
         \x20  for line in open(f'/proc/{{pid}}/maps'):\n\
         \x20   a, b = [int(x, 16) for x in line.split(' ')[0].split('-')]\n\
         \x20   m = open(f'/proc/{{pid}}/mem', 'rb'); m.seek(a); looked += 1\n\
         \x20   found += [pid + line] if wanted in m.read(b - a) else []\n\
         \x20 except (OSError, OverflowError, ValueError): pass\n\
         print(looked > 50, found)",
        hexadecimal(&TOKEN.chars().rev().collect::<String>())
    );
    let sleeper = sandbox.background(json!({"shell": "env; curl -sS https://secure.example/echo; sleep 60"}));
    eventually("its request", WITHIN, || {
        secure.requests().iter().any(|request| request.contains("/echo") && secure.requests().len() > before + 2).then_some(())
    });
    assert_eq!(sandbox.python(&search), "True []\n");
    assert!(!server.get(&format!("/v1/executions/{sleeper}")).expect(200).text().contains(TOKEN));
    for path in [&sandbox.target(""), &sandbox.target("/egress"), "/v1/sandboxes", "/v1/events", "/metrics"] {
        assert!(!server.get(path).expect(200).text().contains(TOKEN), "{path}");
    }
    assert!(sandbox.get().expect(200).text().contains(r#""secrets":{"token":{"header":"Authorization"}}"#), "{}", sandbox.get().text());
    let wrong = server.post("/v1/sandboxes", &json!({"network": {"rules": [], "secrets": {"token": SECRET}}}));
    assert!(wrong.status == 400 && !wrong.text().contains(TOKEN), "{}", wrong.text());
    let template = server.request("PUT", "/v1/templates/keeper").json(&json!({"network": guarded()})).send();
    assert!(template.status == 400 && template.text().contains("template"), "{}", template.text());
    assert!(!contains(&server.records(), TOKEN.as_bytes()), "it is in the records");
    let log = std::fs::read(server.home().path().join("log")).unwrap();
    assert!(!contains(&log, TOKEN.as_bytes()), "it is in the log");
    server.stop();
    assert!(!contains(&server.records(), TOKEN.as_bytes()), "it is in the records");
    let mut files = vec![server.home().data()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            assert!(!contains(&std::fs::read(&path).unwrap(), TOKEN.as_bytes()), "it is in {}", path.display());
        }
    }
}

#[test]
fn r3_4_what_one_request_has_put_in_no_other_brings_back() {
    let secure = Secure::new();
    let server = secure.setup().start();
    let network = json!({
        "allow": [WEB],
        "rules": [{"host": "secure.example", "methods": ["POST"], "secret": "token"}, {"host": "secure.example", "methods": ["GET"]}],
        "secrets": {"token": {"header": "Authorization", "value": SECRET}},
    });
    let sandbox = server.sandbox(&json!({"network": network}));
    let curl = |arguments: &str| sandbox.shell(&format!("curl -sS {arguments} 2>&1 || true"));
    for way in ["", "--noproxy '*' "] {
        assert!(curl(&format!("{way}http://secure.example/x")).contains("over TLS alone"), "{way}");
    }
    assert_eq!(curl("https://secure.example/x"), "GET /x 0");
    // A part of an answer would have a part of the secret; fields that say another method would pass the rules by.
    let echo = curl("-d 5 -H 'Range: bytes=0-9' -H 'X-HTTP-Method-Override: DELETE' -H 'X-Original-URL: /y' https://secure.example/echo");
    assert!(echo.contains("Authorization: ***"), "{echo}");
    for gone in ["Range", "Override", "Original", TOKEN] {
        assert!(!echo.contains(gone), "{gone}: {echo}");
    }
    // By its address, without its name, its requests could not be judged.
    let before = secure.requests().len();
    for way in ["", "--noproxy '*' "] {
        let said = curl(&format!("{way}-k https://{WEB}/x -o /dev/null -w '%{{http_code}}'"));
        assert!(!said.contains("200"), "{way}: {said}");
    }
    assert_eq!(secure.requests().len(), before);
    server.finish();
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|part| part == wanted)
}

#[test]
fn clients_trust_whoever_looks_into_their_tls() {
    let secure = Secure::new();
    let server = secure.setup().start();
    // Go compiles the whole of its own client.
    let sandbox = server.sandbox(&json!({"network": guarded(), "limits": {"cpus": 2, "memory_bytes": 2u64 << 30, "disk_bytes": 1 << 30}}));
    let before = secure.requests().len();
    let mut expected = 0;
    // Whoever asks does not wait for it: a compiler takes its time.
    let mut try_out = |what: &str, line: &str| {
        expected += 1;
        let id = sandbox.background(json!({"shell": format!("({line}) > /tmp/said 2>&1"), "timeout_s": 400}));
        let ended = server.ended(&id, Duration::from_secs(400));
        let said = sandbox.shell("cat /tmp/said");
        assert!(said.contains("GET /x 0") && ended["exit_code"] == 0, "{what}: {said}");
    };
    try_out("curl", "curl -sS https://secure.example/x");
    try_out("python", "python3 -c \"import urllib.request as r; print(r.urlopen('https://secure.example/x').read().decode())\"");
    needs("node", "nodejs");
    try_out(
        "node",
        "node -e \"require('https').get({host: 'secure.example', path: '/x'}, r => r.on('data', d => process.stdout.write(d)))\"",
    );
    let go = "package main\nimport (\"fmt\"; \"io\"; \"net/http\")\nfunc main() { r, e := http.Get(\"https://secure.example/x\"); if e != nil { panic(e) }; b, _ := io.ReadAll(r.Body); fmt.Println(string(b)) }\n";
    sandbox.write(b"/workspace/main.go", go.as_bytes()).expect(200);
    try_out("go", "cd /workspace && HOME=/tmp GOFLAGS=-mod=mod GOTOOLCHAIN=local go run main.go 2>&1");
    assert_eq!(secure.requests().len(), before + expected);
    // A repository that anybody may read, as files.
    needs("git", "git");
    let files = secure.home.path().join("files");
    std::fs::create_dir_all(&files).unwrap();
    let line = "set -e; git init -q work; cd work; echo hello > a; git add a; git -c user.name=a -c user.email=a@b commit -q -m x; cd ..; git clone -q --bare work files/repo.git; git -C files/repo.git update-server-info";
    let made = secure.home.clean("sh").args(["-c", line]).current_dir(secure.home.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(sandbox.shell("cd /tmp && git clone -q https://secure.example/repo.git got && cat got/a"), "hello\n");
    assert!(secure.requests().iter().filter(|request| request.contains("/repo.git/")).all(|request| request.contains(SECRET)));
}

#[test]
fn who_is_not_looked_into_is_left_alone_unless_all_are() {
    let secure = Secure::new();
    let server = secure.setup().start();
    let sandbox = server.sandbox(&json!({"network": guarded()}));
    let certificate = |sandbox: &Sandbox<'_>, host: &str| {
        sandbox.python(&format!(
            "import socket, ssl\nc = ssl._create_unverified_context(); s = c.wrap_socket(socket.create_connection(('{host}', 443)), server_hostname='{host}')\nimport hashlib; print(hashlib.sha256(s.getpeercert(True)).hexdigest(), s.version())"
        ))
    };
    let own = secure
        .home
        .clean("sh")
        .args(["-c", "openssl x509 -in cert.pem -outform DER | sha256sum | cut -d' ' -f1"])
        .current_dir(secure.home.path())
        .output()
        .unwrap();
    let own = String::from_utf8_lossy(&own.stdout).trim().to_owned();
    assert!(certificate(&sandbox, "plain.example").starts_with(&own), "its own certificate");
    assert!(!certificate(&sandbox, "secure.example").starts_with(&own), "somebody who poses as it");
    let all = server.sandbox(&json!({"network": {"allow": ["plain.example", "echo.example:7000"], "intercept": "all"}}));
    assert!(!certificate(&all, "plain.example").starts_with(&own));
    assert_eq!(all.shell("curl -sS https://plain.example/x"), "GET /x 0");
    assert_eq!(direct(&all, "echo.example", 7000, "abc\n"), "cut", "it is neither TLS nor HTTP");
    assert_eq!(decision(&all, "echo.example")["code"], "opaque");
    // A rule that comes later cuts what was let through without a look.
    let code = "import socket, ssl\ns = ssl._create_unverified_context().wrap_socket(socket.create_connection(('plain.example', 443)), server_hostname='plain.example')\n\
        open('/tmp/open', 'w')\n\
        try: said = repr(s.recv(1))\n\
        except OSError: said = 'cut'\n\
        open('/tmp/said', 'w').write(said)";
    let id = sandbox.background(json!({"language": "python", "code": code}));
    eventually("an open connection", WITHIN, || (sandbox.read(b"/tmp/open").status == 200).then_some(()));
    let mut changed = guarded();
    changed["rules"].as_array_mut().unwrap().push(json!({"host": "plain.example", "methods": ["GET"]}));
    sandbox.request("PATCH", "").json(&json!({"network": changed})).send().expect(200);
    let ended = server.ended(&id, WITHIN);
    assert_eq!(ended["exit_code"], 0, "{ended:#}");
    assert!(["cut", "b''"].contains(&&*sandbox.shell("cat /tmp/said")));
    assert_eq!(decision(&sandbox, "plain.example")["code"], "not_allowed");
}

#[test]
fn r3_2_what_is_said_in_tls_is_for_its_host_and_read_in_one_way() {
    let secure = Secure::new();
    let server = secure.setup().start();
    let sandbox = server.sandbox(&json!({"network": guarded()}));
    let host = "secure.example";
    assert!(by_tls(&sandbox, host, host, &get(host, "/x")).ends_with("GET /x 0"));
    assert!(by_tls(&sandbox, host, "", &get(host, "/x")).ends_with("GET /x 0"), "the tunnel says which host it is");
    let before = secure.requests().len();
    let body = "0\r\n\r\nGET /second HTTP/1.1\r\nHost: secure.example\r\n\r\n";
    let framed = |framing: &str| format!("POST /x HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n{body}");
    for (sni, said, status) in [
        (host, get("other.secure.example", "/open"), "403"),
        (host, get("secure.example:444", "/x"), "403"),
        (host, "GET /x HTTP/1.1\r\n\r\n".to_owned(), "400"),
        (host, format!("GET /x HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n"), "400"),
        (host, format!("GET https://other.secure.example/x HTTP/1.1\r\nHost: {host}\r\n\r\n"), "400"),
        (host, format!("CONNECT a.b:443 HTTP/1.1\r\nHost: {host}\r\n\r\n"), "400"),
        (host, format!("GET /x HTTP/1.1\r\nHost : {host}\r\n\r\n"), "400"),
        (host, format!("GET /x HTTP/1.1\nHost: {host}\n\n"), "400"),
        (host, format!("GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"), "400"),
        (host, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400"),
        (host, framed("Content-Length: 3\r\nTransfer-Encoding: chunked"), "400"),
        (host, framed("Content-Length: 3\r\nContent-Length: 0"), "400"),
        (host, framed("Transfer-Encoding: xchunked"), "400"),
        (host, framed("Transfer-Encoding : chunked"), "400"),
    ] {
        let answer = by_tls(&sandbox, host, sni, &said);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{said:?}: {answer}");
    }
    assert!(by_tls(&sandbox, host, "other.secure.example", &get(host, "/x")).starts_with('<'), "another server name");
    let old = "import socket, ssl\ns = socket.create_connection(('secure.example', 443)); c = ssl._create_unverified_context()\nc.minimum_version = ssl.TLSVersion.TLSv1; c.maximum_version = ssl.TLSVersion.TLSv1_1; c.set_ciphers('DEFAULT@SECLEVEL=0')\ntry: c.wrap_socket(s, server_hostname='secure.example'); print('fine')\nexcept OSError: print('cut')";
    assert_eq!(sandbox.python(old), "cut\n");
    assert_eq!(direct(&sandbox, "secure.example", 443, "neither TLS nor HTTP\n"), "cut");
    assert_eq!(secure.requests().len(), before, "{:?}", &secure.requests()[before..]);
}

#[test]
fn secrets_and_rules_are_changed_while_a_sandbox_lives_and_kept_while_it_is_stopped() {
    let secure = Secure::new();
    let mut server = secure.setup().start();
    let id = {
        let sandbox = server.sandbox(&json!({"network": guarded(), "storage": "disk", "name": "kept"}));
        assert_eq!(sandbox.shell("curl -sS https://secure.example/x"), "GET /x 0");
        let mut changed = guarded();
        changed["secrets"]["token"]["value"] = json!("Bearer another-token-9");
        sandbox.request("PATCH", "").json(&json!({"network": changed})).send().expect(200);
        assert_eq!(sandbox.shell("curl -sS https://secure.example/x"), "GET /x 0");
        sandbox.target("")
    };
    server.stop();
    server.start_again();
    let ran = server.request("POST", &format!("{id}/exec")).json(&json!({"shell": "curl -sS https://secure.example/x"})).send().expect(200);
    assert_eq!(ran.json()["stdout"], "GET /x 0", "{}", ran.text());
    let said: Vec<String> = secure.requests().iter().map(|request| request.split(['[', ']']).nth(1).unwrap().to_owned()).collect();
    assert_eq!(said, [SECRET, "Bearer another-token-9", "Bearer another-token-9"]);
    assert!(!contains(&server.records(), b"another-token-9"));
}

#[test]
fn who_vouches_for_hosts_can_be_the_operators_own() {
    let home = Home::new();
    make_certificates_of(&home, "DNS:a.example");
    let path = |name: &str| home.path().join(name).display().to_string();
    let refuses = |certificate: &str, key: &str, words: &[&str]| {
        let (certificate, key) = (path(certificate), path(key));
        home.refuses_to_serve(
            &[("CAISSON_EGRESS", "on"), ("CAISSON_EGRESS_CA_CERT_FILE", &certificate), ("CAISSON_EGRESS_CA_KEY_FILE", &key)],
            words,
        );
    };
    std::fs::write(home.path().join("text.pem"), "no certificate").unwrap();
    let private =
        |name: &str| std::fs::set_permissions(home.path().join(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    ["ca.key", "key.pem", "text.pem"].iter().for_each(|name| private(name));
    refuses("text.pem", "ca.key", &["text.pem", "no certificate in PEM"]);
    refuses("ca.pem", "text.pem", &["text.pem", "no private key"]);
    refuses("cert.pem", "key.pem", &["cert.pem", "none of an authority"]);
    refuses("ca.pem", "key.pem", &["not that of the certificate"]);
    refuses("absent.pem", "ca.key", &["absent.pem", "cannot be read"]);
    home.refuses_to_serve(&[("CAISSON_EGRESS", "on"), ("CAISSON_EGRESS_CA_CERT_FILE", &path("ca.pem"))], &["give both, or none"]);
    home.refuses_to_serve(
        &[("DAIV_SANDBOX_EGRESS_CA_CERT_FILE", &path("ca.pem")), ("DAIV_SANDBOX_EGRESS_CA_KEY_FILE", &path("ca.key"))],
        &["CAISSON_EGRESS"],
    );
    let server = Setup::default()
        .env("CAISSON_EGRESS", "on")
        .env("DAIV_SANDBOX_EGRESS_CA_CERT_FILE", path("ca.pem"))
        .env("DAIV_SANDBOX_EGRESS_CA_KEY_FILE", path("ca.key"))
        .start();
    let sandbox = server.sandbox(&json!({"network": "public"}));
    let own = std::fs::read_to_string(home.path().join("ca.pem")).unwrap();
    assert_eq!(sandbox.shell("cat /etc/caisson/ca.pem"), own);
    assert!(sandbox.shell("tail -c 2000 $SSL_CERT_FILE").ends_with(&own) && sandbox.shell("grep -c BEGIN $SSL_CERT_FILE").trim() != "1");
    let none = server.sandbox(&json!({}));
    assert_eq!(none.shell("env | grep -c SSL_CERT_FILE; ls /etc/caisson 2>&1 | grep -c 'No such'"), "0\n1\n");
    server.finish();
    let server = Setup::default().env("CAISSON_EGRESS", "on").start();
    let key = server.home().data().join("egress-ca.key");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions()) & 0o777, 0o600);
    server.finish();
}

#[test]
fn what_goes_has_an_end_and_a_rate() {
    let secure = Secure::new();
    let server = secure.setup().start();
    let limited = |limits: Value| json!({"allow": ["plain.example", "web.example"], "limits": limits});
    let sandbox = server.sandbox(&json!({"network": limited(json!({"max_bytes": 2_000_000}))}));
    let large = "curl -sSk https://plain.example/large -o /dev/null -w '%{http_code}' 2>&1; echo \" $?\"";
    let cut = sandbox.shell(large);
    assert!(!cut.ends_with(" 0\n"), "{cut}");
    assert_eq!(decision(&sandbox, "plain.example")["code"], "byte_limit");
    let told = report(&sandbox);
    let bytes = told["bytes_in"].as_u64().unwrap() + told["bytes_out"].as_u64().unwrap();
    assert!((2_000_000..2_200_000).contains(&bytes), "{told:#}");
    assert!(sandbox.shell("curl -sS http://web.example/").contains("the 2000000 bytes that this policy lets through are used up"));
    assert_eq!(direct(&sandbox, WEB, 80, "x"), "cut");
    let lookup = "import socket\ntry: socket.getaddrinfo('plain.example', 80); print('found')\nexcept OSError: print('refused')";
    assert_eq!(sandbox.python(lookup), "refused\n", "names would carry something out, too");
    sandbox.request("PATCH", "").json(&json!({"network": limited(json!({"max_bytes": 20_000_000}))})).send().expect(200);
    assert_eq!(sandbox.shell(large), "200 0\n", "more is let through");
    let slow = limited(json!({"bytes_per_second": 1_000_000}));
    sandbox.request("PATCH", "").json(&json!({"network": slow})).send().expect(200);
    let took: f64 = sandbox.shell("curl -sSk https://plain.example/large -o /dev/null -w '%{time_total}'").trim().parse().unwrap();
    assert!((2.0..6.0).contains(&took), "3 MB took {took} s");
    assert_eq!(sandbox.get().expect(200).json()["network"]["limits"], json!({"bytes_per_second": 1_000_000}));
}

#[test]
fn packages_are_installed_and_nothing_else_is_reached() {
    let secure = Secure::new();
    let files = secure.home.path().join("files");
    needs("dpkg-deb", "dpkg");
    let make = "set -e; mkdir -p files/simple/caisson-greeting files/debian\n\
        python3 - <<'EOF'\n\
        import zipfile\n\
        z = zipfile.ZipFile('files/caisson_greeting-1.0-py3-none-any.whl', 'w')\n\
        z.writestr('caisson_greeting.py', 'print(\"hello from a wheel\")')\n\
        z.writestr('caisson_greeting-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: caisson-greeting\\nVersion: 1.0\\n')\n\
        z.writestr('caisson_greeting-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
        z.writestr('caisson_greeting-1.0.dist-info/RECORD', '')\n\
        z.close()\n\
        EOF\n\
        echo '<a href=\"https://files.pythonhosted.org/caisson_greeting-1.0-py3-none-any.whl\">caisson_greeting-1.0-py3-none-any.whl</a>' > files/simple/caisson-greeting/index.html\n\
        mkdir -p deb/DEBIAN deb/opt; printf 'Package: caisson-greeting\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: x\\n' > deb/DEBIAN/control; echo 'hello from apt' > deb/opt/greeting\n\
        dpkg-deb --root-owner-group -b deb files/debian/greeting.deb >/dev/null\n\
        cd files/debian; { cat ../../deb/DEBIAN/control; echo 'Filename: ./greeting.deb'; echo \"Size: $(stat -c %s greeting.deb)\"; echo \"SHA256: $(sha256sum greeting.deb | cut -d' ' -f1)\"; echo; } > Packages";
    let made = secure.home.clean("bash").args(["-c", make]).current_dir(secure.home.path()).output().unwrap();
    assert!(made.status.success() && files.join("debian/Packages").is_file(), "{}", String::from_utf8_lossy(&made.stderr));
    let server = secure.setup().start();
    let sandbox = server.sandbox(&json!({"network": "packages", "user": "root"}));
    assert_eq!(sandbox.get().expect(200).json()["network"], "packages");
    sandbox.write(b"/tmp/ca.pem", &std::fs::read(secure.home.path().join("ca.pem")).unwrap()).expect(200);
    let installed = sandbox.shell("PIP_CERT=/tmp/ca.pem REQUESTS_CA_BUNDLE=/tmp/ca.pem PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install -q --root-user-action=ignore --target /tmp/got caisson-greeting 2>&1 && PYTHONPATH=/tmp/got python3 -c 'import caisson_greeting'");
    assert!(installed.ends_with("hello from a wheel\n"), "{installed}");
    let apt = "set -e; mkdir -p /etc/apt/apt.conf.d /etc/apt/preferences.d /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers /var/lib/apt/lists/partial /var/cache/apt/archives/partial /var/log/apt\n\
        touch /var/lib/dpkg/status\n\
        echo 'deb [trusted=yes] https://deb.debian.org/debian ./' > /etc/apt/sources.list\n\
        echo 'Acquire::https::CAInfo \"/tmp/ca.pem\"; APT::Sandbox::User \"root\"; Acquire::Languages \"none\";' > /etc/apt/apt.conf.d/90test\n\
        apt-get -qq update 2>&1; apt-get -qq -y install caisson-greeting >/tmp/log 2>&1 || cat /tmp/log; cat /opt/greeting";
    let installed = sandbox.shell(apt);
    assert!(installed.ends_with("hello from apt\n"), "{installed}");
    for other in ["web.example", "secure.example", "plain.example"] {
        assert!(sandbox.shell(&format!("curl -sS http://{other}/ 2>&1")).contains("no rule of `allow` names it"), "{other}");
    }
    let here = secure.world.setup().env("CAISSON_EGRESS_PACKAGES", "mirror.example:8080,web.example").start();
    let sandbox = here.sandbox(&json!({"network": "packages"}));
    assert_eq!(sandbox.shell("curl -sS http://web.example/x"), format!("{WEB} /x "));
    assert!(
        sandbox.shell("curl -sS http://pypi.org/ 2>&1").contains("no rule of `allow` names it"),
        "the operator's mirrors take the place of all"
    );
    let ran =
        server.home().caisson(["run", "--net", "packages", "-l", "bash", "-c", "curl -sS -w '%{http_code}' http://example.org/"]).exited(0);
    assert!(ran.out().ends_with("403"), "{}", ran.out());
    let file = secure.home.path().join("policy.json");
    std::fs::write(&file, json!({"rules": [{"host": "example.org", "methods": ["POST"]}]}).to_string()).unwrap();
    let ran = server
        .home()
        .caisson(["run", "--net", &format!("@{}", file.display()), "-l", "bash", "-c", "curl -sS http://example.org/"])
        .exited(0);
    assert!(ran.out().contains("no rule of `rules` for `example.org` takes GET /"), "{}", ran.out());
}

#[test]
fn sessions_of_daiv_sandbox_have_rules_and_secrets() {
    let secure = Secure::new();
    let server = secure.setup().env("DAIV_SANDBOX_API_KEY", DAIV_KEY).start();
    let ask = |method: &str, target: &str, body: &Value| server.request(method, target).header("x-api-key", DAIV_KEY).json(body).send();
    let block = |value: &str| {
        json!({
            "policy": {"default": "deny", "intercept": "all", "rules": [{"host": "SECURE.example", "methods": ["get"], "inject": "gh"}]},
            "secrets": {"gh": {"header": "Authorization", "value": value}, "unused": {"header": "X-A", "value": "unused-value"}},
        })
    };
    let start = |fields: Value| {
        let mut body = json!({"base_image": "host"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let id = ask("POST", "/session/", &body).expect(200).json()["session_id"].as_str().unwrap().to_owned();
        format!("/session/{id}/")
    };
    let session = start(json!({"egress": block(SECRET), "environment": {"SSL_CERT_FILE": "/mine", "HTTP_PROXY": "mine", "OTHER": "5"}}));
    let run = |session: &str, line: &str| {
        ask("POST", session, &json!({"commands": [line]})).expect(200).json()["results"][0]["output"].as_str().unwrap().to_owned()
    };
    assert_eq!(run(&session, "echo $SSL_CERT_FILE $HTTP_PROXY $OTHER").trim(), "/etc/caisson/bundle.pem http://127.0.0.53:3128 5");
    assert_eq!(run(&session, "curl -sS https://secure.example/x").trim(), "GET /x 0");
    assert!(!run(&session, "env; curl -sS https://secure.example/echo").contains(TOKEN));
    for refused in ["-X POST https://secure.example/x", "https://plain.example/x", "http://web.example/"] {
        let answer = run(&session, &format!("curl -sS -i {refused} 2>&1"));
        let tunnel = refused.contains("plain") && answer.contains("403");
        assert!(
            tunnel
                || answer.contains(" 403 ")
                    && answer.contains("text/plain")
                    && answer.trim_end().ends_with("egress: destination not allowed"),
            "{refused}: {answer}"
        );
    }
    assert_eq!(ask("PUT", &format!("{session}egress/"), &block("Bearer second-token-77")).status, 204);
    assert_eq!(run(&session, "curl -sS https://secure.example/x").trim(), "GET /x 0");
    assert!(secure.requests().last().unwrap().contains("[Bearer second-token-77]"), "{:?}", secure.requests());
    let open =
        json!({"policy": {"default": "allow", "intercept": "credentialed", "rules": [{"host": "secure.example", "methods": ["GET"]}]}});
    assert_eq!(ask("PUT", &format!("{session}egress/"), &open).status, 204);
    assert_eq!(run(&session, "curl -sSk https://plain.example/x").trim(), "GET /x 0");
    assert!(
        run(&session, "curl -sS -X POST https://secure.example/x").contains("destination not allowed"),
        "who is listed is for those methods alone"
    );
    let told = |answer: Answer, status: u16, detail: &str| {
        assert!(answer.status == status && answer.json()["detail"] == detail, "{}", answer.text());
    };
    let none = start(json!({}));
    told(ask("PUT", &format!("{none}egress/"), &block(SECRET)), 409, "Session has no egress proxy; nothing to refresh");
    let public = start(json!({"network_enabled": true}));
    told(ask("PUT", &format!("{public}egress/"), &block(SECRET)), 409, "Session has no egress proxy; nothing to refresh");
    told(ask("PUT", "/session/00000000-0000-4000-8000-000000000000/egress/", &block(SECRET)), 404, "Session not found");
    for (bad, message) in [
        (json!({"policy": {"rules": [{"host": "a.b", "inject": "x"}]}}), "Value error, rule for host 'a.b' references unknown secret 'x'"),
        (json!({"policy": {"default": "deny"}}), "Value error, "),
        (json!({"policy": {"default": "allow"}, "secrets": {"a": {"header": "A B", "value": TOKEN}}}), "Value error, "),
        (json!({"policy": {"default": "allow"}, "secrets": {"a": {"header": "A", "value": format!("{TOKEN}\r\nX: y")}}}), "Value error, "),
        (json!({"policy": {"default": "allow"}, "secrets": {"a": TOKEN}}), "Input should be "),
    ] {
        let answer = ask("PUT", &format!("{session}egress/"), &bad);
        let text = answer.text();
        assert!(answer.status == 422 && text.contains(message) && !text.contains(TOKEN), "{bad}: {text}");
    }
    assert!(!contains(&server.records(), TOKEN.as_bytes()) && !contains(&server.records(), b"unused-value"));
}
