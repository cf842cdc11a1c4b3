//! One sandbox of a running server.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    client::{Answer, Request, encode_path},
    clock::eventually,
    events::Events,
    process::Process,
    server::Server,
};

/// What of its processes there is beside the agent and the one who looks; those that end meanwhile do not count.
const OTHERS: &str = "import os
def name(pid):
  try: return open(f'/proc/{pid}/stat').read().split(')')[0] + ')'
  except OSError: return None
names = [name(pid) for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())]
print(', '.join(filter(None, names)))";

/// See the module. Dropping it leaves it to the server.
#[derive(Debug, Clone)]
pub struct Sandbox<'a> {
    pub server: &'a Server,
    pub id: String,
}

impl Sandbox<'_> {
    #[must_use]
    pub fn target(&self, rest: &str) -> String {
        format!("/v1/sandboxes/{}{rest}", self.id)
    }

    #[must_use]
    pub fn request(&self, method: &str, rest: &str) -> Request {
        self.server.request(method, &self.target(rest))
    }

    /// The sandbox as the API describes it.
    #[track_caller]
    #[must_use]
    pub fn get(&self) -> Answer {
        self.request("GET", "").send()
    }

    #[track_caller]
    #[must_use]
    pub fn try_exec(&self, body: &Value) -> Answer {
        self.request("POST", "/exec").json(body).send()
    }

    /// The result of a program.
    #[track_caller]
    #[must_use]
    pub fn exec(&self, body: &Value) -> Value {
        self.try_exec(body).expect(200).json()
    }

    /// The id of a program that goes on in the background.
    #[track_caller]
    #[must_use]
    pub fn background(&self, mut body: Value) -> String {
        body["background"] = json!(true);
        let record = self.try_exec(&body).expect(202).json();
        assert_eq!(record["status"], "running", "{record}");
        record["id"].as_str().expect("it has an id").to_owned()
    }

    #[track_caller]
    #[must_use]
    pub fn events(&self, body: &Value) -> Events {
        self.request("POST", "/exec").json(body).events()
    }

    /// What a command line prints; it must end well.
    #[track_caller]
    #[must_use]
    pub fn shell(&self, line: &str) -> String {
        self.said(&json!({"shell": line}))
    }

    /// What a program in Python prints; it must end well.
    #[track_caller]
    #[must_use]
    pub fn python(&self, code: &str) -> String {
        self.said(&json!({"language": "python", "code": code}))
    }

    #[track_caller]
    fn said(&self, body: &Value) -> String {
        let result = self.exec(body);
        assert_eq!((&result["status"], &result["exit_code"]), (&"exited".into(), &0.into()), "{result:#}");
        result["stdout"].as_str().expect("there is output").to_owned()
    }

    /// Its processes beside the agent, in words.
    #[track_caller]
    #[must_use]
    pub fn others(&self) -> String {
        self.python(OTHERS).trim().to_owned()
    }

    /// Fails when anything but the agent runs in it.
    #[track_caller]
    pub fn is_empty_of_others(&self) {
        assert_eq!(self.others(), "", "processes are left");
    }

    #[track_caller]
    #[must_use]
    pub fn write(&self, path: &[u8], content: &[u8]) -> Answer {
        self.request("PUT", &format!("/files?path={}", encode_path(path))).bytes(content).send()
    }

    #[track_caller]
    #[must_use]
    pub fn read(&self, path: &[u8]) -> Answer {
        self.request("GET", &format!("/files?path={}", encode_path(path))).send()
    }

    /// Ends it.
    #[track_caller]
    #[must_use]
    pub fn delete(&self) -> Answer {
        self.request("DELETE", "").send()
    }

    /// Its tombstone, once it has ended.
    #[track_caller]
    #[must_use]
    pub fn tombstone(&self, limit: Duration) -> Value {
        eventually(&format!("the end of sandbox {}", self.id), limit, || {
            let answer = self.get();
            (answer.status == 410).then(|| answer.json()["error"]["details"].clone())
        })
    }

    /// Its first process, as the host sees it. Found by a program that is started for this and ended again.
    #[track_caller]
    #[must_use]
    pub fn agent(&self) -> Process {
        let mark = format!("9{}", self.id.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())));
        let id = self.background(json!({"cmd": ["sleep", mark], "timeout_s": null}));
        let agent = eventually("a marked program", Duration::from_secs(5), || {
            Process::find(Process::with_argument(&mark)?.parent).filter(Process::is_agent)
        });
        self.server.request("POST", &format!("/v1/executions/{id}/kill")).send().expect(204);
        agent
    }
}
