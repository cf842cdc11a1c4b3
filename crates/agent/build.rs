//! Compiles the tables in `seccomp/` to the programs that the kernel takes, so that a launch parses nothing.

use std::{env, error::Error, fs, path::Path};

use caisson_seccomp::{Architecture, Program, Table};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=seccomp");
    let architecture = Architecture::named(&env::var("CARGO_CFG_TARGET_ARCH")?)?;
    let read = |name: &str| -> Result<Table, Box<dyn Error>> {
        Ok(Table::parse(&fs::read_to_string(format!("seccomp/{name}.toml"))?, architecture)?)
    };
    let user = read("user")?;
    let agent = user.clone().overridden_by(read("agent")?);
    for (name, table) in [("user", user), ("agent", agent)] {
        fs::write(Path::new(&env::var("OUT_DIR")?).join(format!("{name}.bpf")), Program::compile(&table)?.to_bytes())?;
    }
    Ok(())
}
