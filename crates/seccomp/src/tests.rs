use std::collections::BTreeSet;

use crate::{
    Answer, Architecture, Call, Condition, Program, Table, TableError,
    program::{AND, JUMP, JUMP_EQUAL, JUMP_GREATER_OR_EQUAL, LOAD, RETURN, returned},
};

/// The table of user code, as shipped.
const USER: &str = include_str!("../../agent/seccomp/user.toml");
/// What the agent may beyond it.
const AGENT: &str = include_str!("../../agent/seccomp/agent.toml");

/// What the kernel sees of a call.
#[derive(Debug, Clone, Copy)]
struct Made {
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Made {
    fn word(&self, offset: u32) -> u32 {
        let mut data = Vec::new();
        data.extend(self.number.to_le_bytes());
        data.extend(self.architecture.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        data.extend(self.arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let at = usize::try_from(offset).unwrap();
        u32::from_le_bytes(data[at..at + 4].try_into().unwrap())
    }
}

/// Runs a program as the kernel would.
fn run(program: &Program, made: &Made) -> u32 {
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let instruction = program.0[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
        match instruction.code {
            LOAD => accumulator = made.word(instruction.k),
            AND => accumulator &= instruction.k,
            JUMP => at += usize::try_from(instruction.k).unwrap(),
            JUMP_EQUAL => at += branch(accumulator == instruction.k),
            JUMP_GREATER_OR_EQUAL => at += branch(accumulator >= instruction.k),
            RETURN => return instruction.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What the table says, read without compiling it.
fn expected(table: &Table, made: &Made) -> u32 {
    let holds = |condition: &Condition| {
        let argument = made.arguments[usize::from(condition.argument)];
        let argument = if condition.wide { argument } else { argument & u64::from(u32::MAX) };
        (argument & condition.mask == condition.value) == condition.equal
    };
    let answer = table.calls.get(&made.number).map_or(Answer::Errno(38), |call| {
        call.rules.iter().find(|rule| rule.conditions.iter().all(holds)).map_or(call.otherwise, |rule| rule.answer)
    });
    returned(answer)
}

/// Values at which the conditions of a call may change their mind.
fn interesting(call: &Call) -> Vec<u64> {
    let mut values = BTreeSet::from([0, 1, 2, 3, u64::from(u32::MAX), u64::MAX, 1 << 32]);
    for condition in call.rules.iter().flat_map(|rule| &rule.conditions) {
        for value in [condition.value, condition.mask] {
            values.extend([value, value ^ 1, value | 1 << 32, value | 0xDEAD_BEEF << 32, !value, value | 0x8_0000]);
        }
        // Of a mask over everything, each bit would say no more than these do.
        let few = if condition.mask.count_ones() < 32 { condition.mask } else { 0 };
        values.extend((0..64).map(|bit| few & 1 << bit).filter(|bit| *bit != 0));
    }
    values.into_iter().collect()
}

#[test]
fn the_program_says_what_the_table_says_for_every_call_and_argument() {
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        let table = Table::parse(USER, architecture).unwrap();
        let program = Program::compile(&table).unwrap();
        let unknown = Call { rules: Vec::new(), otherwise: Answer::Errno(38) };
        for number in (0..700).chain([0x3FFF_FFFF, 0x4000_0000, 0x4000_0001, 0x4000_0200, u32::MAX]) {
            let call = table.calls.get(&number).unwrap_or(&unknown);
            let used: BTreeSet<u8> = call.rules.iter().flat_map(|rule| &rule.conditions).map(|condition| condition.argument).collect();
            let mut made = vec![Made { architecture: architecture.audit(), number, arguments: [7; 6] }];
            for argument in used {
                let with = |made: Made, value| {
                    let mut arguments = made.arguments;
                    arguments[usize::from(argument)] = value;
                    Made { arguments, ..made }
                };
                made = made.into_iter().flat_map(|made| interesting(call).into_iter().map(move |value| with(made, value))).collect();
            }
            for made in made {
                assert_eq!(run(&program, &made), expected(&table, &made), "{made:?}");
            }
        }
    }
}

#[test]
fn sockets_are_made_of_the_protocols_that_stand_in_the_table_alone() {
    let table = Table::parse(USER, Architecture::X86_64).unwrap();
    let program = Program::compile(&table).unwrap();
    const FLAGS: u64 = 0o2_004_000;
    for (call, number) in [("socket", 41), ("socketpair", 53)] {
        for family in 0..64 {
            for kind in 0..16 {
                for protocol in 0..300 {
                    let unix = family == 1 && matches!(protocol, 0 | 1);
                    let internet = matches!(family, 2 | 10) && matches!((kind, protocol), (1, 0 | 6) | (2, 0 | 17));
                    let wanted = unix || (call == "socket" && internet);
                    let refused = Answer::Errno(if call == "socket" && family == 16 { 95 } else { 1 });
                    let wanted = returned(if wanted { Answer::Allow } else { refused });
                    for high in [0, 0xDEAD_BEEF << 32] {
                        let arguments = [family | high, kind | FLAGS | high, protocol | high, 0, 0, 0];
                        let made = Made { architecture: Architecture::X86_64.audit(), number, arguments };
                        assert_eq!(run(&program, &made), wanted, "{call}: {made:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn another_architecture_ends_the_process() {
    let table = Table::parse(USER, Architecture::X86_64).unwrap();
    let program = Program::compile(&table).unwrap();
    // i386, as by `int 0x80`, and aarch64.
    for architecture in [0x4000_0003, 0xC000_00B7, 0] {
        let made = Made { architecture, number: 0, arguments: [0; 6] };
        assert_eq!(run(&program, &made), returned(Answer::Kill));
    }
}

#[test]
fn calls_of_the_x32_abi_do_not_exist() {
    let table = Table::parse(USER, Architecture::X86_64).unwrap();
    let program = Program::compile(&table).unwrap();
    for number in 0..600 {
        let made = Made { architecture: Architecture::X86_64.audit(), number: 0x4000_0000 | number, arguments: [0; 6] };
        assert_eq!(run(&program, &made), returned(Answer::Errno(38)), "{number}");
    }
}

#[test]
fn a_call_costs_few_instructions_wherever_it_stands() {
    let table = Table::parse(USER, Architecture::X86_64).unwrap();
    let program = Program::compile(&table).unwrap();
    assert!(program.0.len() < 700, "{} instructions", program.0.len());
}

#[test]
fn conditions_of_64_bits_look_at_both_halves() {
    let text = r#"
        [[rule]]
        call = "read"
        reason = "equal"
        where = [{ argument = 0, bits = 64, is = 0x100000002 }]
        [[rule]]
        call = "write"
        reason = "different"
        where = [{ argument = 0, bits = 64, is_not = 0x100000002 }]
    "#;
    let table = Table::parse(text, Architecture::X86_64).unwrap();
    let program = Program::compile(&table).unwrap();
    for value in [0x1_0000_0002, 2, 0x1_0000_0000, 0, 0x2_0000_0002] {
        for number in [0, 1] {
            let made = Made { architecture: Architecture::X86_64.audit(), number, arguments: [value; 6] };
            let allowed = (value == 0x1_0000_0002) == (number == 0);
            assert_eq!(run(&program, &made), returned(if allowed { Answer::Allow } else { Answer::Errno(1) }), "{made:?}");
        }
    }
}

#[test]
fn mistakes_in_a_table_are_named() {
    let parse = |text: &str| Table::parse(text, Architecture::X86_64).unwrap_err();
    let group = |calls: &str| format!("[[group]]\nreason = \"r\"\ncalls = [{calls}]\n");
    let rule = |condition: &str| format!("[[rule]]\ncall = \"read\"\nreason = \"r\"\nwhere = [{condition}]\n");
    assert!(matches!(parse(&group("\"raed\"")), TableError::UnknownCall { call, .. } if call == "raed"));
    assert!(matches!(parse(&group("\"read\", \"read\"")), TableError::Twice { call, .. } if call == "read"));
    assert!(matches!(parse("[[group]]\nreason = \"r\"\nerrno = \"EWRONG\"\ncalls = []\n"), TableError::Errno { .. }));
    assert!(matches!(parse("[[group]]\nwhy = \"r\"\ncalls = []\n"), TableError::Syntax(_)));
    for condition in [
        "",
        "{ argument = 6, bits = 32, is = 1 }",
        "{ argument = 0, bits = 16, is = 1 }",
        "{ argument = 0, bits = 32 }",
        "{ argument = 0, bits = 32, is = 1, is_not = 2 }",
        "{ argument = 0, bits = 32, is = 0x100000000 }",
        "{ argument = 0, bits = 64, mask = 1, is = 2 }",
    ] {
        assert!(matches!(parse(&rule(condition)), TableError::Condition { .. }), "{condition}");
    }
}

#[test]
fn the_agent_may_what_user_code_may_and_little_more() {
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        let user = Table::parse(USER, architecture).unwrap();
        let agent = user.clone().overridden_by(Table::parse(AGENT, architecture).unwrap());
        let different: Vec<u32> = agent.calls.keys().copied().filter(|number| agent.calls.get(number) != user.calls.get(number)).collect();
        assert_eq!(different.len(), 3, "{different:?}");
        let program = Program::compile(&agent).unwrap();
        let unshare = |flags: u64| {
            let number = if architecture == Architecture::X86_64 { 272 } else { 97 };
            run(&program, &Made { architecture: architecture.audit(), number, arguments: [flags; 6] })
        };
        assert_eq!(unshare(0x200_0000), returned(Answer::Allow));
        for flags in [0, 0x1000_0000, 0x1200_0000, 0x2_0000, 0x1_0200_0000] {
            assert_eq!(unshare(flags), returned(Answer::Errno(1)), "{flags:#x}");
        }
        let setns = |kind: u64| {
            let number = if architecture == Architecture::X86_64 { 308 } else { 268 };
            run(&program, &Made { architecture: architecture.audit(), number, arguments: [5, kind, 0, 0, 0, 0] })
        };
        assert_eq!(setns(0x1000_0000), returned(Answer::Allow));
        // Any kind, each other kind, more than one, and 32 bits too many.
        for kind in [0, 0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x2000_0000, 0x4000_0000, 0x1002_0000, 0x1_1000_0000] {
            assert_eq!(setns(kind), returned(Answer::Errno(1)), "{kind:#x}");
        }
    }
}
