//! Compiles the table in `seccomp/` to the program that the kernel takes.

use std::{env, error::Error, fs, path::Path};

use caisson_seccomp::{Architecture, Program, Table};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=seccomp");
    let architecture = Architecture::named(&env::var("CARGO_CFG_TARGET_ARCH")?)?;
    let table = Table::parse(&fs::read_to_string("seccomp/walker.toml")?, architecture)?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("walker.bpf"), Program::compile(&table)?.to_bytes())?;
    Ok(())
}
