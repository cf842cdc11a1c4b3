//! Ways out of a sandbox, with real clients inside and real servers outside: on addresses that are the host's own for the time of a test, and
//! with names from a name server that changes its mind.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use caisson_tests::{Home, Sandbox, Server, Setup, Value, eventually, json, make_certificates, make_certificates_of, needs};

#[path = "egress/intercepted.rs"]
mod intercepted;

/// Where the servers are. The first half of it is open to sandboxes.
const RANGE: &str = "10.70.0.1/24";
/// Those that are this machine's have to be named one by one.
const OPENED: &str = "10.70.0.0/25,10.70.0.10,10.70.0.11,10.70.0.12,10.70.0.53";
const WEB: &str = "10.70.0.10";
const OTHER: &str = "10.70.0.11";
const ECHO: &str = "10.70.0.12";
const NAMES: &str = "10.70.0.53";
/// In the other half.
const CLOSED: &str = "10.70.0.200";
/// Some that would be public, were they not the host's own; only the first one is what the host sends from.
const OWN: &str = "198.20.0.1/29";
const DAIV_KEY: &str = "key-of-daiv-0123456789";
const BOXED_KEY: &str = "key-of-boxed-0123456789";
const WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at whether a server is to stop.
const LOOKS_EVERY: Duration = Duration::from_millis(20);

/// Addresses of the host, for as long as this is there.
struct Addresses;

impl Addresses {
    fn add() -> Self {
        needs("ip", "iproute2");
        for address in [RANGE, OWN] {
            assert!(ip(&["addr", "add", address, "dev", "lo"]), "cannot add {address}");
        }
        Self
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        for address in [RANGE, OWN] {
            ip(&["addr", "del", address, "dev", "lo"]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).stderr(Stdio::null()).status().expect("ip can be started").success()
}

/// The world outside.
struct World {
    /// What each name is, in the order in which it is asked for; the last stays.
    names: Arc<Mutex<HashMap<String, Vec<Vec<IpAddr>>>>>,
    /// Requests that have come to web servers, by their address.
    requests: Arc<Mutex<Vec<(String, String)>>>,
    /// Connections to them.
    connections: Arc<AtomicU64>,
    tls: Option<(Child, Home)>,
    /// Its servers, and whether they are to stop.
    servers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    _addresses: Addresses,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.tls.take() {
            child.kill().ok();
            child.wait().ok();
        }
        self.stop.store(true, Ordering::Relaxed);
        self.servers.drain(..).for_each(|server| server.join().unwrap());
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            names: Arc::default(),
            requests: Arc::default(),
            connections: Arc::default(),
            tls: None,
            servers: Vec::new(),
            stop: Arc::default(),
            _addresses: Addresses::add(),
        };
        world.answer_names();
        for address in [WEB, OTHER, CLOSED, "198.20.0.1"] {
            world.serve(address);
        }
        world.echo();
        for (name, address) in
            [("web.example", WEB), ("a.wild.example", WEB), ("other.example", OTHER), ("echo.example", ECHO), ("shared.example", WEB)]
        {
            world.name(name, &[&[address]]);
        }
        world
    }

    /// With a server of TLS.
    fn with_tls() -> Self {
        let mut world = Self::new();
        let home = Home::new();
        make_certificates(&home);
        let code = format!(
            "import http.server, ssl\n\
             class H(http.server.BaseHTTPRequestHandler):\n\
             \x20 protocol_version = 'HTTP/1.1'\n\
             \x20 def do_GET(self):\n\
             \x20  self.send_response(200); self.send_header('Content-Length', '6'); self.end_headers(); self.wfile.write(b'secret')\n\
             \x20 def log_message(self, *a): pass\n\
             s = http.server.ThreadingHTTPServer(('{WEB}', 443), H)\n\
             c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('cert.pem', 'key.pem')\n\
             s.socket = c.wrap_socket(s.socket, server_side=True)\n\
             print('ready', flush=True)\n\
             s.serve_forever()"
        );
        let mut child = home.clean("python3").args(["-c", &code]).current_dir(home.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        world.tls = Some((child, home));
        world
    }

    fn name(&self, name: &str, answers: &[&[&str]]) {
        let answers = answers.iter().map(|answer| answer.iter().map(|address| address.parse().unwrap()).collect()).collect();
        self.names.lock().unwrap().insert(name.to_owned(), answers);
    }

    fn answer_names(&mut self) {
        let socket = UdpSocket::bind((NAMES, 53)).expect("port 53 of the test's own address is free");
        socket.set_read_timeout(Some(LOOKS_EVERY)).unwrap();
        let (names, stop) = (Arc::clone(&self.names), Arc::clone(&self.stop));
        self.servers.push(thread::spawn(move || {
            let mut question = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                let Ok((count, from)) = socket.recv_from(&mut question) else { continue };
                if let Some(answer) = answer(&question[..count], &names) {
                    socket.send_to(&answer, from).ok();
                }
            }
        }));
    }

    /// Listens, and leaves each connection to a thread of its own.
    fn listen(&mut self, address: &str, port: u16, each: impl Fn(&TcpStream) + Clone + Send + 'static) {
        let listener = TcpListener::bind((address, port)).expect("the port of the test's own address is free");
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::clone(&self.stop);
        self.servers.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let each = each.clone();
                thread::spawn(move || each(&stream));
            }
        }));
    }

    /// Whatever is asked, it says who it is; `/redirect` leads to where the query says.
    fn serve(&mut self, address: &'static str) {
        let (requests, connections) = (Arc::clone(&self.requests), Arc::clone(&self.connections));
        self.listen(address, 80, move |stream| {
            connections.fetch_add(1, Ordering::Relaxed);
            speak(address, stream, &requests);
        });
    }

    /// A server that speaks first, and then says what it hears.
    fn echo(&mut self) {
        self.listen(ECHO, 7000, |stream| {
            let (mut from, mut to) = (stream, stream);
            to.write_all(b"hello\n").ok();
            std::io::copy(&mut from, &mut to).ok();
            stream.shutdown(Shutdown::Write).ok();
        });
    }

    fn requests(&self) -> Vec<(String, String)> {
        self.requests.lock().unwrap().clone()
    }

    /// A server whose sandboxes may go out into this world.
    fn server(&self) -> Server {
        self.setup().start()
    }

    fn setup(&self) -> Setup {
        Setup::default().env("CAISSON_EGRESS", "on").env("CAISSON_EGRESS_ADDRESSES", OPENED).env("CAISSON_DNS", NAMES)
    }
}

/// The answer of the name server.
fn answer(question: &[u8], names: &Mutex<HashMap<String, Vec<Vec<IpAddr>>>>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while *question.get(at)? != 0 {
        let length = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes(question.get(at + 1..at + 3)?.try_into().ok()?);
    let end = at + 5;
    let mut names = names.lock().unwrap();
    let known = names.get_mut(&labels.join("."));
    let code = if known.is_some() { 0 } else { 3 };
    let addresses: Vec<IpAddr> = match known {
        // It changes its mind about IPv4 addresses.
        Some(answers) if kind == 1 => {
            if answers.len() > 1 {
                answers.remove(0)
            } else {
                answers[0].clone()
            }
        }
        Some(answers) => answers[0].clone(),
        None => Vec::new(),
    };
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter(|address| address.is_ipv4() == (kind == 1))
        .map(|address| {
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            [&[0xC0, 12][..], &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 0], &(octets.len() as u16).to_be_bytes(), &octets].concat()
        })
        .collect();
    let head = [&question[..2], &[0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]].concat();
    Some([&head[..], &question[12..end], &records.concat()].concat())
}

fn speak(address: &str, stream: &TcpStream, requests: &Mutex<Vec<(String, String)>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok();
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        requests.lock().unwrap().push((address.to_owned(), head));
        let mut stream = stream;
        let said = match target.strip_prefix("/redirect?") {
            Some(to) => format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"),
            None => {
                let body = format!("{address} {target} {}", String::from_utf8_lossy(&body));
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            }
        };
        if stream.write_all(said.as_bytes()).is_err() {
            return;
        }
        // It leaves the connection open, whatever it was asked.
    }
}

fn hexadecimal(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends bytes to the proxy and prints all that comes back.
fn to_proxy(sandbox: &Sandbox<'_>, bytes: &str) -> String {
    let code = "import socket, sys\n\
                s = socket.create_connection(('127.0.0.53', 3128), 20); s.settimeout(20)\n\
                s.sendall(bytes.fromhex(sys.argv[1]))\n\
                out = b''\n\
                try:\n\
                \x20while True:\n\
                \x20 d = s.recv(65536)\n\
                \x20 if not d: break\n\
                \x20 out += d\n\
                except ConnectionResetError: out += b'<reset>'\n\
                print(out.decode('latin-1'), end='')";
    said(sandbox, &json!({"cmd": ["python3", "-c", code, hexadecimal(bytes)]}))
}

/// Connects without the proxy and says what becomes of it.
fn direct(sandbox: &Sandbox<'_>, to: &str, port: u16, bytes: &str) -> String {
    let code = "import errno, socket, sys\n\
                try:\n\
                \x20s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20); s.settimeout(20)\n\
                \x20s.sendall(bytes.fromhex(sys.argv[3]))\n\
                \x20if sys.argv[3]: s.shutdown(socket.SHUT_WR)\n\
                \x20out = b''\n\
                \x20while True:\n\
                \x20 d = s.recv(65536)\n\
                \x20 if not d: break\n\
                \x20 out += d\n\
                \x20print(out.decode('latin-1'), end='')\n\
                except (ConnectionResetError, BrokenPipeError): print('cut', end='')\n\
                except OSError as e: print('cut' if e.errno == errno.ENOTCONN else type(e).__name__, end='')";
    said(sandbox, &json!({"cmd": ["python3", "-c", code, to, port.to_string(), hexadecimal(bytes)]}))
}

#[track_caller]
fn said(sandbox: &Sandbox<'_>, body: &Value) -> String {
    let result = sandbox.exec(body);
    assert_eq!(result["exit_code"], 0, "{result:#}");
    result["stdout"].as_str().unwrap().to_owned()
}

fn report(sandbox: &Sandbox<'_>) -> Value {
    sandbox.request("GET", "/egress").send().expect(200).json()
}

/// The latest decision about a host.
#[track_caller]
fn decision(sandbox: &Sandbox<'_>, host: &str) -> Value {
    eventually(&format!("a decision about {host}"), WITHIN, || {
        report(sandbox)["decisions"].as_array().unwrap().iter().find(|decision| decision["host"] == host).cloned()
    })
}

#[test]
fn r3_2_an_allowed_host_is_reached_by_every_way() {
    let world = World::with_tls();
    let server = world.server();
    let sandbox = server.sandbox(&json!({"network": {"allow": ["WEB.example.", "*.wild.example", "echo.example:7000"]}}));
    assert_eq!(sandbox.get().expect(200).json()["network"], json!({"allow": ["web.example", "*.wild.example", "echo.example:7000"]}));
    let (web, wild) = (format!("{WEB} /x "), format!("{WEB} / "));
    assert_eq!(sandbox.shell("curl -sS http://web.example/x"), web, "through the proxy");
    assert_eq!(sandbox.shell("curl -sS --noproxy '*' http://web.example/x"), web, "redirected");
    assert_eq!(sandbox.shell("curl -sS http://A.wild.EXAMPLE./"), wild);
    assert_eq!(sandbox.shell("curl -sSk https://web.example/"), "secret", "through the proxy");
    assert_eq!(sandbox.shell("curl -sSk --noproxy '*' https://web.example/"), "secret", "redirected");
    assert_eq!(sandbox.shell("curl -sS -d 12345 http://web.example/x"), format!("{web}12345"));
    assert_eq!(sandbox.shell("head -c 100000 /dev/zero | tr '\\0' a | curl -sS -H 'Transfer-Encoding: chunked' -H 'Expect:' --data-binary @- http://a.wild.example/ -o /dev/null -w '%{http_code}'").as_str(), "200");
    // With its length, so that the server reads it to its end.
    assert_eq!(sandbox.shell("head -c 20000 /dev/zero | tr '\\0' a | curl -sS -H 'Expect:' --data-binary @- http://a.wild.example/ -o /dev/null -w '%{http_code}'").as_str(), "200");
    assert_eq!(sandbox.python("import urllib.request as r; print(r.urlopen('http://web.example/x').read().decode(), end='')"), web);
    assert_eq!(direct(&sandbox, "echo.example", 7000, "abc\n"), "hello\nabc\n", "a protocol in which the server speaks first");
    let connect = "CONNECT echo.example:7000 HTTP/1.1\r\nHost: echo.example:7000\r\n\r\n";
    let code = format!(
        "import socket\ns = socket.create_connection(('127.0.0.53', 3128)); s.sendall({connect:?}.encode())\n\
         f = s.makefile('rb')\nwhile f.readline() != b'\\r\\n': pass\nprint(f.readline().decode(), end='')\ns.sendall(b'x\\n')\nprint(f.readline().decode(), end='')"
    );
    assert_eq!(sandbox.python(&code), "hello\nx\n");
    let told = report(&sandbox);
    assert!(told["allowed"].as_u64().unwrap() >= 10 && told["redirects"] == true, "{told:#}");
    assert!(told["bytes_out"].as_u64().unwrap() > 10_000 && told["bytes_in"].as_u64().unwrap() > 100, "{told:#}");
    assert_eq!(decision(&sandbox, "echo.example")["allowed"], true);
    eventually("the end of all connections", WITHIN, || (report(&sandbox)["open"] == 0).then_some(()));
    let metrics = server.get("/metrics").expect(200).text();
    assert!(metrics.contains("egress_decisions_total{outcome=\"allowed\"}"), "{metrics}");
}

#[test]
fn r3_2_what_no_rule_names_is_refused_by_every_way() {
    let world = World::with_tls();
    let server = world.server();
    let sandbox = server.sandbox(&json!({"network": {"allow": ["web.example", "*.wild.example"], "deny": ["bad.wild.example"]}}));
    world.name("bad.wild.example", &[&[WEB]]);
    let answer = sandbox.shell("curl -sS -w '%{http_code}' http://other.example/");
    assert!(answer.starts_with("caisson: other.example:80: no rule of `allow` names it") && answer.ends_with("403"), "{answer}");
    assert_eq!(decision(&sandbox, "other.example")["code"], "not_allowed");
    assert_eq!(sandbox.shell("curl -sSk -w '%{http_connect}' https://other.example/ 2>/dev/null || true"), "403");
    let answer = sandbox.shell("curl -sS http://bad.wild.example/");
    assert!(answer.contains("rule `deny bad.wild.example`"), "{answer}");
    // The port was not spelled out.
    assert!(
        sandbox.shell("curl -sS http://web.example:8080/").contains("403")
            || sandbox.shell("curl -sS http://web.example:8080/").contains("no rule")
    );
    // Nobody finds its address, and who knows it comes no further.
    assert_eq!(direct(&sandbox, "other.example", 80, "x"), "gaierror");
    assert_eq!(direct(&sandbox, "bad.wild.example", 80, "x"), "gaierror");
    assert_eq!(direct(&sandbox, OTHER, 80, "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n"), "cut");
    assert_eq!(direct(&sandbox, WEB, 22, "x"), "cut");
    let refused = "import socket\n\
         q = bytes.fromhex('abcd01000001000000000000') + b'\\x05other\\x07example\\x00' + bytes.fromhex('00010001')\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20); s.sendto(q, ('127.0.0.53', 53)); print(s.recv(512)[3] & 15)\n\
         t = socket.create_connection(('127.0.0.53', 53)); t.sendall(len(q).to_bytes(2, 'big') + q); print(t.recv(512)[5] & 15)";
    assert_eq!(sandbox.python(refused), "5\n5\n", "REFUSED");
    assert!(world.requests().is_empty(), "{:?}", world.requests());
}

#[test]
fn r3_2_no_form_of_an_address_leads_where_it_may_not() {
    let world = World::new();
    let server = world.server();
    let sandbox = server.sandbox(&json!({"network": "public"}));
    let port = server.client.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "017700000001",
        "0x7f.0.0.1",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
        "169.254.170.2",
        "100.64.0.1",
        "10.0.0.1",
        "192.168.0.1",
        "172.16.0.1",
        CLOSED,
        "198.20.0.1",
        "198.20.0.2",
        "10.70.0.13",
        "224.0.0.1",
        "255.255.255.255",
        "[fe80::1]",
        "[ff02::1]",
        "[fe80::1%25lo]",
        "user@10.0.0.1",
        "127.0.0.1%00.web.example",
        "web.example@127.0.0.1",
        "127。0。0。1",
        "①②⑦.0.0.1",
    ] {
        for target in [
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n"),
            format!("GET http://{host}:{port}/healthz HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"),
        ] {
            let answer = to_proxy(&sandbox, &target);
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(["400", "403", "502"].contains(&status), "{host}: {answer}");
            assert!(status != "502" || host.to_lowercase().starts_with("localhost"), "{host}: {answer}");
        }
    }
    for address in [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "10.0.0.1",
        CLOSED,
        "198.20.0.1",
        "198.20.0.2",
        "10.70.0.13",
        "fd00:ec2::254",
        "fe80::1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
    ] {
        for port in [80, port] {
            let outcome = direct(&sandbox, address, port, "x");
            assert!(["cut", "OSError", "ConnectionRefusedError"].contains(&outcome.as_str()), "{address}: {outcome}");
        }
    }
    assert_eq!(decision(&sandbox, "198.20.0.1")["code"], if port == 80 { "own_address" } else { "port" });
    assert!(to_proxy(&sandbox, "GET http://198.20.0.1/ HTTP/1.1\r\nHost: 198.20.0.1\r\n\r\n").contains("an address of the server's own"));
    // The loopback of the sandbox is its own.
    assert_eq!(direct(&sandbox, "127.0.0.1", port, ""), "ConnectionRefusedError");
    assert_eq!(world.connections.load(Ordering::Relaxed), 0);
}

#[test]
fn r3_2_a_name_that_changes_its_mind_leads_nowhere_else() {
    let world = World::new();
    let server = world.server();
    let sandbox = server.sandbox(&json!({"network": {"allow": ["rebind.example", "mixed.example", "web.example"]}}));
    for elsewhere in [CLOSED, "127.0.0.1", "169.254.169.254", "198.20.0.1", "::1", "::ffff:127.0.0.1"] {
        world.name("rebind.example", &[&[WEB], &[elsewhere]]);
        assert_eq!(sandbox.shell("curl -sS http://rebind.example/"), format!("{WEB} / "));
        let answer = sandbox.shell("curl -sS -w '%{http_code}' http://rebind.example/");
        assert!(answer.ends_with("403"), "{elsewhere}: {answer}");
        assert_eq!(direct(&sandbox, "rebind.example", 80, "x"), "gaierror", "{elsewhere}");
    }
    world.name("mixed.example", &[&[CLOSED, WEB, "127.0.0.1"]]);
    assert_eq!(sandbox.shell("curl -sS http://mixed.example/"), format!("{WEB} / "));
    assert_eq!(sandbox.shell("curl -sS --noproxy '*' http://mixed.example/"), format!("{WEB} / "));
    // A redirection is a request like any.
    for to in ["http://169.254.169.254/", "http://127.0.0.1/", "http://other.example/", &format!("http://{CLOSED}/")] {
        let answer = sandbox.shell(&format!("curl -sSL --noproxy '' -w '%{{http_code}}' 'http://web.example/redirect?{to}'"));
        assert!(answer.ends_with("403"), "{to}: {answer}");
    }
    assert!(world.requests().iter().all(|(address, _)| address == WEB));
}

#[test]
fn r3_2_what_is_said_on_a_connection_is_for_the_host_that_it_was_allowed_for() {
    let world = World::with_tls();
    let server = world.server();
    let sandbox = server.sandbox(&json!({"network": {"allow": ["web.example"]}}));
    let tls = |name: &str, by_proxy: bool| {
        let connect = if by_proxy {
            "s = socket.create_connection(('127.0.0.53', 3128)); s.sendall(b'CONNECT web.example:443 HTTP/1.1\\r\\nHost: web.example:443\\r\\n\\r\\n')\nassert b' 200 ' in s.recv(4096)"
        } else {
            "s = socket.create_connection(('web.example', 443))"
        };
        sandbox.python(&format!(
            "import socket, ssl\n{connect}\nc = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE\n\
             try:\n t = c.wrap_socket(s, server_hostname={name}); t.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n'); print(t.recv(100)[:15].decode())\n\
             except (OSError, ssl.SSLError) as e: print('cut')"
        ))
    };
    for by_proxy in [true, false] {
        assert_eq!(tls("'web.example'", by_proxy), "HTTP/1.1 200 OK\n");
        assert_eq!(tls("'WEB.example'", by_proxy), "HTTP/1.1 200 OK\n");
        assert_eq!(tls("None", by_proxy), "HTTP/1.1 200 OK\n");
        assert_eq!(tls("'shared.example'", by_proxy), "cut\n");
        assert_eq!(decision(&sandbox, "web.example")["code"], "mismatch");
    }
    let before = world.requests().len();
    let tunnel = |said: &str| to_proxy(&sandbox, &format!("CONNECT web.example:80 HTTP/1.1\r\nHost: web.example:80\r\n\r\n{said}"));
    assert!(tunnel("GET /fine HTTP/1.1\r\nHost: web.example\r\n\r\n").contains(&format!("{WEB} /fine")));
    for said in [
        "GET /x HTTP/1.1\r\nHost: shared.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: web.example\r\nHost: shared.example\r\n\r\n",
        "GET http://shared.example/x HTTP/1.1\r\nHost: web.example\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.0\r\n\r\n",
        "\r\nGET /x HTTP/1.1\r\nHost: shared.example\r\n\r\n",
        "GET /x HTTP/1.1\nHost: shared.example\n\n",
        "GET /x HTTP/1.1\r\nHost : shared.example\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /x\r\n",
    ] {
        let answer = tunnel(said);
        let outcome = answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned() + answer.split("\r\n\r\n").nth(2).unwrap_or_default();
        assert!(
            outcome.is_empty() || outcome.contains(" 400 ") || outcome.contains(" 403 ") || outcome.contains("<reset>"),
            "{said:?}: {answer}"
        );
        let answer = direct(&sandbox, WEB, 80, said);
        assert!(!answer.contains(" 200 "), "{said:?}: {answer}");
    }
    assert_eq!(world.requests().len(), before + 1, "{:?}", world.requests());
}

#[test]
fn r3_2_nothing_is_smuggled_behind_a_request() {
    let world = World::new();
    let server = world.server();
    let sandbox = server.sandbox(&json!({"network": {"allow": ["web.example"]}}));
    let answer = to_proxy(
        &sandbox,
        "GET http://web.example/first HTTP/1.1\r\nHost: web.example\r\n\r\nGET http://other.example/second HTTP/1.1\r\nHost: other.example\r\n\r\n",
    );
    assert!(answer.contains("/first") && answer.contains("Connection: close") && !answer.contains("/second"), "{answer}");
    let body = "0\r\n\r\nGET /second HTTP/1.1\r\nHost: web.example\r\n\r\n";
    for framing in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
        format!("Content-Length: {}\r\nContent-Length: 0\r\n", body.len()),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        " Transfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Content-Length: -1\r\n".to_owned(),
    ] {
        let answer = to_proxy(&sandbox, &format!("POST http://web.example/x HTTP/1.1\r\nHost: web.example\r\n{framing}\r\n{body}"));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{framing}: {answer}");
    }
    // With a length that holds, it is all a body; with chunks, what is behind them goes nowhere.
    to_proxy(
        &sandbox,
        &format!("POST http://web.example/one HTTP/1.1\r\nHost: web.example\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
    );
    to_proxy(&sandbox, &format!("POST http://web.example/two HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
    for malformed in [
        "CONNECT web.example HTTP/1.1\r\n\r\n",
        "HELO\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n",
        "\r\n\r\n",
        "CONNECT web.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n",
    ] {
        assert!(to_proxy(&sandbox, malformed).starts_with("HTTP/1.1 400 "), "{malformed:?}");
    }
    let targets: Vec<String> = world.requests().into_iter().filter_map(|(_, head)| Some(head.split(' ').nth(1)?.to_owned())).collect();
    assert_eq!(targets, ["/first", "/one", "/two"]);
}

#[test]
fn r3_3_nothing_gets_out_beside_the_ways_out() {
    let world = World::new();
    let server = world.server();
    let sandbox = server.sandbox(&json!({"network": {"allow": []}, "user": "root"}));
    assert!(sandbox.shell("curl -sS http://web.example/").contains("no rule of `allow` names it"), "an empty list denies");
    assert_eq!(direct(&sandbox, WEB, 80, "x"), "cut");
    let watched = UdpSocket::bind((WEB, 9000)).unwrap();
    watched.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let probe = format!(
        "import socket\n\
         def attempt(what, f):\n\
         \x20try: print(what, f())\n\
         \x20except OSError as e: print(what, 'no')\n\
         def udp():\n\
         \x20s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2); s.connect(('{WEB}', 9000)); s.send(b'x'); return s.recv(1)\n\
         attempt('udp', udp)\n\
         attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))\n\
         attempt('icmp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))\n\
         attempt('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))\n\
         attempt('netlink', lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))\n\
         def dns():\n\
         \x20s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2); s.connect(('{NAMES}', 53)); s.send(b'x' * 20); return s.recv(1)\n\
         attempt('dns of others', dns)"
    );
    assert_eq!(sandbox.python(&probe), "udp no\nraw no\nicmp no\npacket no\nnetlink no\ndns of others no\n");
    assert!(watched.recv(&mut [0; 10]).is_err(), "a datagram came out");
    assert_eq!(world.connections.load(Ordering::Relaxed), 0);
    // Whoever listens in the sandbox gets nothing of what is for others, and the agent's sockets are for nobody to take.
    let pose = format!(
        "import socket, threading\n\
         l = socket.socket(); l.bind(('0.0.0.0', 80)); l.listen(); l.settimeout(2)\n\
         s = socket.socket()\n\
         try: s.connect(('{WEB}', 80)); s.recv(1)\n\
         except OSError as e: print(type(e).__name__)\n\
         try: print('taken', l.accept())\n\
         except OSError as e: print('nothing')\n\
         for a in [('127.0.0.53', 3128), ('127.0.0.53', 53)]:\n\
         \x20s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
         \x20try: s.bind(a); s.listen(); print('posed')\n\
         \x20except OSError: print('no')"
    );
    assert_eq!(sandbox.python(&pose), "ConnectionResetError\nnothing\nno\nno\n");
}

#[test]
fn r3_3_what_cannot_be_enforced_is_not_launched() {
    let closed = Server::start();
    for network in [json!("public"), json!({"allow": ["a.example"]}), json!({"allow": []})] {
        for path in ["/v1/sandboxes", "/v1/run"] {
            let mut body = json!({"network": network});
            if path == "/v1/run" {
                body["shell"] = json!("true");
            }
            let answer = closed.request("POST", path).json(&body).send();
            let error = &answer.json()["error"];
            assert!(answer.status >= 400 && error["message"].as_str().unwrap().contains("CAISSON_EGRESS=on"), "{}", answer.text());
        }
    }
    let none = closed.sandbox(&json!({}));
    assert_eq!(direct(&none, "127.0.0.53", 3128, ""), "ConnectionRefusedError", "there is nothing of it");
    assert_eq!(direct(&none, "8.8.8.8", 80, ""), "OSError");
    assert_eq!(none.shell("env | grep -ci proxy || true"), "0\n");
    assert_eq!(report(&none)["network"], "none");
    closed.finish();

    let world = World::new();
    let server = world.server();
    for (network, word) in [
        (json!({"allow": ["10.99.0.0/16"]}), "CAISSON_EGRESS_ADDRESSES"),
        (json!({"allow": ["169.254.169.254"]}), "CAISSON_EGRESS_ADDRESSES"),
        (json!({"allow": ["http://a.example"]}), "rule"),
        (json!({"allow": ["a.example:0"]}), "port"),
        (json!({"allow": ["0x7f000001"]}), "range"),
        (json!({"permit": ["a"]}), "permit"),
        (json!("all"), "`none`"),
        (json!(7), "network"),
    ] {
        let answer = server.post("/v1/sandboxes", &json!({"network": network}));
        assert!(answer.status == 400 && answer.text().contains(word), "{network}: {}", answer.text());
    }
    let sandbox = server.sandbox(&json!({}));
    let late = sandbox.request("PATCH", "").json(&json!({"network": "public"})).send();
    assert!(late.status == 409 && late.text().contains("made without a network"), "{}", late.text());
    assert_eq!(sandbox.request("PATCH", "").json(&json!({"network": "none"})).send().expect(200).json()["network"], "none");
}

#[test]
fn a_policy_is_changed_while_a_sandbox_lives() {
    let world = World::new();
    let server = world.server();
    let sandbox = server.sandbox(&json!({"network": {"allow": ["echo.example:7000", "10.70.0.10:80"]}}));
    assert_eq!(
        direct(&sandbox, WEB, 80, "GET /y HTTP/1.1\r\nHost: whoever\r\n\r\n").lines().last().unwrap(),
        format!("{WEB} /y "),
        "an address that is spelled out"
    );
    let code = "import socket\ns = socket.create_connection(('echo.example', 7000)); f = s.makefile('rb'); print(f.readline(), flush=True)\ntry: print(f.readline())\nexcept ConnectionResetError: print('cut')";
    let id = sandbox.background(json!({"language": "python", "code": code, "timeout_s": null}));
    eventually("an open connection", WITHIN, || (report(&sandbox)["open"] == 1).then_some(()));
    // What still stands stays.
    sandbox.request("PATCH", "").json(&json!({"network": {"allow": ["echo.example:7000"]}})).send().expect(200);
    assert_eq!(direct(&sandbox, WEB, 80, "x"), "cut");
    assert_eq!(report(&sandbox)["open"], 1);
    let changed = sandbox.request("PATCH", "").json(&json!({"network": "none"})).send().expect(200).json();
    assert_eq!(changed["network"], "none");
    let ended = server.ended(&id, WITHIN);
    assert!(ended["stdout"].as_str().is_none_or(|text| text.contains("cut")), "{ended:#}");
    assert!(sandbox.shell("curl -sS http://web.example/").contains("the sandbox has no network"));
    assert_eq!(
        sandbox.request("PATCH", "").json(&json!({"network": {"allow": ["web.example"]}})).send().expect(200).json()["network"],
        json!({"allow": ["web.example"]})
    );
    assert_eq!(sandbox.shell("curl -sS http://web.example/"), format!("{WEB} / "));
    let events = server.get("/v1/events").text();
    assert!(events.matches("sandbox.updated").count() >= 3, "{events}");
    // The record has it.
    assert_eq!(sandbox.get().expect(200).json()["network"], json!({"allow": ["web.example"]}));
}

#[test]
fn connections_are_bounded_and_a_slow_one_holds_nobody_up() {
    let world = World::new();
    let server = world.server();
    let sandbox = server.sandbox(
        &json!({"network": {"allow": ["echo.example:7000", "web.example"]}, "limits": {"open_files": 4096, "memory_bytes": 1 << 30}}),
    );
    let code = "import socket\n\
        open_, refused = [], 0\n\
        for n in range(1100):\n\
        \x20s = socket.create_connection(('echo.example', 7000)); s.settimeout(20)\n\
        \x20try:\n\
        \x20 if s.recv(6) == b'hello\\n': open_.append(s)\n\
        \x20 else: refused += 1\n\
        \x20except ConnectionResetError: refused += 1\n\
        print(len(open_), refused)\n\
        for s in open_: s.close()\n\
        s = socket.create_connection(('echo.example', 7000)); s.sendall(b'y' * 10_000_000); print(s.recv(6))";
    let result = sandbox.exec(&json!({"language": "python", "code": code, "timeout_s": 120}));
    assert!(result["stdout"].as_str().unwrap().starts_with("1000 100\n"), "{result:#}");
    assert_eq!(sandbox.shell("curl -sS http://web.example/"), format!("{WEB} / "));
    eventually("the end of all connections", WITHIN, || (report(&sandbox)["open"] == 0).then_some(()));
}

#[test]
fn people_and_other_systems_ask_for_a_network_in_their_words() {
    let world = World::new();
    let server = world.setup().env("DAIV_SANDBOX_API_KEY", DAIV_KEY).env("BOXED_API_KEY", BOXED_KEY).start();
    let out = |arguments: &[&str]| {
        let ran = server.command(arguments).output().unwrap();
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    let id = out(&["new", "--net", "allow:web.example,echo.example:7000"]);
    let id = id.trim();
    assert_eq!(out(&["exec", id, "--", "curl", "-sS", "http://web.example/"]), format!("{WEB} / "));
    out(&["exec", id, "--", "curl", "-sS", "http://other.example/"]);
    let shown = out(&["egress", "show", id]);
    assert!(
        shown.starts_with("allow:web.example,echo.example:7000, through the proxy or without\n")
            && shown.contains("no rule of `allow` names it"),
        "{shown}"
    );
    out(&["egress", "set", id, "allow:other.example"]);
    assert_eq!(out(&["exec", id, "--", "curl", "-sS", "http://other.example/"]), format!("{OTHER} / "));
    let here = server
        .home()
        .caisson(["run", "--net", "public", "-l", "bash", "-c", "curl -sS -w '%{http_code}' http://169.254.169.254/"])
        .exited(0);
    assert!(here.out().contains("169.254.169.254 is a metadata service") && here.out().ends_with("403"), "{}", here.out());
    let wrong = server.home().caisson(["run", "--net", "everything", "-l", "bash", "-c", "true"]);
    assert!(wrong.err().contains("`public`"), "{}", wrong.err());

    let key = ("x-api-key", DAIV_KEY);
    let session = server
        .request("POST", "/session/")
        .header(key.0, key.1)
        .json(&json!({"base_image": "host", "network_enabled": true}))
        .send()
        .expect(200);
    let id = session.json()["session_id"].as_str().unwrap().to_owned();
    let ran = server
        .request("POST", &format!("/session/{id}/"))
        .header(key.0, key.1)
        .json(&json!({"commands": ["curl -sS http://web.example/"]}))
        .send()
        .expect(200);
    assert!(ran.text().contains(WEB), "{}", ran.text());

    let mut boxed = server.client.clone();
    boxed.key = None;
    let create = |policy: Value| {
        boxed
            .request("POST", "/v1/sandbox")
            .header("x-boxed-api-key", BOXED_KEY)
            .json(&json!({"template": "host", "network_policy": policy}))
            .send()
    };
    let made = create(json!({"enable_internet": true, "allow_domains": ["web.example"]}));
    assert_eq!(made.status, 201, "{}", made.text());
    let both = create(json!({"enable_internet": false, "allow_domains": ["a.b"]}));
    assert!(both.status == 400 && both.text().contains("network_policy"), "{}", both.text());
    let listed = boxed.request("GET", "/v1/sandbox").header("x-boxed-api-key", BOXED_KEY).send().expect(200).text();
    assert!(listed.contains("\"enable_networking\":true") && listed.contains("web.example"), "{listed}");
}
