//! How each language's interpreter is held before its code, and what it cannot take late.

use caisson_wire::{GATE_FILE, Gate, HOLD_DIR, Hold, HoldVariable};

/// What a module's name may have: one part of it, and all of it.
const PART: usize = 64;
const NAME: usize = 128;

/// Runs where Python looks for a site's own customization.
const PYTHON: &str = include_str!("hook.py");
/// What Python, the C library and libraries that modules are made with look at once.
const FIXED_FOR_PYTHON: &[&str] = &[
    "PYTHON*",
    "_PYTHON*",
    "LD_*",
    "LC_*",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TZDIR",
    "PATH",
    "HOME",
    "GLIBC_TUNABLES",
    "MALLOC_*",
    "OMP_*",
    "GOMP_*",
    "KMP_*",
    "OPENBLAS_*",
    "GOTO_*",
    "MKL_*",
    "BLIS_*",
    "NUMEXPR_*",
    "VECLIB_*",
    "NPY_*",
    "RAYON_*",
    "POLARS_*",
    "OPENSSL_*",
];

/// Where bash begins to read. What it counts from its start begins anew; the function's argument is there for `$_`, which stays what it was.
const BASH: &str = "f() { unset -f f; unset BASH_ENV; SECONDS=0; }; f \"$_\"";

/// Whether an interpreter of this language can wait for code.
pub(crate) fn can_be_ready(language: &str) -> bool {
    of(language, &[]).is_some()
}

/// Whether this is the name of a Python module, with those that it is in.
pub(crate) fn is_module(name: &str) -> bool {
    let part = |part: &str| {
        (1..=PART).contains(&part.len())
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
            && !part.as_bytes()[0].is_ascii_digit()
    };
    name.len() <= NAME && name.split('.').all(part)
}

/// `None` for languages whose interpreters cannot be held.
pub(super) fn of(language: &str, preload: &[String]) -> Option<Hold> {
    // Node and bash cannot be given a variable late without having it differ from a start.
    let all = vec!["*".to_owned()];
    Some(match language {
        "python" => Hold {
            files: vec![("sitecustomize.py".to_owned(), python(preload))],
            variable: Some(HoldVariable { name: "PYTHONPATH".to_owned(), value: HOLD_DIR.to_owned(), before_others: true }),
            gate: Gate::Message,
            fixed: FIXED_FOR_PYTHON.iter().map(|name| (*name).to_owned()).collect(),
        },
        // Node opens the file itself when all that comes before is done.
        "node" => Hold { files: Vec::new(), variable: None, gate: Gate::Code, fixed: all },
        "bash" => Hold {
            files: Vec::new(),
            variable: Some(HoldVariable { name: "BASH_ENV".to_owned(), value: format!("{HOLD_DIR}/{GATE_FILE}"), before_others: false }),
            gate: Gate::Script(BASH.to_owned()),
            fixed: all,
        },
        _ => return None,
    })
}

fn python(preload: &[String]) -> String {
    // Names that `is_module` allows are literals as they are.
    let modules: Vec<String> = preload.iter().map(|name| format!("'{name}', ")).collect();
    format!("MODULES = ({})\n{PYTHON}", modules.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_have_the_names_of_modules() {
        for good in ["numpy", "a.b_c.D9", "_x"] {
            assert!(is_module(good), "{good}");
        }
        for bad in ["", ".", "a.", "a..b", "9a", "a-b", "a b", "a'", "a\n", "ä", &"x".repeat(65), &"a.".repeat(70)] {
            assert!(!is_module(bad), "{bad}");
        }
    }

    #[test]
    fn the_hook_is_told_what_to_load() {
        assert!(python(&["numpy".to_owned(), "a.b".to_owned()]).starts_with("MODULES = ('numpy', 'a.b', )\n"));
        assert!(python(&[]).starts_with("MODULES = ()\n"));
        assert!(can_be_ready("bash") && !can_be_ready("ruby"));
    }
}
