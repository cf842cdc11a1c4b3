//! Names under which the results of steps are kept, so that a step is not done twice.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::config::Config;

/// Where they are: a registry that is never asked.
pub(in super::super) const REPOSITORY: &str = "localhost/caisson-build";
/// Changes whenever a step of the same key would come to another result.
const VERSION: u32 = 1;

/// Whether an image is the result of a step, and not one that somebody has named.
pub(in super::super) fn is_step(name: &str) -> bool {
    name.strip_prefix(REPOSITORY).is_some_and(|rest| rest.starts_with(':'))
}

/// The name for what becomes of an image (by its id and by what it is to say about its programs) by a step. All of it has to be the same for
/// the result to be taken.
pub(super) fn name(image: &str, config: &Config, step: &impl Serialize) -> String {
    let key = serde_json::to_vec(&(VERSION, image, config, step)).expect("there is nothing in it that JSON cannot say");
    format!("{REPOSITORY}:{}", hex(&Sha256::digest(key)))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_say() {
        let config = Config::default();
        let other = Config { user: Some("app".to_owned()), ..Config::default() };
        let names = [
            name("sha256:a", &config, &("run", "make")),
            name("sha256:b", &config, &("run", "make")),
            name("sha256:a", &other, &("run", "make")),
            name("sha256:a", &config, &("run", "make -j")),
            name("sha256:a", &config, &("copy", "make")),
        ];
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        assert_eq!(names[0], name("sha256:a", &config, &("run", "make")));
        assert!(names[0].parse::<caisson_image::Reference>().is_ok() && is_step(&names[0]));
        assert!(!is_step("localhost/caisson-builder:1") && !is_step("docker.io/library/alpine:3"));
    }
}
