//! A real terminal: a window of a `tmux` of the test's own.

use std::{path::PathBuf, process::Command, time::Duration};

use crate::{clock::eventually, home::Home, home::needs};

const PATIENCE: Duration = Duration::from_secs(20);

/// See the module. Its shell is `sh`.
#[derive(Debug)]
pub struct Screen {
    socket: PathBuf,
}

impl Screen {
    /// Opens it with this size; its programs have these variables beside those of the test's home.
    #[track_caller]
    #[must_use]
    pub fn open(home: &Home, cols: u16, rows: u16, variables: &[(&str, &str)]) -> Self {
        needs("tmux", "tmux");
        let screen = Self { socket: home.path().join("tmux") };
        let mut command = home.clean("tmux");
        command.arg("-S").arg(&screen.socket).args(["-f", "/dev/null", "start-server", ";", "set-option", "-g", "history-limit", "20000"]);
        command.args([";", "new-session", "-d", "-x", &cols.to_string(), "-y", &rows.to_string(), "env PS1='here> ' sh"]);
        command.envs(variables.iter().copied()).env("TERM", "xterm-256color");
        let status = command.status().expect("tmux can be started");
        assert!(status.success(), "tmux ended with {status}");
        screen.shows("here>");
        screen
    }

    /// Types these keys, by their names in `tmux`.
    #[track_caller]
    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a line.
    #[track_caller]
    pub fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.keys(&["Enter"]);
    }

    /// Waits until this is on the screen.
    #[track_caller]
    pub fn shows(&self, what: &str) {
        let mut last = String::new();
        let begun = std::time::Instant::now();
        let limit = crate::clock::allowed(PATIENCE * 2);
        while begun.elapsed() < limit {
            last = self.text();
            if last.contains(what) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("`{what}` does not show on\n{last}");
    }

    /// What is on the screen.
    #[track_caller]
    #[must_use]
    pub fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// That, and what has left it at the top.
    #[track_caller]
    #[must_use]
    pub fn all_text(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-"])
    }

    /// Gives the window another size.
    #[track_caller]
    pub fn resize(&self, cols: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &cols.to_string(), "-y", &rows.to_string()]);
    }

    /// Something that `tmux` knows of the window, such as `alternate_on`.
    #[track_caller]
    #[must_use]
    pub fn figure(&self, name: &str) -> String {
        self.tmux(&["display-message", "-p", &format!("#{{{name}}}")]).trim().to_owned()
    }

    /// Waits for a figure.
    #[track_caller]
    pub fn comes_to(&self, name: &str, value: &str) {
        eventually(&format!("{name} to be {value}"), PATIENCE, || (self.figure(name) == value).then_some(()));
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux").arg("-S").arg(&self.socket).args(arguments).output().expect("tmux can be started");
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // One whose last window has closed has ended already.
        drop(Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output());
    }
}
