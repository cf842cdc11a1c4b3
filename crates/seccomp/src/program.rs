//! Compiling a table (`bpf(4)`-style classic BPF, include/uapi/linux/bpf_common.h; the data is `struct seccomp_data`).
//!
//! ```text
//! architecture? ──no──▶ kill
//!      │
//! number ─▶ binary search over ranges of numbers with one answer ─▶ answer
//!                                            └─▶ rules of one call ─▶ answer
//! ```

use crate::table::{Answer, Call, Condition, ENOSYS, Table, TableError};

/// `BPF_LD | BPF_W | BPF_ABS`: loads a word of the data.
pub(crate) const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
pub(crate) const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
pub(crate) const JUMP_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`.
pub(crate) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
/// `BPF_JMP | BPF_JA`.
pub(crate) const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`.
pub(crate) const RETURN: u16 = 0x06;

const RETURN_ALLOW: u32 = 0x7FFF_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `BPF_MAXINSNS`.
const LONGEST: usize = 4096;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// How many instructions to skip when a comparison holds, and when it does not.
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A filter as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(pub Vec<Instruction>);

impl Program {
    /// Compiles a table.
    pub fn compile(table: &Table) -> Result<Self, TableError> {
        let mut code = vec![
            plain(LOAD, ARCHITECTURE),
            Instruction { code: JUMP_EQUAL, jt: 1, jf: 0, k: table.architecture.audit() },
            plain(RETURN, returned(Answer::Kill)),
            plain(LOAD, NUMBER),
        ];
        code.extend(search(&ranges(table))?);
        if code.len() > LONGEST { Err(TableError::TooLong) } else { Ok(Self(code)) }
    }

    /// As records of `struct sock_filter` in this machine's byte order.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * 8);
        for Instruction { code, jt, jf, k } in &self.0 {
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes.extend_from_slice(&[*jt, *jf]);
            bytes.extend_from_slice(&k.to_ne_bytes());
        }
        bytes
    }
}

/// Numbers from `first` to the next range's first, and what they get.
struct Range {
    first: u32,
    code: Vec<Instruction>,
}

/// All numbers there are, in order. Neighbours without rules and with the same answer are one range.
fn ranges(table: &Table) -> Vec<Range> {
    let unknown = Answer::Errno(ENOSYS);
    let mut ranges: Vec<Range> = Vec::new();
    let mut add = |first: u32, code: Vec<Instruction>| {
        if ranges.last().is_none_or(|last| last.code != code) {
            ranges.push(Range { first, code });
        }
    };
    let mut next = 0;
    for (number, call) in &table.calls {
        if *number > next {
            add(next, answer(unknown));
        }
        add(*number, rules(call));
        next = number + 1;
    }
    add(next, answer(unknown));
    ranges
}

fn search(ranges: &[Range]) -> Result<Vec<Instruction>, TableError> {
    let [first] = ranges else {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let (left, right) = (search(low)?, search(high)?);
        let compare = |jt, jf| Instruction { code: JUMP_GREATER_OR_EQUAL, jt, jf, k: high[0].first };
        let mut code = match u8::try_from(left.len()) {
            Ok(length) => vec![compare(length, 0)],
            // Too far for a comparison, which jumps 255 at most.
            Err(_) => vec![compare(0, 1), plain(JUMP, u32::try_from(left.len()).map_err(|_| TableError::TooLong)?)],
        };
        code.extend(left);
        code.extend(right);
        return Ok(code);
    };
    Ok(first.code.clone())
}

/// The rules of one call, tried in order.
fn rules(call: &Call) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in &call.rules {
        let mut block = answer(rule.answer);
        for condition in rule.conditions.iter().rev() {
            // Where the condition does not hold, the rest of this rule is skipped.
            let mut test = compare(condition, block.len());
            test.append(&mut block);
            block = test;
        }
        code.extend(block);
    }
    code.extend(answer(call.otherwise));
    code
}

/// Goes on with the next instruction when the condition holds, and skips `rest` more when it does not.
fn compare(condition: &Condition, rest: usize) -> Vec<Instruction> {
    let Condition { argument, wide, mask, value, equal } = *condition;
    let offset = ARGUMENTS + 8 * u32::from(argument);
    let (low, high) = if cfg!(target_endian = "little") { (offset, offset + 4) } else { (offset + 4, offset) };
    let skip = u8::try_from(rest).expect("the rules of one call are short");
    let word = |offset: u32, shift: u32| {
        let part = |bits: u64| u32::try_from((bits >> shift) & u64::from(u32::MAX)).expect("32 bits");
        let mut code = vec![plain(LOAD, offset)];
        if part(mask) != u32::MAX {
            code.push(plain(AND, part(mask)));
        }
        (code, part(value))
    };
    let test = |value: u32, jt: u8, jf: u8| Instruction { code: JUMP_EQUAL, jt, jf, k: value };
    let (mut code, value_low) = word(low, 0);
    code.push(if equal { test(value_low, 0, skip) } else { test(value_low, skip, 0) });
    if !wide {
        return code;
    }
    let tail = code;
    let (mut code, value_high) = word(high, 32);
    let length = u8::try_from(tail.len()).expect("three instructions at most");
    // Different high words decide alone; the same ones leave it to the low words.
    code.push(if equal { test(value_high, 0, length + skip) } else { test(value_high, 0, length) });
    code.extend(tail);
    code
}

fn answer(answer: Answer) -> Vec<Instruction> {
    vec![plain(RETURN, returned(answer))]
}

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// `SECCOMP_RET_*`, include/uapi/linux/seccomp.h.
pub(crate) fn returned(answer: Answer) -> u32 {
    match answer {
        Answer::Allow => RETURN_ALLOW,
        Answer::Errno(errno) => RETURN_ERRNO | u32::from(errno),
        Answer::Kill => RETURN_KILL_PROCESS,
    }
}
