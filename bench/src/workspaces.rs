//! Many small files into an S3 server and out of it, beside a program made for that.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    figures::{Figures, heading, promise, row},
    server::Server,
};

const FILES: usize = 1000;
const BYTES: usize = 4096;
const BUCKET: &str = "files";
const KEY: &str = "key-of-the-benchmark";
/// As many at a time as we write.
const AT_ONCE: &str = "8";
/// As many at a time as we read.
const READS_AT_ONCE: &str = "32";
const UP_WITHIN: Duration = Duration::from_secs(20);

/// Ends with the benchmark.
struct S3 {
    process: Child,
    address: String,
}

/// `s3s-fs` is what `tools/s3-servers` installs; rclone is a package.
pub(crate) fn sync(program: &Path, directory: &Path, runs: usize) -> Result<()> {
    let directory = directory.join("sync");
    let store = directory.join("store");
    fs::create_dir_all(store.join(BUCKET))?;
    let Some(s3) = S3::start(&store)? else {
        println!("\nSync is not measured: there is no s3s-fs beside the program; run tools/s3-servers");
        return Ok(());
    };
    let settings = [
        ("CAISSON_BLOB_URL", format!("s3://{BUCKET}")),
        ("CAISSON_S3_ENDPOINT", format!("http://{}", s3.address)),
        ("CAISSON_S3_ACCESS_KEY_ID", KEY.to_owned()),
        ("CAISSON_S3_SECRET_ACCESS_KEY", KEY.to_owned()),
    ];
    let server = Server::start_with(program, &directory, "off", &settings)?;
    let tree = directory.join("tree");
    fs::create_dir(&tree)?;
    let write = format!("for n in range({FILES}): open(f'f{{n}}', 'wb').write(n.to_bytes(2, 'big') * {})", BYTES / 2);
    if !Command::new("/usr/bin/python3").args(["-c", &write]).current_dir(&tree).status()?.success() {
        bail!("files cannot be written");
    }
    let names: Vec<String> = (0..FILES).map(|n| format!("f{n}")).collect();
    let [mut without, mut out, mut back, mut copy_out, mut get] = [const { Vec::new() }; 5];
    for round in 0..runs {
        let name = format!("w{round}");
        let code = json!({"language": "python", "code": write, "max_file_bytes": 0});
        without.push(timed(|| run(&server, code.clone()).map(drop))?);
        let mut body = code.clone();
        body["workspace"] = json!({"name": name});
        out.push(timed(|| synced(&run(&server, body)?, "synced_out"))?);
        let body = json!({"language": "python", "code": "pass", "max_file_bytes": 0, "workspace": {"name": name, "files": names}});
        back.push(timed(|| synced(&run(&server, body)?, "synced_in"))?);
        let there = format!(":s3:{BUCKET}/r{round}");
        copy_out.push(timed(|| s3.rclone(tree.to_str().context("a path")?, &there))?);
        get.push(timed(|| s3.get_all(&format!("r{round}"), &directory.join(format!("got{round}"))))?);
    }
    let figures = |samples: Vec<Duration>| Figures::new(samples);
    let (without, out, back) = (figures(without), figures(out), figures(back));
    let (copy_out, get) = (figures(copy_out), figures(get));
    heading(&format!("{FILES} files of {BYTES} bytes and an S3 server, {runs} runs each"));
    row("one-shot that writes them", &without);
    row("the same, with a workspace", &out);
    row("rclone copy, there", &copy_out);
    row("one-shot that gets them", &back);
    row("curl --parallel, back", &get);
    promise("out, less the program / rclone", (out.p50() - without.p50()) / copy_out.p50(), 2.0, true);
    promise("in, program included / curl", back.p50() / get.p50(), 2.0, true);
    Ok(())
}

fn timed(what: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    what()?;
    Ok(begin.elapsed())
}

fn run(server: &Server, body: Value) -> Result<Value> {
    // One that rests for as long as the others copy is closed.
    let result = server.connect()?.ask("POST", "/v1/run", &body)?;
    if result["exit_code"] == 0 { Ok(result) } else { bail!("python failed: {result}") }
}

fn synced(result: &Value, which: &str) -> Result<()> {
    let workspace = &result["workspace"];
    let count = workspace[which].as_array().map_or(0, Vec::len);
    if workspace["state"] == "synced" && count == FILES { Ok(()) } else { bail!("{which} has {count} files: {}", workspace["state"]) }
}

impl S3 {
    fn start(store: &Path) -> Result<Option<Self>> {
        let program = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/s3/s3s-fs/bin/s3s-fs"));
        if !program.exists() {
            return Ok(None);
        }
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &address.port().to_string(), "--access-key", KEY, "--secret-key", KEY]);
        let process = command.arg(store).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let s3 = Self { process, address: address.to_string() };
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begin.elapsed() > UP_WITHIN {
                bail!("s3s-fs does not listen");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(s3))
    }

    fn rclone(&self, from: &str, to: &str) -> Result<()> {
        let mut command = Command::new("rclone");
        // For other servers than this one, which rclone does not take together with options of its own.
        command.env_remove("AWS_CA_BUNDLE");
        command.args(["copy", "--transfers", AT_ONCE, "--checkers", AT_ONCE, "--s3-provider", "Other", "--s3-no-check-bucket"]);
        command.args(["--s3-access-key-id", KEY, "--s3-secret-access-key", KEY, "--s3-endpoint", &format!("http://{}", self.address)]);
        let output = command.args(["--config", "/dev/null", from, to]).stdin(Stdio::null()).output().context("rclone (package rclone)")?;
        if output.status.success() { Ok(()) } else { bail!("rclone failed: {}", String::from_utf8_lossy(&output.stderr)) }
    }

    /// Raw requests on kept connections, as rclone does not end reading from this server.
    fn get_all(&self, from: &str, to: &Path) -> Result<()> {
        fs::create_dir(to)?;
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--no-progress-meter", "--fail", "--parallel", "--parallel-max", READS_AT_ONCE]);
        command.args(["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &format!("{KEY}:{KEY}"), "--output", "f#1"]);
        // Signed, but for the content, which there is none of.
        command.args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        command.arg(format!("http://{}/{BUCKET}/{from}/f[0-{}]", self.address, FILES - 1));
        let output = command.current_dir(to).stdin(Stdio::null()).output().context("curl (package curl)")?;
        let count = fs::read_dir(to)?.count();
        if output.status.success() && count == FILES { Ok(()) } else { bail!("{count} files: {}", String::from_utf8_lossy(&output.stderr)) }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            drop(self.process.wait());
        }
    }
}
