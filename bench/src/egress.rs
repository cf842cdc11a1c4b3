//! Requests over TLS out of a sandbox: by a tunnel, and with TLS that is taken apart, beside the same client on the host.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    figures::{Figures, heading, promise, row},
    server::Server,
};

/// Requests of one round.
const REQUESTS: usize = 30;

const CERTIFICATES: &str = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=authority \
    && openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost \
    && printf 'subjectAltName=DNS:localhost\\nbasicConstraints=CA:FALSE\\n' > extensions \
    && openssl x509 -req -days 2 -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions -out cert.pem";

const HOST: &str = "
import http.server, ssl
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    def do_GET(self): self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('cert.pem', 'key.pem')
s.socket = c.wrap_socket(s.socket, server_side=True, do_handshake_on_connect=False)
print(s.server_port, flush=True)
s.serve_forever()";

/// Prints how long each request took in nanoseconds: with a connection of its own, and on one that is kept.
const CLIENT: &str = "
import http.client, json, ssl, sys, time
port, count, proxy = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context()
def connect():
    if not proxy: return http.client.HTTPSConnection('localhost', port, context=context)
    c = http.client.HTTPSConnection(proxy, 3128, context=context); c.set_tunnel('localhost', port); return c
def ask(c):
    begin = time.perf_counter_ns(); c.request('GET', '/'); assert c.getresponse().read() == b'ok'; return time.perf_counter_ns() - begin
def once():
    c = connect(); taken = ask(c); c.close(); return taken
once(); fresh = [once() for _ in range(count)]
c = connect(); ask(c); print(json.dumps([fresh, [ask(c) for _ in range(count)]]))";

/// Ends with the benchmark.
struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            drop(self.0.wait());
        }
    }
}

pub(crate) fn requests(program: &Path, directory: &Path, rounds: usize) -> Result<()> {
    let directory = directory.join("egress");
    fs::create_dir_all(&directory)?;
    let python = |code: &str| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", code]).current_dir(&directory).stdin(Stdio::null());
        command
    };
    if !Command::new("sh").args(["-c", CERTIFICATES]).current_dir(&directory).stderr(Stdio::null()).status()?.success() {
        bail!("openssl makes no certificates");
    }
    let mut host = Host(python(HOST).stdout(Stdio::piped()).spawn()?);
    let mut port = String::new();
    BufReader::new(host.0.stdout.take().context("no output")?).read_line(&mut port)?;
    let port = port.trim();
    let authority = directory.join("ca.pem");
    let settings = [
        ("CAISSON_EGRESS", "on".to_owned()),
        ("CAISSON_EGRESS_ADDRESSES", "127.0.0.1".to_owned()),
        ("SSL_CERT_FILE", authority.display().to_string()),
    ];
    let server = Server::start_with(program, &directory, "off", &settings)?;
    let own = fs::read_to_string(&authority)?;
    let mut samples = [const { [const { Vec::new() }; 2] }; 3];
    for _ in 0..rounds.max(1) {
        let said = python(CLIENT).args([port, &REQUESTS.to_string(), ""]).env("SSL_CERT_FILE", &authority).output()?;
        add(&mut samples[0], &String::from_utf8_lossy(&said.stdout))?;
        let tunnelled = json!({"allow": [format!("localhost:{port}")]});
        let intercepted = json!({"rules": [{"host": format!("localhost:{port}"), "methods": ["GET"]}]});
        for (network, samples) in [tunnelled, intercepted].into_iter().zip(&mut samples[1..]) {
            let mut body =
                json!({"cmd": ["python3", "-c", CLIENT, port, REQUESTS.to_string(), "127.0.0.53"], "network": network, "timeout_s": 60});
            if network["allow"].is_array() {
                body["files"] = json!([{"path": "ca.pem", "content": own}]);
                body["env"] = json!({"SSL_CERT_FILE": "/workspace/ca.pem"});
            }
            let result = server.connect()?.ask("POST", "/v1/run", &body)?;
            add(samples, result["stdout"].as_str().unwrap_or_default()).with_context(|| result.to_string())?;
        }
    }
    let figures = samples.map(|both| both.map(Figures::new));
    for (kind, name) in ["a connection for each", "on one connection"].into_iter().enumerate() {
        heading(&format!("HTTPS requests, {name}"));
        for (figures, name) in figures.iter().zip(["on the host", "tunnelled", "intercepted"]) {
            row(name, &figures[kind]);
        }
        promise("added by a tunnel", figures[1][kind].p50() - figures[0][kind].p50(), 1.0, true);
        promise("added by a look into TLS", figures[2][kind].p50() - figures[0][kind].p50(), 3.0, true);
    }
    Ok(())
}

fn add(samples: &mut [Vec<Duration>; 2], said: &str) -> Result<()> {
    let told: Value = serde_json::from_str(said).with_context(|| format!("the client says: {said}"))?;
    for (kind, samples) in samples.iter_mut().enumerate() {
        samples.extend(told[kind].as_array().into_iter().flatten().filter_map(Value::as_u64).map(Duration::from_nanos));
    }
    Ok(())
}
