//! Which stages have to be built, and what they begin with. Found out before anything runs.

use std::collections::BTreeSet;

use caisson_dockerfile::{Dockerfile, Problem, What};

use super::scope::Globals;

/// What a stage begins with, or a copy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    Image(String),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Plan {
    /// Of every stage.
    pub(super) bases: Vec<Base>,
    /// Those that are needed, in order. The last one is what the build is about.
    pub(super) needed: Vec<usize>,
}

impl Plan {
    pub(super) fn new(file: &Dockerfile, globals: &Globals, target: Option<&str>) -> Result<Self, Vec<Problem>> {
        let count = file.stages.len();
        let target = match target {
            None => count - 1,
            Some(name) => file.stage(name, count, true).ok_or_else(|| {
                let known: Vec<_> = file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
                let known = if known.is_empty() { "none has a name".to_owned() } else { format!("there are {}", known.join(", ")) };
                vec![Problem { line: 1, message: format!("there is no stage `{name}` (--target); {known}") }]
            })?,
        };
        let (mut bases, mut problems) = (Vec::new(), Vec::new());
        for (index, stage) in file.stages.iter().enumerate() {
            match base(file, globals, index) {
                Ok(base) => bases.push(base),
                Err(problem) => {
                    problems.push(problem);
                    bases.push(Base::Scratch);
                }
            }
            for step in &stage.steps {
                if let What::Copy(copy) = &step.what
                    && let Some(Err(message)) = copy.from.as_deref().map(|from| source(file, from, index))
                {
                    problems.push(Problem { line: step.line, message });
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut needed = BTreeSet::from([target]);
        // Whatever a stage needs is in front of it.
        for index in (0..=target).rev().filter(|index| *index < count) {
            if !needed.contains(&index) {
                continue;
            }
            let copies = file.stages[index].steps.iter().filter_map(|step| match &step.what {
                What::Copy(copy) => source(file, copy.from.as_deref()?, index).ok(),
                _ => None,
            });
            let all: Vec<_> = copies.chain([bases[index].clone()]).collect();
            needed.extend(all.into_iter().filter_map(|base| if let Base::Stage(stage) = base { Some(stage) } else { None }));
        }
        Ok(Self { bases, needed: needed.into_iter().collect() })
    }
}

fn base(file: &Dockerfile, globals: &Globals, index: usize) -> Result<Base, Problem> {
    let stage = &file.stages[index];
    let problem = |message: String| Problem { line: stage.line, message };
    if let Some(platform) = &stage.platform {
        let platform = globals.expand(stage.line, platform)?;
        if !platform.is_empty() && !globals.is_ours(&platform) {
            return Err(problem(format!(
                "images of `{platform}` cannot be built on this machine; leave --platform out, or build it there"
            )));
        }
    }
    let image = globals.expand(stage.line, &stage.image)?;
    if image == "scratch" {
        return Ok(Base::Scratch);
    }
    if let Some(stage) = file.stage(&image, index, false) {
        return Ok(Base::Stage(stage));
    }
    if image == "host" {
        return Err(problem("`host` is no image that others can be made of; begin with one of a registry, or with scratch".to_owned()));
    }
    match image.parse::<caisson_image::Reference>() {
        Ok(_) => Ok(Base::Image(image)),
        Err(_) if image.is_empty() => Err(problem(format!("`{}` is empty; an ARG in front of the first FROM has to say it", stage.image))),
        Err(error) => Err(problem(error.to_string())),
    }
}

/// Where `COPY --from` copies from, in a stage.
pub(super) fn source(file: &Dockerfile, from: &str, stage: usize) -> Result<Base, String> {
    if let Some(source) = file.stage(from, stage, true) {
        return Ok(Base::Stage(source));
    }
    if from.bytes().all(|byte| byte.is_ascii_digit()) || file.stage(from, file.stages.len(), false).is_some() {
        return Err(format!("there is no stage `{from}` in front of this one"));
    }
    if from.contains('$') {
        return Err("variables are not supported in COPY --from; name a stage that begins with `FROM $…`".to_owned());
    }
    match from.parse::<caisson_image::Reference>() {
        Ok(_) => Ok(Base::Image(from.to_owned())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, target: Option<&str>) -> Result<Plan, Vec<Problem>> {
        let file = caisson_dockerfile::parse(text).unwrap();
        let globals = Globals::new(&file, std::collections::BTreeMap::new()).unwrap();
        Plan::new(&file, &globals, target)
    }

    const FILE: &str =
        "ARG V=3\nFROM alpine:$V AS a\nFROM scratch AS b\nFROM a AS c\nFROM c\nCOPY --from=b x y\nCOPY --from=other.example/x x y\n";

    #[test]
    fn only_what_is_needed_is_built() {
        let all = plan(FILE, None).unwrap();
        assert_eq!(all.bases, [Base::Image("alpine:3".to_owned()), Base::Scratch, Base::Stage(0), Base::Stage(2)]);
        assert_eq!(all.needed, [0, 1, 2, 3]);
        assert_eq!(plan(FILE, Some("c")).unwrap().needed, [0, 2]);
        assert_eq!(plan(FILE, Some("1")).unwrap().needed, [1]);
        assert!(plan(FILE, Some("d")).unwrap_err()[0].message.contains("a, b, c"));
    }

    #[test]
    fn what_cannot_be_found_is_refused_by_its_line() {
        for (text, line, word) in [
            ("FROM $NONE", 1, "is empty"),
            ("FROM --platform=linux/s390x a", 1, "s390x"),
            ("FROM UPPER", 1, "UPPER"),
            ("FROM host", 1, "host"),
            ("FROM a\nCOPY --from=0 x y", 2, "in front of"),
            ("FROM a\nCOPY --from=7 x y", 2, "in front of"),
            ("FROM a\nCOPY --from=b x y\nFROM a AS b", 2, "in front of"),
            ("FROM a\nCOPY --from=$X x y", 2, "variables"),
            ("FROM a\nCOPY --from=A/B x y", 2, "A/B"),
        ] {
            let problems = plan(text, None).unwrap_err();
            assert!(problems[0].line == line && problems[0].message.contains(word), "{text}: {problems:?}");
        }
        assert!(plan("FROM --platform=$BUILDPLATFORM a", None).is_ok());
    }
}
