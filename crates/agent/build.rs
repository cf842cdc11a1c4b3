//! Compiles the two tables in `seccomp/` to the programs that the kernel takes (`seccomp(2)`), so that a launch parses nothing.

use std::{collections::BTreeMap, env, error::Error, fs, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// One file of `seccomp/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    group: Vec<Group>,
    #[serde(default)]
    rule: Vec<Rule>,
}

/// Calls that are taken whatever their arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    reason: String,
    only: Option<String>,
    calls: Vec<String>,
}

/// A call that is taken when its arguments are such.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    call: String,
    reason: String,
    r#where: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    argument: u8,
    bits: u8,
    mask: Option<u64>,
    is: Option<u64>,
    is_not: Option<u64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=seccomp");
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    compile("allowed", &architecture, json!({ "errno": ENOSYS }), json!("allow"))?;
    compile("refused", &architecture, json!("allow"), json!({ "errno": EPERM }))
}

fn compile(name: &str, architecture: &str, otherwise: Value, then: Value) -> Result<(), Box<dyn Error>> {
    let table: Table = toml::from_str(&fs::read_to_string(format!("seccomp/{name}.toml"))?)?;
    let mut seen = BTreeMap::new();
    let mut filter = Vec::new();
    for group in &table.group {
        if group.only.as_deref().is_some_and(|only| only != architecture) {
            continue;
        }
        for call in &group.calls {
            if let Some(before) = seen.insert(call.clone(), &group.reason) {
                return Err(format!("{name}: `{call}` stands twice, for `{before}` and `{}`", group.reason).into());
            }
            filter.push(json!({ "syscall": call }));
        }
    }
    for rule in &table.rule {
        if seen.contains_key(&rule.call) {
            return Err(format!("{name}: `{}` is in a group, so its rule `{}` says nothing", rule.call, rule.reason).into());
        }
        let conditions: Result<Vec<Value>, String> = rule.r#where.iter().map(|condition| condition.compile(rule)).collect();
        filter.push(json!({ "syscall": rule.call, "args": conditions? }));
    }
    let document = json!({ name: { "mismatch_action": otherwise, "match_action": then, "filter": filter } });
    let programs = seccompiler::compile_from_json(document.to_string().as_bytes(), architecture.try_into()?)?;
    let program = programs.get(name).ok_or("the compiler gave no program")?;
    let mut bytes = Vec::new();
    for instruction in program {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
        bytes.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join(format!("{name}.bpf")), bytes)?;
    Ok(())
}

impl Condition {
    fn compile(&self, rule: &Rule) -> Result<Value, String> {
        let width = match self.bits {
            32 => "dword",
            64 => "qword",
            _ => return Err(format!("`{}`: bits are 32 or 64", rule.reason)),
        };
        let (operator, value) = match (self.mask, self.is, self.is_not) {
            (None, Some(value), None) => (json!("eq"), value),
            (None, None, Some(value)) => (json!("ne"), value),
            (Some(mask), Some(value), None) => (json!({ "masked_eq": mask }), value),
            _ => return Err(format!("`{}`: a condition has `is`, `is_not`, or `mask` and `is`", rule.reason)),
        };
        Ok(json!({ "index": self.argument, "type": width, "op": operator, "val": value, "comment": rule.reason }))
    }
}
