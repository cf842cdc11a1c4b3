//! Directories that a workspace is brought into.

use caisson_core::{Error, Result};

use crate::validate;

/// The directory inside, absolute, without a slash at its end; nothing but the slash of a root.
pub(super) fn absolute(work_dir: &str, given: Option<&str>) -> Result<String> {
    let path = match given {
        None => work_dir.to_owned(),
        Some(given) => {
            check("workspace.directory", given)?;
            if given.starts_with('/') { given.to_owned() } else { format!("{}/{given}", work_dir.trim_end_matches('/')) }
        }
    };
    validate::path("workspace.directory", path.as_bytes())?;
    Ok(path.trim_end_matches('/').to_owned())
}

/// Whoever starts in the root is not asking for all files of the image, and a look at none of them would lose what is new.
pub(super) fn has_outputs(directory: &str) -> Result<()> {
    if directory.is_empty() {
        let message =
            "the work dir of this sandbox is the root, which has too many files; say `workspace.directory`, or `sync_out` as false";
        return Err(Error::invalid("invalid_path", message));
    }
    Ok(())
}

/// What files inside are called by is compared with it, so it has to be plain.
pub(super) fn check(field: &str, given: &str) -> Result<()> {
    validate::path(field, given.as_bytes())?;
    let parts = given.strip_prefix('/').unwrap_or(given).trim_end_matches('/');
    if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::invalid(
            "invalid_path",
            format!("field `{field}` is a directory without `.`, `..` and empty parts, and not the root"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_out_of_the_root() {
        let of = |work_dir, given| has_outputs(&absolute(work_dir, given).unwrap()).map_err(|error| error.code());
        assert_eq!((of("/", None), of("/", Some("in")), of("/workspace", None)), (Err("invalid_path"), Ok(()), Ok(())));
    }

    #[test]
    fn directories_are_plain() {
        for (given, expect) in
            [(None, "/workspace"), (Some("/data/"), "/data"), (Some("in/here"), "/workspace/in/here"), (Some("/tmp"), "/tmp")]
        {
            assert_eq!(absolute("/workspace", given).unwrap(), expect);
        }
        for bad in ["", "/", ".", "..", "/a/../b", "a//b", "//", "a\0"] {
            assert_eq!(absolute("/workspace", Some(bad)).unwrap_err().code(), "invalid_path", "{bad:?}");
        }
    }
}
