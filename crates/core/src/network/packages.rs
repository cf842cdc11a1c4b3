//! The hosts of network `packages`, where the operator names no others.

use std::sync::{Arc, LazyLock};

use super::Rules;

/// Where pip, npm, cargo, Go and apt get packages from as they come.
const HOSTS: [&str; 14] = [
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "index.crates.io",
    "static.crates.io",
    "crates.io",
    "proxy.golang.org",
    "sum.golang.org",
    "deb.debian.org",
    "security.debian.org",
    "archive.ubuntu.com",
    "*.archive.ubuntu.com",
    "security.ubuntu.com",
    "ports.ubuntu.com",
];

/// They as rules.
#[must_use]
pub(super) fn packages() -> Arc<Rules> {
    static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
        let allow = HOSTS.iter().map(|host| host.parse().expect("every host of the list is a rule")).collect();
        Arc::new(Rules { allow, ..Rules::default() })
    });
    Arc::clone(&RULES)
}
