//! Where things are in a session.
//!
//! ```text
//! with patches                         without
//! /repo   /skills                      /workspace/repo   /workspace/skills      directories
//! /workspace/repo   /workspace/skills  /repo   /skills                          links to them
//! ```
//!
//! Programs that are started in a directory find it by the name that their clients know, and `find` goes into it.

use std::collections::BTreeMap;

use caisson_core::Place;

pub(super) const REPO: &str = "/repo";
pub(super) const SKILLS: &str = "/skills";
pub(super) const WORKSPACE: &str = "/workspace";
pub(super) const HOME: &str = "/home/daiv-sandbox";
const NAMES: [&str; 2] = ["repo", "skills"];

/// The places of one session: those that know patches have `/repo` itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) at_root: bool,
}

impl Layout {
    /// Where commands run.
    pub(super) fn repo(self) -> &'static str {
        if self.at_root { REPO } else { "/workspace/repo" }
    }

    pub(super) fn skills(self) -> &'static str {
        if self.at_root { SKILLS } else { "/workspace/skills" }
    }

    /// What is there beside home and [`Layout::repo`].
    pub(super) fn places(self) -> Vec<Place> {
        let mut places = vec![Place::Directory("/workdir".to_owned()), Place::Directory(WORKSPACE.to_owned())];
        for name in NAMES {
            let (root, below) = (format!("/{name}"), format!("{WORKSPACE}/{name}"));
            let (real, other) = if self.at_root { (root, below) } else { (below, root) };
            places.extend([Place::Directory(real.clone()), Place::Link { path: other, target: real }]);
        }
        places.push(Place::Directory(format!("{WORKSPACE}/tmp")));
        places
    }

    /// The path without the links that are made here.
    pub(super) fn real(self, path: &str) -> String {
        if !self.at_root {
            return path.to_owned();
        }
        let below = |name: &&str| {
            let rest = path.strip_prefix(WORKSPACE)?.strip_prefix('/')?.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("/{name}{rest}"))
        };
        NAMES.iter().find_map(below).unwrap_or_else(|| path.to_owned())
    }
}

/// What every command finds in its environment, whatever its image and its session say.
pub(super) fn variables() -> BTreeMap<String, String> {
    let below = |folder: &str| format!("{HOME}/{folder}");
    [
        ("HOME", HOME.to_owned()),
        ("XDG_CACHE_HOME", below(".cache")),
        ("XDG_CONFIG_HOME", below(".config")),
        ("XDG_DATA_HOME", below(".local/share")),
        ("XDG_STATE_HOME", below(".local/state")),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_lead_to_one_directory() {
        let directories = |layout: Layout| -> Vec<String> {
            let places = layout.places();
            places.into_iter().filter_map(|place| if let Place::Directory(path) = place { Some(path) } else { None }).collect()
        };
        let with = Layout { at_root: true };
        assert_eq!(directories(with), ["/workdir", "/workspace", "/repo", "/skills", "/workspace/tmp"]);
        let without = Layout { at_root: false };
        assert_eq!(directories(without), ["/workdir", "/workspace", "/workspace/repo", "/workspace/skills", "/workspace/tmp"]);
        for (path, real) in [
            ("/workspace/repo", "/repo"),
            ("/workspace/repo/a/b", "/repo/a/b"),
            ("/workspace/skills/x", "/skills/x"),
            ("/workspace/repos", "/workspace/repos"),
            ("/workspace", "/workspace"),
            ("/workspace/tmp/repo", "/workspace/tmp/repo"),
        ] {
            assert_eq!(with.real(path), real);
            assert_eq!(without.real(path), path);
        }
    }
}
