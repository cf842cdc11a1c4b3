//! What the image in the making says about its programs.

use std::collections::BTreeMap;

use caisson_server::native::types::{CommitConfigBody, ImageConfigBody};
use serde::Serialize;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Config {
    pub(super) env: Vec<(String, String)>,
    pub(super) work_dir: Option<String>,
    pub(super) user: Option<String>,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) ports: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
    /// Absent where it is the usual one.
    pub(super) shell: Option<Vec<String>>,
}

impl From<ImageConfigBody> for Config {
    fn from(body: ImageConfigBody) -> Self {
        let pair =
            |line: String| line.split_once('=').map_or((line.clone(), String::new()), |(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            env: body.env.into_iter().map(pair).collect(),
            work_dir: body.work_dir,
            user: body.user,
            entrypoint: body.entrypoint,
            cmd: body.cmd,
            ports: body.exposed_ports,
            labels: body.labels,
            shell: None,
        }
    }
}

impl Config {
    /// `ENV`: in the place that the variable has, or behind all others.
    pub(super) fn set(&mut self, name: String, value: String) {
        match self.env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.env.push((name, value)),
        }
    }

    /// The directory in which commands start.
    pub(super) fn directory(&self) -> &str {
        self.work_dir.as_deref().unwrap_or("/")
    }

    /// What runs command lines.
    pub(super) fn shell(&self) -> Vec<String> {
        self.shell.clone().unwrap_or_else(|| ["/bin/sh", "-c"].map(str::to_owned).to_vec())
    }

    /// Whether commands run as root.
    pub(super) fn is_roots(&self) -> bool {
        let user = self.user.as_deref().unwrap_or_default().split(':').next().unwrap_or_default();
        matches!(user, "" | "root" | "0")
    }

    /// Whether an image that says `other` says this. In which order variables come means nothing, and its shell is not known.
    pub(super) fn is_said_by(&self, other: Self) -> bool {
        let sorted = |mut config: Self| {
            config.env.sort();
            Self { shell: None, ..config }
        };
        sorted(self.clone()) == sorted(other)
    }

    /// What has to be said for an image that says `before` to say this. `None` where it does.
    pub(super) fn change_from(&self, before: &Self) -> Option<CommitConfigBody> {
        if self == before {
            return None;
        }
        let text = |now: &Option<String>, then: &Option<String>| (now != then).then(|| now.clone().unwrap_or_default());
        let list = |now: &Vec<String>, then: &Vec<String>| (now != then).then(|| now.clone());
        Some(CommitConfigBody {
            env: (self.env != before.env).then(|| self.env.iter().filter(|pair| !before.env.contains(pair)).cloned().collect()),
            working_dir: text(&self.work_dir, &before.work_dir),
            user: text(&self.user, &before.user),
            entrypoint: list(&self.entrypoint, &before.entrypoint),
            cmd: list(&self.cmd, &before.cmd),
            labels: (self.labels != before.labels).then(|| self.labels.clone()),
            exposed_ports: list(&self.ports, &before.ports),
            shell: self.shell.clone().filter(|_| self.shell != before.shell),
        })
    }
}

/// `EXPOSE`: a port, or a range of them, of one protocol.
pub(super) fn ports(text: &str) -> Result<Vec<String>, String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let wrong = || format!("`{text}` is no port; write 8080, 8080/udp or 8000-8010");
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && text.bytes().all(|byte| byte.is_ascii_digit())).ok_or_else(wrong);
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// A path from the root on, without `.` and `..`; a relative one begins at `directory`.
pub(super) fn absolute(directory: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges() {
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(ports("8000-8002").unwrap(), ["8000/tcp", "8001/tcp", "8002/tcp"]);
        for bad in ["", "0", "x", "80/x", "9-8", "70000", "+80", "80:80"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_begin_where_the_last_one_ended() {
        for (directory, path, expect) in
            [("/", "a", "/a"), ("/a", "b/../c", "/a/c"), ("/a", "/b/", "/b"), ("/a", "../../..", "/"), ("/a", ".", "/a"), ("/", "/", "/")]
        {
            assert_eq!(absolute(directory, path), expect);
        }
    }

    #[test]
    fn only_what_has_changed_is_said() {
        let before = Config { env: vec![("A".to_owned(), "1".to_owned())], cmd: vec!["x".to_owned()], ..Config::default() };
        assert_eq!(before.change_from(&before.clone()), None);
        let mut now = before.clone();
        now.set("B".to_owned(), "2".to_owned());
        now.set("A".to_owned(), "1".to_owned());
        now.cmd.clear();
        now.user = Some("app".to_owned());
        let change = now.change_from(&before).unwrap();
        assert_eq!(change.env.unwrap().into_keys().collect::<Vec<_>>(), ["B"]);
        assert_eq!((change.cmd, change.user.as_deref(), change.working_dir), (Some(Vec::new()), Some("app"), None));
        let other_order = Config { env: now.env.iter().rev().cloned().collect(), ..now.clone() };
        assert!(now.is_said_by(other_order) && !now.is_said_by(before.clone()));
        assert!(before.is_roots() && !now.is_roots());
        for (user, root) in [("0:0", true), ("root", true), ("1000", false), ("00", false)] {
            assert_eq!(Config { user: Some(user.to_owned()), ..Config::default() }.is_roots(), root, "{user}");
        }
    }
}
