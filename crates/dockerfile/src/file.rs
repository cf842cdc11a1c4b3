//! A whole Dockerfile.

use crate::{
    Problem, Step, What,
    instruction::{self, Instruction},
    lines,
};

/// What a Dockerfile says. It has a stage at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What takes away a character's meaning.
    pub escape: char,
    /// `ARG`s in front of the first stage, with the lines they stand in.
    pub args: Vec<(usize, String, Option<String>)>,
    pub stages: Vec<Stage>,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub line: usize,
    /// `FROM` as it stands in the file.
    pub text: String,
    /// An image, an earlier stage, or `scratch`. Variables are not replaced yet.
    pub image: String,
    pub platform: Option<String>,
    pub name: Option<String>,
    pub steps: Vec<Step>,
}

impl Dockerfile {
    /// Which stage before `before` is called this, or has this number where numbers count.
    #[must_use]
    pub fn stage(&self, name: &str, before: usize, numbers: bool) -> Option<usize> {
        let by_name =
            self.stages[..before].iter().rposition(|stage| stage.name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name)));
        by_name.or_else(|| name.parse().ok().filter(|number| numbers && *number < before))
    }
}

/// Reads a Dockerfile. All that cannot be built is told.
pub fn parse(text: &str) -> Result<Dockerfile, Vec<Problem>> {
    let (escape, lines) = lines::split(text).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let (mut args, mut stages) = (Vec::new(), Vec::<Stage>::new());
    for line in lines {
        let instruction = match instruction::read(&line, escape) {
            Ok(instruction) => instruction,
            Err(message) => {
                problems.push(Problem::new(line.number, message));
                continue;
            }
        };
        match (instruction, stages.last_mut()) {
            (Instruction::From { image, platform, name }, _) => {
                if name.is_some() && stages.iter().any(|stage| stage.name == name) {
                    problems.push(Problem::new(line.number, format!("there is a stage `{}` already", name.clone().unwrap_or_default())));
                }
                stages.push(Stage { line: line.number, text: line.text, image, platform, name, steps: Vec::new() });
            }
            (Instruction::Step(what), Some(stage)) => stage.steps.push(Step { line: line.number, text: line.text, what }),
            (Instruction::Step(What::Arg(names)), None) => {
                args.extend(names.into_iter().map(|(name, default)| (line.number, name, default)));
            }
            (Instruction::Step(_), None) => problems.push(Problem::new(line.number, "in front of the first FROM there may be ARG alone")),
        }
    }
    if stages.is_empty() && problems.is_empty() {
        problems.push(Problem::new(text.lines().count().max(1), "there is no FROM, so there is nothing to build"));
    }
    if problems.is_empty() { Ok(Dockerfile { escape, args, stages }) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stages_have_steps() {
        let file = parse("ARG V=1\nFROM a:$V AS first\nRUN x\n\nFROM first\nCOPY --from=0 a b\n").unwrap();
        assert_eq!(file.args, [(1, "V".to_owned(), Some("1".to_owned()))]);
        let lines: Vec<_> =
            file.stages.iter().map(|stage| (stage.line, stage.image.as_str(), stage.steps.len(), stage.steps[0].line)).collect();
        assert_eq!(lines, [(2, "a:$V", 1, 3), (5, "first", 1, 6)]);
        assert_eq!(file.stage("FIRST", 1, false), Some(0));
        assert_eq!(
            (file.stage("first", 0, true), file.stage("0", 1, true), file.stage("0", 1, false), file.stage("1", 1, true)),
            (None, Some(0), None, None)
        );
    }

    #[test]
    fn all_problems_are_told_by_their_lines() {
        let told = |file: &str| parse(file).unwrap_err().iter().map(|problem| problem.line).collect::<Vec<_>>();
        assert_eq!(told("RUN x\nFROM a\nVOLUME /x\nRUN \\\n y\nFROM b as c\nFROM d as c\nHEALTHCHECK NONE\n"), [1, 3, 7, 8]);
        assert_eq!(told(""), [1]);
        assert_eq!(told("# only this\nARG A\n"), [2]);
        assert_eq!(parse("FROM a\nVOLUME /x").unwrap_err()[0].to_string().split(':').next(), Some("line 2"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "(FROM|RUN|COPY|ENV|ARG|ADD|LABEL|#|<<|EOF|[ =\\[\\]\"'$\\\\\n-]|[a-z]){0,40}") {
            parse(&text).ok();
        }
    }
}
