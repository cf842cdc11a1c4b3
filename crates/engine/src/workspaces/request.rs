//! What callers say about workspaces, and what they are told.

use std::fmt;

use caisson_core::{BlobKey, Error, Result, Tenant};
use serde::{Deserialize, Serialize};

/// Below it are the workspaces of tenants. No other tree is there.
const OWN: &str = "_caisson/workspaces/";
/// Bytes of a workspace's name as it stands in keys, where `/` and `%` are three each.
const NAME: usize = BlobKey::MAX_COMPONENT_BYTES;

/// A workspace as storage knows it: everything whose key begins with a prefix. Names of files below it are taken to the byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tree {
    /// Ends with `/`.
    prefix: String,
}

impl Tree {
    /// The workspace of this name that a tenant has.
    ///
    /// A name may have a `/` in it; it is still one name: `a/b` is no part of `a`.
    pub fn named(tenant: &Tenant, name: &str) -> Result<Self> {
        let encoded = encode(name);
        let refused = |what: &str| Error::invalid("invalid_workspace", format!("the name of a workspace {what}"));
        if name.is_empty() {
            return Err(refused("is empty"));
        }
        if encoded.len() > NAME {
            return Err(refused(&format!("has {} bytes, allowed are {NAME}; `/` and `%` count three each", encoded.len())));
        }
        match encoded.parse::<BlobKey>() {
            Ok(_) => Ok(Self { prefix: format!("{OWN}{tenant}/{encoded}/") }),
            Err(why) => Err(refused(&format!("cannot be this one: {why}"))),
        }
    }

    /// All workspaces of a tenant are below it.
    pub(super) fn all(tenant: &Tenant) -> String {
        format!("{OWN}{tenant}/")
    }

    /// The name of a workspace from what stands for it in keys.
    pub(super) fn decode(component: &str) -> String {
        component.replace("%2F", "/").replace("%25", "%")
    }

    /// What is below a prefix that others have agreed upon, which ends with `/`. It leads to no tenant's workspaces.
    pub fn at(prefix: &str) -> Result<Self> {
        let refused = |what: String| Error::invalid("invalid_prefix", format!("prefix `{}` {what}", prefix.escape_debug()));
        let key = prefix.strip_suffix('/').ok_or_else(|| refused("does not end with `/`".to_owned()))?;
        key.parse::<BlobKey>().map_err(|why| refused(format!("cannot be one: {why}")))?;
        if OWN.split('/').next() == key.split('/').next() {
            return Err(refused("is reserved".to_owned()));
        }
        Ok(Self { prefix: prefix.to_owned() })
    }

    /// The key of a file.
    pub fn key(&self, name: &str) -> Result<BlobKey> {
        let refused = |why: String| Error::invalid("invalid_file_name", format!("file `{}` cannot be in a workspace: {why}", shown(name)));
        // By itself first, so that what is said is about the name.
        name.parse::<BlobKey>().map_err(|why| refused(why.to_string()))?;
        format!("{}{name}", self.prefix).parse().map_err(|_| {
            let left = BlobKey::MAX_BYTES.saturating_sub(self.prefix.len());
            refused(format!("it has {} bytes, and {left} are left beside the workspace's own name", name.len()))
        })
    }

    /// The name of the file that has this key.
    pub(super) fn name<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)
    }
}

fn encode(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

/// The begin of a name, for messages.
pub(super) fn shown(name: &str) -> String {
    let begin: String = name.chars().take(200).collect();
    let more = if begin.len() < name.len() { "..." } else { "" };
    format!("{}{more}", begin.escape_debug())
}

/// What becomes of a file that is to be brought in and cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// Nothing runs.
    #[default]
    Refuse,
    /// It is left out; the log says so.
    Skip,
}

/// How a one-shot uses a workspace.
#[derive(Debug, Clone)]
pub struct WorkspaceUse {
    pub tree: Tree,
    /// What is brought in, before the program runs; several times the same counts once.
    pub files: Vec<String>,
    pub missing: Missing,
    /// Where the files are inside: absolute, or relative to the work dir; the work dir itself when absent.
    pub directory: Option<String>,
    /// What is brought out, when the program has ended; nothing when absent.
    pub outputs: Option<Outputs>,
    /// So many files are on their way at one time; as many as for everybody when absent.
    pub at_once: Option<usize>,
}

/// Which files are brought out: new ones and changed ones in [`WorkspaceUse::directory`], and what else is said here. The name of a file in
/// the workspace is its path below the directory.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Absolute directories whose own new and changed files, and not those further down, come as well. Where two files have the same name,
    /// the first directory's counts.
    pub also: Vec<String>,
    /// Absolute paths in one of these directories that come whether they have changed or not, if they pass the filter.
    pub always: Vec<String>,
    pub filter: OutputFilter,
}

/// What is left out, silently.
#[derive(Debug, Clone, Default)]
pub struct OutputFilter {
    /// Lower-case, without a dot. Only files whose name ends so come, whatever the case there; all when absent.
    pub extensions: Option<Vec<String>>,
    /// Leave out what is called `.…`, and what is in a directory that is.
    pub without_hidden: bool,
    /// Leave out what is in a directory of this name.
    pub without_directories: Vec<String>,
    /// Leave out what is larger, which the report tells as failed.
    pub max_file_bytes: Option<u64>,
}

/// What has been brought in and out. Each list is in the order of the names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceReport {
    pub synced_in: Vec<SyncedIn>,
    pub synced_out: Vec<SyncedOut>,
    /// What is safe on this server's disk and not in the workspace yet. It is tried again until it is there.
    pub pending: Vec<NotSynced>,
    /// What the workspace does not have and will not get.
    pub failed: Vec<NotSynced>,
}

/// A file that was brought in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncedIn {
    pub path: String,
    pub size: u64,
    pub etag: String,
}

/// A file that was brought out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncedOut {
    pub path: String,
    pub size: u64,
    pub media_type: String,
    pub etag: String,
    /// The `ETag` of what was there and is replaced, where that is not what was brought in: somebody else has written it.
    pub overwrote: Option<String>,
}

/// A file that was not brought out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotSynced {
    /// Empty when it is not known which files there are.
    pub path: String,
    /// Absent when that is not known.
    pub size: Option<u64>,
    pub media_type: String,
    pub error: String,
}

impl WorkspaceReport {
    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }

    #[test]
    fn r5_5_every_workspace_has_a_prefix_of_its_own() {
        let names = ["a", "A", "a/b", "a%2Fb", "a%2fb", "a%252Fb", "ä", "a\u{308}", "a ", "%", "%25", ".a", "a.b", "b"];
        let mut prefixes: Vec<String> = Vec::new();
        for owner in ["default", "default.a", "x"] {
            for name in names {
                let tree = Tree::named(&tenant(owner), name).unwrap();
                let component = tree.prefix().strip_prefix(&Tree::all(&tenant(owner))).unwrap().strip_suffix('/').unwrap();
                assert!(!component.contains('/'), "{component}");
                assert_eq!(Tree::decode(component), name);
                prefixes.push(tree.prefix().to_owned());
            }
        }
        for (index, one) in prefixes.iter().enumerate() {
            assert!(prefixes.iter().enumerate().all(|(other, prefix)| other == index || !prefix.starts_with(one.as_str())), "{one}");
        }
    }

    #[test]
    fn r5_5_names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "a\nb", "a\0", &long, &"/".repeat(86)] {
            assert_eq!(Tree::named(&tenant("t"), bad).unwrap_err().code(), "invalid_workspace", "{bad:?}");
        }
        let tree = Tree::named(&tenant("t"), "w").unwrap();
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.", "a\0", "a\u{7f}", &long, &"x/".repeat(520)] {
            assert_eq!(tree.key(bad).unwrap_err().code(), "invalid_file_name", "{bad:?}");
        }
        for good in ["a", "a/b c/ä", "%2e%2e/a", "..a", "a\\..\\b", &"x".repeat(255)] {
            assert_eq!(tree.name(tree.key(good).unwrap().as_str()), Some(good));
        }
    }

    #[test]
    fn r5_5_a_prefix_of_others_never_leads_to_workspaces() {
        for good in ["user/chat/", "default/w/", "caisson/workspaces/", "_caisson2/x/"] {
            assert_eq!(Tree::at(good).unwrap().prefix(), good);
        }
        for bad in ["", "/", "a", "a//b/", "../a/", "a/../b/", "_caisson/", "_caisson/workspaces/t/", "_caisson/x/", "a\n/"] {
            assert_eq!(Tree::at(bad).unwrap_err().code(), "invalid_prefix", "{bad:?}");
        }
    }
}
